#include "worker/quantization/nf4_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "worker/quantization/nf4_vector.h"

namespace finesweep::worker::cpu {
namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(8)));

std::array<float, 15> bounds_between_levels() {
  std::array<float, 15> bounds;
  for (int i = 0; i < 15; ++i) bounds[i] = (nf4_levels()[i] + nf4_levels()[i + 1]) / 2;
  return bounds;
}

FINESWEEP_INLINE void encode_values(const float* values, std::int64_t count, float factor, float divisor,
                                    const float* bounds, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < count; i += kCodes) {
    const bool whole = i + kCodes <= count;
    const EightFloats v = whole ? load_eight(values + i) : load_eight(values + i, count - i);
    const EightFloats scaled = v * factor / divisor;
    EightInts code{};
    // A comparison that holds is -1.
    for (int b = 0; b < 15; ++b) code -= scaled > EightFloats{} + bounds[b];
    const Bytes bytes = __builtin_convertvector(code, Bytes);
    std::memcpy(codes + i, &bytes, whole ? sizeof(bytes) : static_cast<std::size_t>(count - i));
  }
}

/// A smaller divisor would have no finite inverse. NaN stays: all codes of the block are 0 then.
FINESWEEP_INLINE float divisor_of(float absmax) {
  return absmax < 1e-38f ? 1e-38f : absmax;
}

FINESWEEP_CLONES void encode_blocks_clone(const float* values, std::int64_t blocks, std::int64_t block_size,
                                          const float* bounds, float* absmax, std::uint8_t* codes) {
  for (std::int64_t b = 0; b < blocks; ++b) {
    absmax[b] = absmax_of(values + b * block_size, block_size);
    encode_values(values + b * block_size, block_size, 1 / divisor_of(absmax[b]), 1, bounds,
                  codes + b * block_size);
  }
}

FINESWEEP_CLONES void encode_last_clone(const float* values, std::int64_t count, const float* bounds, float* absmax,
                                        std::uint8_t* codes) {
  *absmax = absmax_of(values, count);
  encode_values(values, count, 1, divisor_of(*absmax), bounds, codes);
}

FINESWEEP_CLONES void pack_clone(const std::uint8_t* codes, std::int64_t pairs, std::uint8_t* packed) {
  for (std::int64_t i = 0; i < pairs; ++i) {
    packed[i] = static_cast<std::uint8_t>(codes[2 * i] << 4 | codes[2 * i + 1]);
  }
}

template <typename T>
FINESWEEP_INLINE void decode(const std::uint8_t* packed, std::int64_t block_size, const float* scales,
                             const float* levels, std::int64_t begin, std::int64_t end, T* to) {
  const Levels table = load_levels(levels);
  std::int64_t block_end = begin / block_size * block_size + block_size;
  for (std::int64_t i = begin; i < end; block_end += block_size) {
    const std::int64_t stop = block_end < end ? block_end : end;
    const float scale = *scales++;
    if (i % 2 != 0) {
      *to++ = static_cast<T>(levels[packed[i / 2] & 15] * scale);
      ++i;
    }
    for (; i + kCodes <= stop; i += kCodes, to += kCodes) store_eight(to, look_up(table, packed + i / 2) * scale);
    for (; i < stop; ++i) {
      const int code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
      *to++ = static_cast<T>(levels[code] * scale);
    }
  }
}

#define FINESWEEP_NF4_CLONES(T)                                                                                \
  FINESWEEP_CLONES void decode_clone(const std::uint8_t* packed, std::int64_t block_size, const float* scales, \
                                     const float* levels, std::int64_t begin, std::int64_t end, T* to) {       \
    decode(packed, block_size, scales, levels, begin, end, to);                                                \
  }
FINESWEEP_NF4_CLONES(float)
FINESWEEP_NF4_CLONES(c10::BFloat16)
FINESWEEP_NF4_CLONES(c10::Half)

}  // namespace

void encode_blocks(const float* values, std::int64_t blocks, std::int64_t block_size, float* absmax,
                   std::uint8_t* codes) {
  static const std::array<float, 15> bounds = bounds_between_levels();
  encode_blocks_clone(values, blocks, block_size, bounds.data(), absmax, codes);
}

void encode_last_block(const float* values, std::int64_t count, float* absmax, std::uint8_t* codes) {
  static const std::array<float, 15> bounds = bounds_between_levels();
  encode_last_clone(values, count, bounds.data(), absmax, codes);
}

void pack_codes(const std::uint8_t* codes, std::int64_t pairs, std::uint8_t* packed) {
  pack_clone(codes, pairs, packed);
}

Nf4View view_of(const Nf4Tensor& tensor) {
  Nf4View view;
  view.packed = tensor.packed.const_data_ptr<std::uint8_t>();
  view.block_size = tensor.block_size;
  if (!tensor.nested) {
    view.absmax = tensor.absmax.const_data_ptr<float>();
    return view;
  }
  view.nested_codes = tensor.nested->codes.const_data_ptr<std::uint8_t>();
  view.nested_absmax = tensor.nested->absmax.const_data_ptr<float>();
  view.nested_map = tensor.nested->map.const_data_ptr<float>();
  view.nested_block_size = tensor.nested->block_size;
  view.offset = tensor.nested->offset;
  return view;
}

void scales_of_blocks(const Nf4View& view, std::int64_t first, std::int64_t count, float* scales) {
  if (view.absmax != nullptr) {
    std::copy_n(view.absmax + first, count, scales);
    return;
  }
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t nested = (first + i) / view.nested_block_size;
    const std::int64_t stop = std::min(count, (nested + 1) * view.nested_block_size - first);
    const float absmax = view.nested_absmax[nested];
    for (; i < stop; ++i) scales[i] = view.nested_map[view.nested_codes[first + i]] * absmax + view.offset;
  }
}

template <typename T>
void decode_range(const Nf4View& view, std::int64_t begin, std::int64_t end, T* to) {
  constexpr std::int64_t kMostScales = 256;
  float scales[kMostScales];
  while (begin < end) {
    const std::int64_t first = begin / view.block_size;
    const std::int64_t last = std::min((end + view.block_size - 1) / view.block_size, first + kMostScales);
    const std::int64_t stop = std::min(end, last * view.block_size);
    scales_of_blocks(view, first, last - first, scales);
    decode_clone(view.packed, view.block_size, scales, nf4_levels(), begin, stop, to);
    to += stop - begin;
    begin = stop;
  }
}
template void decode_range(const Nf4View&, std::int64_t, std::int64_t, float*);
template void decode_range(const Nf4View&, std::int64_t, std::int64_t, c10::BFloat16*);
template void decode_range(const Nf4View&, std::int64_t, std::int64_t, c10::Half*);

}  // namespace finesweep::worker::cpu
