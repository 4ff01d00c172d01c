#pragma once

#include "worker/kernels/cuda/decode.cuh"

namespace finesweep_decode {

/// The product is one of 17 to 64 tokens in bf16 or fp16 with tens of thousands of outputs, nothing but a bias
/// beside it, and the tokens' values fit a multiprocessor's shared memory.
bool has_many_outputs(const FinesweepDecodeLinear& p);
/// Of such a product; a cudaError_t.
int linear_of_many_outputs(const FinesweepDecodeLinear& p, void* stream);

}  // namespace finesweep_decode
