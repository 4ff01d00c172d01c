#include "worker/formats/gguf_blocks.h"

#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker {
namespace {

// Every product below is exact in fp32 (11 bits of a half, at most 8 of a scale, at most 5 of a value), so each
// result is rounded at most once, and the compiler may fuse multiplications with additions without changing a bit.

FINESWEEP_INLINE float half_at(const std::uint8_t* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return c10::detail::fp16_ieee_to_fp32_value(bits);
}

// One block each: the layouts of ggml-common.h.

FINESWEEP_INLINE void decode_f32(const std::uint8_t* from, float* to) {
  std::memcpy(to, from, sizeof(float));
}
FINESWEEP_INLINE void decode_f16(const std::uint8_t* from, float* to) {
  *to = half_at(from);
}
FINESWEEP_INLINE void decode_bf16(const std::uint8_t* from, float* to) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  std::memcpy(to, &wide, sizeof(wide));
}

/// Half d, 16 bytes: low nibbles are the first 16 values, high nibbles the others; d (q - 8).
FINESWEEP_INLINE void decode_q4_0(const std::uint8_t* from, float* to) {
  const float d = half_at(from);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>((from[2 + i] & 15) - 8);
    to[i + 16] = d * static_cast<float>((from[2 + i] >> 4) - 8);
  }
}
/// Half d, half m, 16 bytes; d q + m.
FINESWEEP_INLINE void decode_q4_1(const std::uint8_t* from, float* to) {
  const float d = half_at(from), m = half_at(from + 2);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>(from[4 + i] & 15) + m;
    to[i + 16] = d * static_cast<float>(from[4 + i] >> 4) + m;
  }
}
/// The fifth bits of 32 values stand in one word before the nibbles.
FINESWEEP_INLINE int fifth_bit(const std::uint8_t* from, int i) {
  return (from[i / 8] >> (i % 8) & 1) << 4;
}
FINESWEEP_INLINE void decode_q5_0(const std::uint8_t* from, float* to) {
  const float d = half_at(from);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>(((from[6 + i] & 15) | fifth_bit(from + 2, i)) - 16);
    to[i + 16] = d * static_cast<float>(((from[6 + i] >> 4) | fifth_bit(from + 2, i + 16)) - 16);
  }
}
FINESWEEP_INLINE void decode_q5_1(const std::uint8_t* from, float* to) {
  const float d = half_at(from), m = half_at(from + 2);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>((from[8 + i] & 15) | fifth_bit(from + 4, i)) + m;
    to[i + 16] = d * static_cast<float>((from[8 + i] >> 4) | fifth_bit(from + 4, i + 16)) + m;
  }
}
/// Half d, 32 signed bytes.
FINESWEEP_INLINE void decode_q8_0(const std::uint8_t* from, float* to) {
  const float d = half_at(from);
  for (int i = 0; i < 32; ++i) to[i] = d * static_cast<float>(static_cast<std::int8_t>(from[2 + i]));
}

/// The 8 scales and 8 minima of 6 bits each in the 12 bytes of Q4_K and Q5_K.
FINESWEEP_INLINE void unpack_scales(const std::uint8_t* from, int* scales, int* minima) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = from[j] & 63;
    minima[j] = from[4 + j] & 63;
    scales[4 + j] = (from[8 + j] & 15) | (from[j] >> 2 & 48);
    minima[4 + j] = from[8 + j] >> 4 | (from[4 + j] >> 2 & 48);
  }
}
/// Half d, half dmin, 12 bytes of scales, 128 bytes of nibbles: 32 bytes hold 64 values, low nibbles first;
/// d scale q - dmin minimum, for 8 groups of 32.
FINESWEEP_INLINE void decode_q4_k(const std::uint8_t* from, float* to) {
  const float d = half_at(from), dmin = half_at(from + 2);
  int scales[8], minima[8];
  unpack_scales(from + 4, scales, minima);
  for (int j = 0; j < 8; ++j) {
    const float scale = d * static_cast<float>(scales[j]), minimum = dmin * static_cast<float>(minima[j]);
    const std::uint8_t* q = from + 16 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) to[j * 32 + i] = scale * static_cast<float>(q[i] >> shift & 15) - minimum;
  }
}
/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i belongs to value i of group j.
FINESWEEP_INLINE void decode_q5_k(const std::uint8_t* from, float* to) {
  const float d = half_at(from), dmin = half_at(from + 2);
  int scales[8], minima[8];
  unpack_scales(from + 4, scales, minima);
  const std::uint8_t* high = from + 16;
  for (int j = 0; j < 8; ++j) {
    const float scale = d * static_cast<float>(scales[j]), minimum = dmin * static_cast<float>(minima[j]);
    const std::uint8_t* q = from + 48 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      to[j * 32 + i] = scale * static_cast<float>((q[i] >> shift & 15) | (high[i] >> j & 1) << 4) - minimum;
    }
  }
}
/// 128 bytes of low nibbles, 64 of high pairs of bits, 16 signed scales, half d; d scale (q - 32). Each half of the
/// block: 64 bytes of nibbles hold 128 values, low nibbles first; 32 bytes of pairs, lowest first.
FINESWEEP_INLINE void decode_q6_k(const std::uint8_t* from, float* to) {
  const float d = half_at(from + 208);
  for (int j = 0; j < 8; ++j) {
    const std::uint8_t* low = from + j / 4 * 64 + j % 2 * 32;
    const std::uint8_t* high = from + 128 + j / 4 * 32;
    const int low_shift = j % 4 / 2 * 4, high_shift = j % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      const float scale = d * static_cast<float>(static_cast<std::int8_t>(from[192 + 2 * j + half]));
      for (int i = half * 16; i < half * 16 + 16; ++i) {
        to[j * 32 + i] =
            scale * static_cast<float>(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
      }
    }
  }
}

using Decode = void (*)(const std::uint8_t* from, std::int64_t blocks, float* to);

#define FINESWEEP_GGUF_CLONES(name, elements, bytes)                                                  \
  FINESWEEP_CLONES void name##_blocks(const std::uint8_t* from, std::int64_t blocks, float* to) {     \
    for (std::int64_t b = 0; b < blocks; ++b) decode_##name(from + b * (bytes), to + b * (elements)); \
  }
FINESWEEP_GGUF_CLONES(f32, 1, 4)
FINESWEEP_GGUF_CLONES(f16, 1, 2)
FINESWEEP_GGUF_CLONES(bf16, 1, 2)
FINESWEEP_GGUF_CLONES(q4_0, 32, 18)
FINESWEEP_GGUF_CLONES(q4_1, 32, 20)
FINESWEEP_GGUF_CLONES(q5_0, 32, 22)
FINESWEEP_GGUF_CLONES(q5_1, 32, 24)
FINESWEEP_GGUF_CLONES(q8_0, 32, 34)
FINESWEEP_GGUF_CLONES(q4_k, 256, 144)
FINESWEEP_GGUF_CLONES(q5_k, 256, 176)
FINESWEEP_GGUF_CLONES(q6_k, 256, 210)

FINESWEEP_CLONES void round_values(const float* from, std::int64_t count, c10::BFloat16* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<c10::BFloat16>(from[i]);
}

Decode decoder(const GgufType& type) {
  switch (type.number) {
    case 0:
      return f32_blocks;
    case 1:
      return f16_blocks;
    case 2:
      return q4_0_blocks;
    case 3:
      return q4_1_blocks;
    case 6:
      return q5_0_blocks;
    case 7:
      return q5_1_blocks;
    case 8:
      return q8_0_blocks;
    case 12:
      return q4_k_blocks;
    case 13:
      return q5_k_blocks;
    case 14:
      return q6_k_blocks;
    case 30:
      return bf16_blocks;
    default:
      return nullptr;
  }
}

}  // namespace

bool can_decode(const GgufType& type) {
  return decoder(type) != nullptr;
}

void decode_gguf_blocks(const GgufType& type, const std::uint8_t* from, std::int64_t blocks, float* to) {
  decoder(type)(from, blocks, to);
}

void decode_gguf_blocks(const GgufType& type, const std::uint8_t* from, std::int64_t blocks, c10::BFloat16* to) {
  constexpr std::int64_t kPiece = 4096;
  float values[kPiece];
  const std::int64_t blocks_a_piece = kPiece / type.block_elements;
  for (std::int64_t done = 0; done < blocks; done += blocks_a_piece) {
    const std::int64_t now = std::min(blocks_a_piece, blocks - done);
    decoder(type)(from + done * type.block_bytes, now, values);
    round_values(values, now * type.block_elements, to + done * type.block_elements);
  }
}

}  // namespace finesweep::worker
