#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

/// Rotary position embedding in place: of each head (a, b), two halves of size / 2, becomes (a c - b s, b c + a s)
/// with cosine and sine of the token's position. Storage is float or BFloat16. `sign` -1 turns back.
///
///   x [tokens, …], rows `stride` apart, the first heads × size columns; cosine, sine [positions, size / 2]
template <typename T>
struct RotaryKernels {
  static void rotate(T* x, std::int64_t tokens, std::int64_t stride, std::int64_t heads, std::int64_t size,
                     const float* cosine, const float* sine, const std::int64_t* positions, float sign);
};

}  // namespace finesweep::worker::cpu
