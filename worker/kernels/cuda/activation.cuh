#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include "worker/kernels/cuda/api.h"

// The activations of feed-forward blocks and their slopes, by FinesweepActivation.

namespace finesweep::cuda {

inline constexpr float kRootHalf = 0.7071067811865476f, kRoot2OverPi = 0.7978845608028654f;
inline constexpr float kInverseRoot2Pi = 0.3989422804014327f, kCubic = 0.044715f;

/// tanh by one exponential; 1 - 2 / (1 + e^2x) is exact at both ends.
__device__ inline float fast_tanh(float x) {
  return 1.0f - 2.0f / (1.0f + __expf(2.0f * x));
}

template <int kActivation>
__device__ inline float act(float x) {
  if constexpr (kActivation == kActivationGelu) return 0.5f * x * (1.0f + erff(x * kRootHalf));
  if constexpr (kActivation == kActivationGeluTanh)
    return 0.5f * x * (1.0f + fast_tanh(kRoot2OverPi * (x + kCubic * x * x * x)));
  if constexpr (kActivation == kActivationRelu) return fmaxf(x, 0.0f);
  if constexpr (kActivation == kActivationTanh) return tanhf(x);
  if constexpr (kActivation == kActivationSilu) return x / (1.0f + __expf(-x));
}

template <int kActivation>
__device__ inline float act_gradient(float x) {
  if constexpr (kActivation == kActivationGelu) {
    return 0.5f * (1.0f + erff(x * kRootHalf)) + x * kInverseRoot2Pi * __expf(-0.5f * x * x);
  }
  if constexpr (kActivation == kActivationGeluTanh) {
    const float t = fast_tanh(kRoot2OverPi * (x + kCubic * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kRoot2OverPi * (1.0f + 3.0f * kCubic * x * x);
  }
  if constexpr (kActivation == kActivationRelu) return x > 0 ? 1.0f : 0.0f;
  if constexpr (kActivation == kActivationTanh) {
    const float t = tanhf(x);
    return 1.0f - t * t;
  }
  if constexpr (kActivation == kActivationSilu) {
    const float s = 1.0f / (1.0f + __expf(-x));
    return s * (1.0f + x * (1.0f - s));
  }
}

/// Calls work(its number as a type) for an activation that is one of kKinds; else cudaErrorInvalidValue.
template <int... kKinds, typename Work>
int with_activation(int activation, const Work& work) {
  int result = cudaErrorInvalidValue;
  (void)((activation == kKinds && (result = work(std::integral_constant<int, kKinds>()), true)) || ...);
  return result;
}

}  // namespace finesweep::cuda
