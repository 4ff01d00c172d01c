#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace finesweep::coordinator {

/// The first of `candidates` that is a folder this process may write to, on a file system of this host alone.
std::optional<std::filesystem::path> choose_scratch(
    const std::vector<std::filesystem::path>& candidates,
    const std::function<bool(const std::filesystem::path&)>& is_local);

/// Where the folder for temporary files (TMPDIR) lies on a network file system, as on clusters whose nodes have it
/// there by default, or is not there: points TMPDIR, and the folder in which CUDA keeps compiled kernels, to a
/// folder of this host, for this process and those that it starts. To be called before MPI starts. What is to
/// outlive a node (checkpoints, artifacts) goes into the run directory and never here.
void use_local_scratch();

}  // namespace finesweep::coordinator
