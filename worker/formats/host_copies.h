#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace finesweep::worker {

/// The same tensors with copies of what they hold now, in the host's memory: what happens to the given ones later
/// does not change them. Those of a device are copied in one piece for each dtype, as a file's hundred small ones
/// would wait for it a hundred times.
std::vector<std::pair<std::string, at::Tensor>> copies_on_host(
    const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace finesweep::worker
