#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/quantization/nf4.h"

namespace finesweep::worker {

// NF4 as bitsandbytes keeps it in a safetensors file: beside "NAME" (the packed values, [n, 1] uint8) stand
// "NAME.absmax", "NAME.quant_map", "NAME.nested_absmax", "NAME.nested_quant_map" and
// "NAME.quant_state.bitsandbytes__nf4", JSON as bytes.

/// The tensor whose presence says that `name` is NF4.
std::string nf4_state_name(std::string_view name);

/// The tensors to write; the same bytes as bitsandbytes writes.
std::vector<std::pair<std::string, at::Tensor>> nf4_to_bitsandbytes(const std::string& name,
                                                                    const Nf4Tensor& tensor);

/// Reads a tensor of a file by its name.
using ReadTensor = std::function<Result<at::Tensor>(std::string_view name)>;

/// Reads `name` and what stands beside it, checked against one another: afterwards every block has its scale. The
/// Error is that of `read`, or names the tensor and what is wrong with it.
Result<Nf4Tensor> nf4_from_bitsandbytes(const std::string& name, const ReadTensor& read);

}  // namespace finesweep::worker
