#pragma once

#include <filesystem>
#include <vector>

#include "jobs/compression_settings.h"
#include "jobs/result.h"
#include "worker/adapters/adapter.h"
#include "worker/kernels/parameter.h"
#include "worker/training/pruning.h"

namespace finesweep::worker {

// Masks of what a prune step has pruned, in the artifacts of that step and of those that train what it left.

/// The file in an artifact: a uint8 tensor for each pruned one, under its name and in its shape; 1 where a value is
/// kept.
inline constexpr const char* kMasksName = "masks.safetensors";

Result<NamedMasks> read_masks(const std::filesystem::path& file);
/// Where there are none, no file.
Status write_masks(const NamedMasks& masks, const std::filesystem::path& artifact);

/// Prunes those of the parameters that the masks name, and says which they are.
std::vector<ParameterMask> apply_masks(const NamedMasks& masks, const std::vector<Parameter*>& parameters);
NamedMasks named(const std::vector<ParameterMask>& masks);
/// What either prunes.
NamedMasks both(const NamedMasks& masks, const NamedMasks& earlier);

/// Masks on an adapter as it stands, before it is trained; with those that it has already. The head has none.
Result<NamedMasks> masks_before_training(const Adapter& adapter, const PruneSettings& settings,
                                         const NamedMasks& earlier);

}  // namespace finesweep::worker
