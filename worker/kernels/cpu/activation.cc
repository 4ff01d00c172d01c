#include "worker/kernels/cpu/activation.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kInvSqrtTwoPi = 0.39894228040143268f;
constexpr float kSqrtTwoOverPi = 0.79788456080286536f;
constexpr float kCubic = 0.044715f;

template <ActivationKind kind>
FINESWEEP_INLINE Floats value_at(Floats z) {
  if constexpr (kind == ActivationKind::gelu) return 0.5f * z * (1.0f + error_function(z * kSqrtHalf));
  if constexpr (kind == ActivationKind::gelu_tanh) {
    return 0.5f * z * (1.0f + hyperbolic_tangent(kSqrtTwoOverPi * (z + kCubic * z * z * z)));
  }
  if constexpr (kind == ActivationKind::relu) return max(Floats{}, z);
  if constexpr (kind == ActivationKind::tanh) return hyperbolic_tangent(z);
  if constexpr (kind == ActivationKind::silu) return z / (1.0f + exponential(-z));
}

template <ActivationKind kind>
FINESWEEP_INLINE Floats slope_at(Floats z) {
  if constexpr (kind == ActivationKind::gelu) {
    return 0.5f * (1.0f + error_function(z * kSqrtHalf)) + z * kInvSqrtTwoPi * exponential(-0.5f * z * z);
  }
  if constexpr (kind == ActivationKind::gelu_tanh) {
    const Floats t = hyperbolic_tangent(kSqrtTwoOverPi * (z + kCubic * z * z * z));
    return 0.5f * (1.0f + t) + 0.5f * z * (1.0f - t * t) * kSqrtTwoOverPi * (1.0f + 3.0f * kCubic * z * z);
  }
  if constexpr (kind == ActivationKind::relu) return if_less(Floats{}, z, splat(1.0f), Floats{});
  if constexpr (kind == ActivationKind::tanh) {
    const Floats t = hyperbolic_tangent(z);
    return 1.0f - t * t;
  }
  if constexpr (kind == ActivationKind::silu) {
    const Floats s = 1.0f / (1.0f + exponential(-z));
    return s * (1.0f + z * (1.0f - s));
  }
}

template <ActivationKind kind, typename T>
FINESWEEP_INLINE void forward_range(const T* z, T* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes)
    store(out + i, value_at<kind>(load(z + i, count - i)), count - i);
}

template <ActivationKind kind, typename T>
FINESWEEP_INLINE void backward_range(const T* z, const T* gradient, T* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    store(out + i, load(gradient + i, count - i) * slope_at<kind>(load(z + i, count - i)), count - i);
  }
}

template <typename T>
FINESWEEP_INLINE void forward_any(ActivationKind kind, const T* z, T* out, std::int64_t count) {
  switch (kind) {
    case ActivationKind::gelu:
      return forward_range<ActivationKind::gelu>(z, out, count);
    case ActivationKind::gelu_tanh:
      return forward_range<ActivationKind::gelu_tanh>(z, out, count);
    case ActivationKind::relu:
      return forward_range<ActivationKind::relu>(z, out, count);
    case ActivationKind::tanh:
      return forward_range<ActivationKind::tanh>(z, out, count);
    case ActivationKind::silu:
      return forward_range<ActivationKind::silu>(z, out, count);
  }
}

template <typename T>
FINESWEEP_INLINE void backward_any(ActivationKind kind, const T* z, const T* gradient, T* out, std::int64_t count) {
  switch (kind) {
    case ActivationKind::gelu:
      return backward_range<ActivationKind::gelu>(z, gradient, out, count);
    case ActivationKind::gelu_tanh:
      return backward_range<ActivationKind::gelu_tanh>(z, gradient, out, count);
    case ActivationKind::relu:
      return backward_range<ActivationKind::relu>(z, gradient, out, count);
    case ActivationKind::tanh:
      return backward_range<ActivationKind::tanh>(z, gradient, out, count);
    case ActivationKind::silu:
      return backward_range<ActivationKind::silu>(z, gradient, out, count);
  }
}

FINESWEEP_CLONES void forward_f32(ActivationKind kind, const float* z, float* out, std::int64_t count) {
  forward_any(kind, z, out, count);
}
FINESWEEP_CLONES void forward_bf16(ActivationKind kind, const c10::BFloat16* z, c10::BFloat16* out,
                                   std::int64_t count) {
  forward_any(kind, z, out, count);
}
FINESWEEP_CLONES void backward_f32(ActivationKind kind, const float* z, const float* gradient, float* out,
                                   std::int64_t count) {
  backward_any(kind, z, gradient, out, count);
}
FINESWEEP_CLONES void backward_bf16(ActivationKind kind, const c10::BFloat16* z, const c10::BFloat16* gradient,
                                    c10::BFloat16* out, std::int64_t count) {
  backward_any(kind, z, gradient, out, count);
}

// A thread's share is a multiple of the vector, so that results do not depend on how the work is cut.
constexpr std::int64_t kChunk = 4096;

template <typename Work>
void over_chunks(std::int64_t count, const Work& work) {
  at::parallel_for(0, (count + kChunk - 1) / kChunk, 4, [&](std::int64_t begin, std::int64_t end) {
    work(begin * kChunk, std::min(count, end * kChunk) - begin * kChunk);
  });
}

}  // namespace

void activate(ActivationKind kind, const float* z, float* out, std::int64_t count) {
  over_chunks(count, [=](std::int64_t at, std::int64_t n) { forward_f32(kind, z + at, out + at, n); });
}
void activate(ActivationKind kind, const c10::BFloat16* z, c10::BFloat16* out, std::int64_t count) {
  over_chunks(count, [=](std::int64_t at, std::int64_t n) { forward_bf16(kind, z + at, out + at, n); });
}
void activate_backward(ActivationKind kind, const float* z, const float* gradient, float* out, std::int64_t count) {
  over_chunks(count,
              [=](std::int64_t at, std::int64_t n) { backward_f32(kind, z + at, gradient + at, out + at, n); });
}
void activate_backward(ActivationKind kind, const c10::BFloat16* z, const c10::BFloat16* gradient,
                       c10::BFloat16* out, std::int64_t count) {
  over_chunks(count,
              [=](std::int64_t at, std::int64_t n) { backward_bf16(kind, z + at, gradient + at, out + at, n); });
}

}  // namespace finesweep::worker::cpu
