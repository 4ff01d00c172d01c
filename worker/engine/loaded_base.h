#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "jobs/result.h"
#include "worker/models/base_quantization.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// Frozen weights as a job wants them.
struct BaseRequest {
  std::filesystem::path path;  // a Hugging Face directory, or a GGUF file
  at::ScalarType storage = at::kFloat;
  std::optional<BaseQuantization> quantization;
};

/// Tells the files that a model is loaded from (or a file) from others and from what they were before: names,
/// sizes, times.
std::string fingerprint(const std::filesystem::path& path);

/// The frozen weights that a job's model is made of. They stay loaded from job to job while request, files and
/// device are the same, one model at a time; not where the job makes them its own: they would stand in memory
/// twice. The peak of memory is counted from here on.
enum class KeepLoaded { yes, no };
Result<std::shared_ptr<const Pretrained>> load_base(const BaseRequest& request, c10::Device device,
                                                    KeepLoaded keep);
/// Begins, on a thread of its own, what load_base() will be asked for, to be kept; on a GPU alone. Whatever comes
/// of it, that says.
void begin_load_base(const BaseRequest& request, c10::Device device);
/// Nothing stays loaded.
void forget_base();

/// What stands on the base that stays loaded, and goes when that does: of whoever left it there last.
std::shared_ptr<void>& kept_beside_base();

}  // namespace finesweep::worker
