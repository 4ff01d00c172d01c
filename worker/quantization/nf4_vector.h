#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>

#include "worker/kernels/cpu/vector.h"

// Eight codes at a time: a table of 16 floats is two registers of AVX2, and looking eight codes up in it one
// instruction of AVX-512 or three of AVX2. To be inlined into a function that FINESWEEP_CLONES compiles.

namespace finesweep::worker::cpu {

constexpr std::int64_t kCodes = 8;

typedef float EightFloats __attribute__((vector_size(32)));
typedef std::int32_t EightInts __attribute__((vector_size(32)));
typedef std::uint32_t EightWords __attribute__((vector_size(32)));
typedef std::uint16_t EightHalfWords __attribute__((vector_size(16)));

/// The 16 levels.
struct Levels {
  EightFloats low, high;
};
FINESWEEP_INLINE Levels load_levels(const float* levels) {
  Levels table;
  std::memcpy(&table.low, levels, sizeof(table.low));
  std::memcpy(&table.high, levels + 8, sizeof(table.high));
  return table;
}

/// The levels of the eight codes in four bytes.
FINESWEEP_INLINE EightFloats look_up(const Levels& levels, const std::uint8_t* packed) {
  std::uint32_t bytes;
  std::memcpy(&bytes, packed, sizeof(bytes));
  const EightWords codes = (EightWords{} + bytes) >> EightWords{4, 0, 12, 8, 20, 16, 28, 24} & 15;
  return __builtin_shuffle(levels.low, levels.high, reinterpret_cast<EightInts>(codes));
}

FINESWEEP_INLINE EightFloats load_eight(const float* from) {
  EightFloats v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
/// The first `count`, and zeros.
FINESWEEP_INLINE EightFloats load_eight(const float* from, std::int64_t count) {
  EightFloats v{};
  std::memcpy(&v, from, sizeof(float) * static_cast<std::size_t>(count));
  return v;
}

/// Largest absolute value; NaN where any value is NaN or infinite.
FINESWEEP_INLINE float absmax_of(const float* values, std::int64_t count) {
  EightFloats largest_yet{}, poison{};
  for (std::int64_t i = 0; i < count; i += kCodes) {
    const EightFloats v = i + kCodes <= count ? load_eight(values + i) : load_eight(values + i, count - i);
    const EightFloats size = reinterpret_cast<EightFloats>(reinterpret_cast<EightWords>(v) & 0x7FFFFFFFu);
    largest_yet = size > largest_yet ? size : largest_yet;
    poison += v - v;
  }
  float largest = 0, poisoned = 0;
  for (int lane = 0; lane < kCodes; ++lane) {
    largest = largest_yet[lane] > largest ? largest_yet[lane] : largest;
    poisoned += poison[lane];
  }
  return poisoned == 0 ? largest : __builtin_nanf("");
}

FINESWEEP_INLINE void store_eight(float* to, EightFloats v) {
  std::memcpy(to, &v, sizeof(v));
}
/// Rounds to nearest, ties to even; a NaN stays one.
FINESWEEP_INLINE void store_eight(c10::BFloat16* to, EightFloats v) {
  const EightWords bits = reinterpret_cast<EightWords>(v);
  const EightWords rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const EightHalfWords half = __builtin_convertvector(v == v ? rounded : EightWords{} + 0x7FC0, EightHalfWords);
  std::memcpy(to, &half, sizeof(half));
}
/// The same; what is 65520 or more becomes an infinity.
FINESWEEP_INLINE void store_eight(c10::Half* to, EightFloats v) {
  const EightWords bits = reinterpret_cast<EightWords>(v);
  const EightWords sign = bits & 0x80000000u;
  const EightWords size = bits ^ sign;
  // Subnormal halves: adding 0.5 leaves the rounded result in the low bits of the sum.
  const EightFloats sum = reinterpret_cast<EightFloats>(size) + 0.5f;
  const EightWords subnormal = reinterpret_cast<EightWords>(sum) - 0x3F000000u;
  const EightWords normal = (size + 0xC8000FFFu + ((size >> 13) & 1)) >> 13;
  const EightWords huge = size > (EightWords{} + 0x7F800000u) ? EightWords{} + 0x7E00u : EightWords{} + 0x7C00u;
  EightWords result = size < (EightWords{} + 0x38800000u) ? subnormal : normal;
  result = size >= (EightWords{} + 0x47800000u) ? huge : result;
  const EightHalfWords half = __builtin_convertvector(result | sign >> 16, EightHalfWords);
  std::memcpy(to, &half, sizeof(half));
}

}  // namespace finesweep::worker::cpu
