#pragma once

#include <ATen/ops/reshape.h>

#include <cstdint>

namespace finesweep::worker {

/// convert_hf_to_gguf.py, LlamaModel.permute.
inline at::Tensor permuted(const at::Tensor& w, std::int64_t heads) {
  return w.reshape({heads, 2, w.size(0) / heads / 2, -1}).transpose(1, 2).reshape(w.sizes());
}

}  // namespace finesweep::worker
