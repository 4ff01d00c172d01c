#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

enum class ActivationKind { gelu, gelu_tanh, relu, tanh, silu };

/// Element by element, over all threads. Storage is float or BFloat16.
template <typename T>
struct ActivationKernels {
  /// out = activation(z); `out` may be `z`.
  static void forward(ActivationKind kind, const T* z, T* out, std::int64_t count);
  /// out = gradient · activation'(z); `out` may be `gradient`.
  static void backward(ActivationKind kind, const T* z, const T* gradient, T* out, std::int64_t count);

  /// out = activation(gate) · up, where a token of z [tokens, 2 × inner] is gate and up side by side.
  static void gate(ActivationKind kind, const T* z, T* out, std::int64_t tokens, std::int64_t inner);
  /// dz, from the gradient of `out`; may be z.
  static void gate_backward(ActivationKind kind, const T* z, const T* gradient, T* dz, std::int64_t tokens,
                            std::int64_t inner);
};

}  // namespace finesweep::worker::cpu
