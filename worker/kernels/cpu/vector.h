#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

// Sixteen floats at a time, in the compiler's vector extension: one AVX-512 register, two of AVX2, four of SSE. A
// kernel is a template over the storage type, always inlined into one function per type that FINESWEEP_CLONES
// compiles for several instruction sets; the loader picks one.
//
// Every function here is inlined into such a clone: none may be called out of line.

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FINESWEEP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define FINESWEEP_CLONES
#endif
#define FINESWEEP_INLINE inline __attribute__((always_inline))

namespace finesweep::worker::cpu {

constexpr std::int64_t kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef std::int32_t Ints __attribute__((vector_size(64)));
typedef std::uint32_t Words __attribute__((vector_size(64)));
typedef std::uint16_t HalfWords __attribute__((vector_size(32)));

FINESWEEP_INLINE Floats splat(float value) {
  return Floats{} + value;
}

// A comparison must stand in the condition of ?: itself: GCC turns the pair into one masked move, and a comparison
// whose result is used in any other way into sixteen scalar ones.

FINESWEEP_INLINE Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
  return a < b ? yes : no;
}
FINESWEEP_INLINE Floats if_less(Ints a, std::int32_t b, Floats yes, Floats no) {
  return a < (Ints{} + b) ? yes : no;
}
/// The second operand where either is NaN: bounds stand first, so that a NaN is seen in the end and not hidden.
FINESWEEP_INLINE Floats min(Floats a, Floats b) {
  return a < b ? a : b;
}
FINESWEEP_INLINE Floats max(Floats a, Floats b) {
  return a > b ? a : b;
}
FINESWEEP_INLINE float sum(Floats v) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  low += high;
  Four a, b;
  std::memcpy(&a, &low, 16);
  std::memcpy(&b, reinterpret_cast<const char*>(&low) + 16, 16);
  a += b;
  return (a[0] + a[2]) + (a[1] + a[3]);
}
FINESWEEP_INLINE float largest(Floats v) {
  v = max(v, __builtin_shuffle(v, Ints{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
  v = max(v, __builtin_shuffle(v, Ints{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
  v = max(v, __builtin_shuffle(v, Ints{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
  return v[0] > v[1] ? v[0] : v[1];
}

// Loads and stores of the first min(count, 16) lanes; the others are zero, or stay as they are in memory.

FINESWEEP_INLINE Floats load(const float* from, std::int64_t count = kLanes) {
  if (count >= kLanes) {
    Floats whole;
    std::memcpy(&whole, from, sizeof(whole));
    return whole;
  }
  Floats part{};
  std::memcpy(&part, from, sizeof(float) * count);
  return part;
}
FINESWEEP_INLINE void store(float* to, Floats v, std::int64_t count = kLanes) {
  if (count >= kLanes) {
    std::memcpy(to, &v, sizeof(v));
  } else {
    std::memcpy(to, &v, sizeof(float) * count);
  }
}
FINESWEEP_INLINE HalfWords load_bits(const std::uint16_t* from) {
  HalfWords bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}
FINESWEEP_INLINE Floats load(const c10::BFloat16* from, std::int64_t count = kLanes) {
  if (count >= kLanes) {
    HalfWords whole;
    std::memcpy(&whole, from, sizeof(whole));
    return reinterpret_cast<Floats>(__builtin_convertvector(whole, Words) << 16);
  }
  HalfWords part{};
  std::memcpy(&part, from, sizeof(std::uint16_t) * count);
  return reinterpret_cast<Floats>(__builtin_convertvector(part, Words) << 16);
}
/// Rounds to nearest, ties to even; a NaN stays one.
FINESWEEP_INLINE void store(c10::BFloat16* to, Floats v, std::int64_t count = kLanes) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const HalfWords half = __builtin_convertvector(v == v ? rounded : Words{} + 0x7FC0, HalfWords);
  if (count >= kLanes) {
    std::memcpy(to, &half, sizeof(half));
  } else {
    std::memcpy(to, &half, sizeof(std::uint16_t) * count);
  }
}

/// 0 where the 16 bits are below `threshold`, else `scale`: the dropout mask of 16 elements.
FINESWEEP_INLINE Floats keep(const std::uint16_t* bits, std::uint32_t threshold, float scale) {
  return if_less(__builtin_convertvector(load_bits(bits), Ints), static_cast<std::int32_t>(threshold), Floats{},
                 splat(scale));
}

/// e^x to about 1 unit in the last place; below -87 it is 0.
FINESWEEP_INLINE Floats exponential(Floats x) {
  const Floats unbounded = x;
  x = min(splat(88.0f), max(splat(-87.0f), x));
  // x = n ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5 × 2^23 rounds to the nearest integer.
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return if_less(unbounded, splat(-87.0f), Floats{}, p * reinterpret_cast<Floats>(power));
}

/// erf(x), absolute error below 2e-7: the rational approximation of Eigen (generic_fast_erf_float).
FINESWEEP_INLINE Floats error_function(Floats x) {
  x = min(splat(4.0f), max(splat(-4.0f), x));
  const Floats s = x * x;
  Floats p = splat(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  Floats q = splat(-1.45660718464996e-05f);
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

/// tanh(x), absolute error below 2e-7.
FINESWEEP_INLINE Floats hyperbolic_tangent(Floats x) {
  const Floats bounded = min(splat(20.0f), max(splat(-20.0f), x));
  return 1.0f - 2.0f / (exponential(2.0f * bounded) + 1.0f);
}

}  // namespace finesweep::worker::cpu
