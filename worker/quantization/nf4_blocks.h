#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

#include "worker/quantization/nf4.h"

namespace finesweep::worker::cpu {

// The vectorised kernels of NF4: pointers and sizes, one thread.

/// absmax [blocks] and codes, one a byte, [blocks × block_size]; a whole block.  values finite or not.
///
/// The codes are numbers of the 15 bounds between neighbouring levels that value / absmax exceeds: 15 comparisons
/// of 16 lanes, which is quicker than a search.
void encode_blocks(const float* values, std::int64_t blocks, std::int64_t block_size, float* absmax,
                   std::uint8_t* codes);
/// The same for one short block, which bitsandbytes divides where it multiplies whole ones by the inverse.
void encode_last_block(const float* values, std::int64_t count, float* absmax, std::uint8_t* codes);
/// Two codes a byte, the first in the high nibble.
void pack_codes(const std::uint8_t* codes, std::int64_t pairs, std::uint8_t* packed);

/// Where a matrix lies in memory.
struct Nf4View {
  const std::uint8_t* packed = nullptr;
  std::int64_t block_size = 64;
  const float* absmax = nullptr;  // null where the following have it
  const std::uint8_t* nested_codes = nullptr;
  const float* nested_absmax = nullptr;
  const float* nested_map = nullptr;
  std::int64_t nested_block_size = 256;
  float offset = 0;
};
/// Of a tensor on the CPU, which must outlive it.
Nf4View view_of(const Nf4Tensor& tensor);

/// absmax of the blocks [first, first + count).
void scales_of_blocks(const Nf4View& view, std::int64_t first, std::int64_t count, float* scales);

/// Values [begin, end) of the flattened matrix. T: float, c10::BFloat16 or c10::Half.
template <typename T>
void decode_range(const Nf4View& view, std::int64_t begin, std::int64_t end, T* to);

}  // namespace finesweep::worker::cpu
