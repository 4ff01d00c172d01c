#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "worker/formats/gguf_header.h"

namespace finesweep::worker {

// The values of ggml's blocks, bit for bit as the gguf Python package gives them (its quants.py).

/// F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
bool can_decode(const GgufType& type);

/// `blocks` blocks of a type that can be decoded, at any alignment, to blocks × block_elements values.
void decode_gguf_blocks(const GgufType& type, const std::uint8_t* from, std::int64_t blocks, float* to);
/// The same, rounded to nearest, ties to even.
void decode_gguf_blocks(const GgufType& type, const std::uint8_t* from, std::int64_t blocks, c10::BFloat16* to);

}  // namespace finesweep::worker
