#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

// Vectors of floats in the compiler's vector extension: F is Floats16, Floats8 or Floats4, one register of AVX-512,
// AVX2 or SSE. A kernel is a template over F (and often the storage type T), always inlined, and
// with_widest_vectors calls it with the widest F that the processor has. A vector wider than the registers would
// live in memory and be computed one float at a time, so no kernel names a width of its own.
//
// Every function here is inlined into a function compiled for the instruction set: none may be called out of line.

#define FINESWEEP_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define FINESWEEP_X86 1
#define FINESWEEP_TARGET(set) __attribute__((target(set), flatten))
#else
#define FINESWEEP_X86 0
#endif
/// A function that names no width of vectors, compiled for several instruction sets; the loader picks one.
#if FINESWEEP_X86 && !defined(__clang__)
#define FINESWEEP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define FINESWEEP_CLONES
#endif

namespace finesweep::worker::cpu {

typedef float Floats16 __attribute__((vector_size(64)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));

/// Floats of the widest vector: what buffers are padded to.
constexpr std::int64_t kWidest = 16;

constexpr std::int64_t padded(std::int64_t n) {
  return (n + kWidest - 1) / kWidest * kWidest;
}

template <typename F>
constexpr std::int64_t kLanes = sizeof(F) / sizeof(float);

template <typename F>
struct Companions {
  typedef std::int32_t Ints __attribute__((vector_size(sizeof(F))));
  typedef std::uint32_t Words __attribute__((vector_size(sizeof(F))));
  typedef std::uint16_t HalfWords __attribute__((vector_size(sizeof(F) / 2)));
  typedef float Half __attribute__((vector_size(sizeof(F) / 2)));
};
template <typename F>
using Ints = typename Companions<F>::Ints;
template <typename F>
using Words = typename Companions<F>::Words;
template <typename F>
using HalfWords = typename Companions<F>::HalfWords;

#if FINESWEEP_X86
/// Floats of the processor's vectors.
inline const int kProcessorLanes = __builtin_cpu_supports("x86-64-v4")   ? 16
                                   : __builtin_cpu_supports("x86-64-v3") ? 8
                                                                         : 4;

template <typename Work>
FINESWEEP_TARGET("arch=x86-64-v4")
void run_with_16(const Work& work) {
  work.template operator()<Floats16>();
}
template <typename Work>
FINESWEEP_TARGET("arch=x86-64-v3")
void run_with_8(const Work& work) {
  work.template operator()<Floats8>();
}
#endif

/// Calls work.operator()<F>() in a function compiled for the instruction set that F belongs to. All that it calls
/// is inlined there where its source is seen.
template <typename Work>
void with_widest_vectors(const Work& work) {
#if FINESWEEP_X86
  if (kProcessorLanes == 16) return run_with_16(work);
  if (kProcessorLanes == 8) return run_with_8(work);
#endif
  work.template operator()<Floats4>();
}

template <typename F>
FINESWEEP_INLINE F splat(float value) {
  return F{} + value;
}

/// 0, 1, 2, …
template <typename F>
FINESWEEP_INLINE Ints<F> lane_numbers() {
  Ints<F> numbers;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<F>; ++i) numbers[i] = i;
  return numbers;
}

// A comparison must stand in the condition of ?: itself: GCC turns the pair into one masked move, and a comparison
// whose result is used in any other way into scalar ones.

template <typename F>
FINESWEEP_INLINE F if_less(F a, F b, F yes, F no) {
  return a < b ? yes : no;
}
template <typename F>
FINESWEEP_INLINE F if_less(Ints<F> a, std::int32_t b, F yes, F no) {
  return a < (Ints<F>{} + b) ? yes : no;
}
/// The second operand where either is NaN: bounds stand first, so that a NaN is seen in the end and not hidden.
template <typename F>
FINESWEEP_INLINE F min(F a, F b) {
  return a < b ? a : b;
}
template <typename F>
FINESWEEP_INLINE F max(F a, F b) {
  return a > b ? a : b;
}

template <typename F>
FINESWEEP_INLINE float sum(F v) {
  if constexpr (kLanes < F >> 4) {
    typename Companions<F>::Half low, high;
    std::memcpy(&low, &v, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return sum(low + high);
  } else {
    return (v[0] + v[2]) + (v[1] + v[3]);
  }
}
template <typename F>
FINESWEEP_INLINE float largest(F v) {
  if constexpr (kLanes < F >> 4) {
    typename Companions<F>::Half low, high;
    std::memcpy(&low, &v, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return largest(max(low, high));
  } else {
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
  }
}

/// Fewer than kMost values: not worth a call of memcpy, around which every vector would be saved.
template <int kMost, typename T>
FINESWEEP_INLINE void copy_few(T* to, const T* from, std::int64_t count) {
  if constexpr (kMost > 1) {
    constexpr int kHalf = kMost / 2;
    if ((count & kHalf) != 0) {
      std::memcpy(static_cast<void*>(to), from, sizeof(T) * kHalf);
      to += kHalf;
      from += kHalf;
    }
    copy_few<kHalf>(to, from, count);
  }
}

// Loads and stores of the first min(count, lanes) lanes; the others are zero, or stay as they are in memory.

template <typename F>
FINESWEEP_INLINE F load(const float* from, std::int64_t count = kLanes<F>) {
  if (count >= kLanes<F>) {
    F whole;
    std::memcpy(&whole, from, sizeof(whole));
    return whole;
  }
  F part{};
  copy_few<kLanes<F>>(reinterpret_cast<float*>(&part), from, count);
  return part;
}
template <typename F>
FINESWEEP_INLINE void store(float* to, F v, std::int64_t count = kLanes<F>) {
  if (count >= kLanes<F>) {
    std::memcpy(to, &v, sizeof(v));
  } else {
    copy_few<kLanes<F>>(to, reinterpret_cast<const float*>(&v), count);
  }
}
template <typename F>
FINESWEEP_INLINE F load(const c10::BFloat16* from, std::int64_t count = kLanes<F>) {
  if (count >= kLanes<F>) {
    HalfWords<F> whole;
    std::memcpy(&whole, from, sizeof(whole));
    return reinterpret_cast<F>(__builtin_convertvector(whole, Words<F>) << 16);
  }
  HalfWords<F> part{};
  copy_few<kLanes<F>>(reinterpret_cast<c10::BFloat16*>(&part), from, count);
  return reinterpret_cast<F>(__builtin_convertvector(part, Words<F>) << 16);
}
/// Rounds to nearest, ties to even; a NaN stays one.
template <typename F>
FINESWEEP_INLINE void store(c10::BFloat16* to, F v, std::int64_t count = kLanes<F>) {
  const Words<F> bits = reinterpret_cast<Words<F>>(v);
  const Words<F> rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const HalfWords<F> half = __builtin_convertvector(v == v ? rounded : Words<F>{} + 0x7FC0, HalfWords<F>);
  if (count >= kLanes<F>) {
    std::memcpy(to, &half, sizeof(half));
  } else {
    copy_few<kLanes<F>>(to, reinterpret_cast<const c10::BFloat16*>(&half), count);
  }
}

/// 0 where the 16 bits are below `threshold`, else `scale`: the dropout mask of a vector.
template <typename F>
FINESWEEP_INLINE F keep(const std::uint16_t* bits, std::uint32_t threshold, float scale) {
  HalfWords<F> half;
  std::memcpy(&half, bits, sizeof(half));
  return if_less<F>(__builtin_convertvector(half, Ints<F>), static_cast<std::int32_t>(threshold), F{},
                    splat<F>(scale));
}

/// e^x to about 1 unit in the last place; below -87 it is 0.
template <typename F>
FINESWEEP_INLINE F exponential(F x) {
  const F unbounded = x;
  x = min(splat<F>(88.0f), max(splat<F>(-87.0f), x));
  // x = n ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5 × 2^23 rounds to the nearest integer.
  const F shifted = x * 1.44269504088896341f + 12582912.0f;
  const F n = shifted - 12582912.0f;
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  F p = splat<F>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints<F> power = (__builtin_convertvector(n, Ints<F>) + 127) << 23;
  return if_less(unbounded, splat<F>(-87.0f), F{}, p * reinterpret_cast<F>(power));
}

/// erf(x), absolute error below 2e-7: the rational approximation of Eigen (generic_fast_erf_float).
template <typename F>
FINESWEEP_INLINE F error_function(F x) {
  x = min(splat<F>(4.0f), max(splat<F>(-4.0f), x));
  const F s = x * x;
  F p = splat<F>(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  F q = splat<F>(-1.45660718464996e-05f);
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

/// tanh(x), absolute error below 2e-7.
template <typename F>
FINESWEEP_INLINE F hyperbolic_tangent(F x) {
  const F bounded = min(splat<F>(20.0f), max(splat<F>(-20.0f), x));
  return 1.0f - 2.0f / (exponential<F>(2.0f * bounded) + 1.0f);
}

}  // namespace finesweep::worker::cpu
