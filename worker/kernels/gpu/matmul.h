#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

namespace finesweep::worker::gpu {

/// Rows of a matrix as cuBLASLt takes them: unit columns, and no smaller distance than the width.
bool has_unit_columns(const at::Tensor& x);
/// Its address and the distance of its rows are multiples of 16 bytes.
bool in_vectors(const at::Tensor& x);

/// The choice of a kernel outlives the process: in a file of the folder, which is made where it is missing.
void keep_choices(const std::filesystem::path& folder);

/// While it lives, the thread's products are expected to be computed so often, in replays of what is captured too.
/// Who says nothing computes them often: then the kernel for a new shape is chosen by its time, which takes as long
/// as dozens of products.
class RepeatedProducts {
 public:
  explicit RepeatedProducts(std::int64_t times) : before_(current()) { current() = times; }
  ~RepeatedProducts() { current() = before_; }
  RepeatedProducts(const RepeatedProducts&) = delete;
  RepeatedProducts& operator=(const RepeatedProducts&) = delete;
  /// 0: often.
  static std::int64_t& current();
  /// From here on it pays: to try all kernels takes as long as some ninety products; it gains a twentieth of most,
  /// and half of some.
  static constexpr std::int64_t kWorthTrying = 200;

 private:
  std::int64_t before_;
};

/// d = epilogue(a b + c + bias) of matrices on a GPU, in one kernel of cuBLASLt, chosen by its time where that
/// pays.
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
