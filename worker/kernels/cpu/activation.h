#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

enum class ActivationKind { gelu, gelu_tanh, relu, tanh, silu };

/// out = activation(z), element by element; `out` may be `z`. Runs over all threads.
void activate(ActivationKind kind, const float* z, float* out, std::int64_t count);
void activate(ActivationKind kind, const c10::BFloat16* z, c10::BFloat16* out, std::int64_t count);

/// out = gradient · activation'(z); `out` may be `gradient`.
void activate_backward(ActivationKind kind, const float* z, const float* gradient, float* out, std::int64_t count);
void activate_backward(ActivationKind kind, const c10::BFloat16* z, const c10::BFloat16* gradient,
                       c10::BFloat16* out, std::int64_t count);

}  // namespace finesweep::worker::cpu
