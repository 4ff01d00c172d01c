#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker::gpu {

/// Rows of a matrix as cuBLASLt takes them: unit columns, and no smaller distance than the width.
bool has_unit_columns(const at::Tensor& x);
/// Its address and the distance of its rows are multiples of 16 bytes.
bool in_vectors(const at::Tensor& x);

/// d = epilogue(a b + c + bias) of matrices on a GPU, in one kernel of cuBLASLt that was chosen by its time.
struct Matmul {
  at::Tensor a;     // [m, k]
  at::Tensor b;     // [k, n], a transposed view where it lies as [n, k]
  at::Tensor c;     // [m, n], may be undefined
  at::Tensor bias;  // [n], may be undefined
  /// [m, n], where defined: gets a b + c + bias, and d is GELU (by tanh) of that. Needs a bias.
  at::Tensor before_gelu;
  /// d, where it is given.
  at::Tensor out;

  /// Undefined where cuBLASLt or libfinesweep-graph.so cannot do it: then nothing was done.
  at::Tensor run() const;
};

}  // namespace finesweep::worker::gpu
