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

template <ActivationKind kind, typename F>
FINESWEEP_INLINE F value_at(F z) {
  if constexpr (kind == ActivationKind::gelu) return 0.5f * z * (1.0f + error_function(z * kSqrtHalf));
  if constexpr (kind == ActivationKind::gelu_tanh) {
    return 0.5f * z * (1.0f + hyperbolic_tangent(kSqrtTwoOverPi * (z + kCubic * z * z * z)));
  }
  if constexpr (kind == ActivationKind::relu) return max(F{}, z);
  if constexpr (kind == ActivationKind::tanh) return hyperbolic_tangent(z);
  if constexpr (kind == ActivationKind::silu) return z / (1.0f + exponential(-z));
}

template <ActivationKind kind, typename F>
FINESWEEP_INLINE F slope_at(F z) {
  if constexpr (kind == ActivationKind::gelu) {
    return 0.5f * (1.0f + error_function(z * kSqrtHalf)) + z * kInvSqrtTwoPi * exponential(-0.5f * z * z);
  }
  if constexpr (kind == ActivationKind::gelu_tanh) {
    const F t = hyperbolic_tangent(kSqrtTwoOverPi * (z + kCubic * z * z * z));
    return 0.5f * (1.0f + t) + 0.5f * z * (1.0f - t * t) * kSqrtTwoOverPi * (1.0f + 3.0f * kCubic * z * z);
  }
  if constexpr (kind == ActivationKind::relu) return if_less(F{}, z, splat<F>(1.0f), F{});
  if constexpr (kind == ActivationKind::tanh) {
    const F t = hyperbolic_tangent(z);
    return 1.0f - t * t;
  }
  if constexpr (kind == ActivationKind::silu) {
    const F s = 1.0f / (1.0f + exponential(-z));
    return s * (1.0f + z * (1.0f - s));
  }
}

/// Calls work.operator()<kind>().
template <typename Work>
FINESWEEP_INLINE void with_kind(ActivationKind kind, const Work& work) {
  switch (kind) {
    case ActivationKind::gelu:
      return work.template operator()<ActivationKind::gelu>();
    case ActivationKind::gelu_tanh:
      return work.template operator()<ActivationKind::gelu_tanh>();
    case ActivationKind::relu:
      return work.template operator()<ActivationKind::relu>();
    case ActivationKind::tanh:
      return work.template operator()<ActivationKind::tanh>();
    case ActivationKind::silu:
      return work.template operator()<ActivationKind::silu>();
  }
}

template <typename T>
void forward_range(ActivationKind kind, const T* z, T* out, std::int64_t count) {
  with_kind(kind, [&]<ActivationKind k>() {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t i = 0; i < count; i += kLanes<F>) {
        store<F>(out + i, value_at<k, F>(load<F>(z + i, count - i)), count - i);
      }
    });
  });
}

template <typename T>
void backward_range(ActivationKind kind, const T* z, const T* gradient, T* out, std::int64_t count) {
  with_kind(kind, [&]<ActivationKind k>() {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t i = 0; i < count; i += kLanes<F>) {
        const F slope = slope_at<k, F>(load<F>(z + i, count - i));
        store<F>(out + i, load<F>(gradient + i, count - i) * slope, count - i);
      }
    });
  });
}

/// One token of gated: out = value(gate) · up.
template <typename T>
void gate_token(ActivationKind kind, const T* z, T* out, std::int64_t inner) {
  with_kind(kind, [&]<ActivationKind k>() {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t i = 0; i < inner; i += kLanes<F>) {
        const std::int64_t n = inner - i;
        store<F>(out + i, value_at<k, F>(load<F>(z + i, n)) * load<F>(z + inner + i, n), n);
      }
    });
  });
}

template <typename T>
void gate_token_backward(ActivationKind kind, const T* z, const T* gradient, T* dz, std::int64_t inner) {
  with_kind(kind, [&]<ActivationKind k>() {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t i = 0; i < inner; i += kLanes<F>) {
        const std::int64_t n = inner - i;
        const F gate = load<F>(z + i, n), up = load<F>(z + inner + i, n), g = load<F>(gradient + i, n);
        store<F>(dz + i, g * up * slope_at<k, F>(gate), n);
        store<F>(dz + inner + i, g * value_at<k, F>(gate), n);
      }
    });
  });
}

// A thread's share is a multiple of the vector, so that results do not depend on how the work is cut.
constexpr std::int64_t kChunk = 4096;

template <typename Work>
void over_chunks(std::int64_t count, const Work& work) {
  at::parallel_for(0, (count + kChunk - 1) / kChunk, 4, [&](std::int64_t begin, std::int64_t end) {
    work(begin * kChunk, std::min(count, end * kChunk) - begin * kChunk);
  });
}

constexpr std::int64_t kTokens = 8;  // of one task

}  // namespace

template <typename T>
void ActivationKernels<T>::forward(ActivationKind kind, const T* z, T* out, std::int64_t count) {
  over_chunks(count, [=](std::int64_t at, std::int64_t n) { forward_range(kind, z + at, out + at, n); });
}

template <typename T>
void ActivationKernels<T>::backward(ActivationKind kind, const T* z, const T* gradient, T* out,
                                    std::int64_t count) {
  over_chunks(count,
              [=](std::int64_t at, std::int64_t n) { backward_range(kind, z + at, gradient + at, out + at, n); });
}

template <typename T>
void ActivationKernels<T>::gate(ActivationKind kind, const T* z, T* out, std::int64_t tokens, std::int64_t inner) {
  at::parallel_for(0, tokens, kTokens, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) gate_token(kind, z + 2 * t * inner, out + t * inner, inner);
  });
}

template <typename T>
void ActivationKernels<T>::gate_backward(ActivationKind kind, const T* z, const T* gradient, T* dz,
                                         std::int64_t tokens, std::int64_t inner) {
  at::parallel_for(0, tokens, kTokens, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      gate_token_backward(kind, z + 2 * t * inner, gradient + t * inner, dz + 2 * t * inner, inner);
    }
  });
}

template struct ActivationKernels<float>;
template struct ActivationKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
