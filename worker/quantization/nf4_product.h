#pragma once

#include <ATen/core/Tensor.h>

#include "worker/quantization/nf4.h"

namespace finesweep::worker {

// Products with a weight that stays quantised, w [out, in], without ever holding all of it. The same numbers as
// dequantize(w, dtype of x) and then a product, to rounding.
//
// On a CPU the weight is dequantised by panels that stay in the cache until they have been multiplied. For few
// tokens in fp32, where reading the weight is what takes time, no panel is written at all: codes are looked up on
// the way into the sum, so a weight costs half a byte of memory traffic instead of four. So it is on a GPU up to
// eight tokens; else the whole matrix is dequantised there, by a kernel of ours.

/// x wᵀ.  x [tokens, in] fp32 | bf16 | fp16 → [tokens, out]
at::Tensor product_with_nf4(const at::Tensor& x, const Nf4Tensor& w);

/// dy w: the way back of it.  dy [tokens, out] → [tokens, in]
at::Tensor product_with_transposed_nf4(const at::Tensor& dy, const Nf4Tensor& w);

}  // namespace finesweep::worker
