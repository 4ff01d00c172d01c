#include "worker/kernels/gemm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <optional>
#include <string_view>

#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

using OneDnnLinear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                std::string_view, c10::List<std::optional<at::Scalar>>,
                                std::optional<std::string_view>);
using OneDnnLinearAdd = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view);

template <typename Signature>
std::optional<c10::TypedOperatorHandle<Signature>> find_one_dnn(const char* overload) {
  const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", overload});
  if (!schema || !schema->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
  return schema->typed<Signature>();
}

/// oneDNN's linear layer as libtorch has it on x86 CPUs; absent elsewhere.
const std::optional<c10::TypedOperatorHandle<OneDnnLinear>>& one_dnn_linear() {
  static const auto handle = find_one_dnn<OneDnnLinear>("");
  return handle;
}

/// The same with a matrix that is added.
const std::optional<c10::TypedOperatorHandle<OneDnnLinearAdd>>& one_dnn_linear_add() {
  static const auto handle = find_one_dnn<OneDnnLinearAdd>("binary");
  return handle;
}

/// Below this many multiplications the set-up of oneDNN's product costs more than it saves.
constexpr std::int64_t kSmall = 1 << 20;

bool goes_to_one_dnn(const at::Tensor& x, std::int64_t out) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.size(0) * x.size(1) * out > kSmall && one_dnn_linear();
}

at::Tensor call_one_dnn(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias) {
  return one_dnn_linear()->call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

at::Tensor product_with_weight(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                               const at::Tensor& residual) {
  const ProfileScope scope("matrix product", OperatorGroup::matrix_product);
  const std::optional<at::Tensor> maybe = bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt;
  if (x.is_cuda()) {
    const at::Tensor y = gpu::Matmul{x, w.t(), residual, bias, {}, {}}.run();
    if (y.defined()) return y;
  }
  const bool one_dnn = goes_to_one_dnn(x, w.size(0));
  if (residual.defined() && one_dnn && one_dnn_linear_add()) {
    return one_dnn_linear_add()->call(x, residual, w, maybe, "add");
  }
  const at::Tensor y = one_dnn ? call_one_dnn(x, w, maybe) : at::linear(x, w, maybe);
  return residual.defined() ? y.add_(residual) : y;
}

at::Tensor product_with_transposed_weight(const at::Tensor& dy, const at::Tensor& w) {
  const ProfileScope scope("matrix product", OperatorGroup::matrix_product);
  if (dy.is_cuda()) {
    const at::Tensor dx = gpu::Matmul{dy, w, {}, {}, {}, {}}.run();
    if (dx.defined()) return dx;
  }
  if (goes_to_one_dnn(dy, w.size(1))) return call_one_dnn(dy, w.t(), std::nullopt);
  return at::mm(dy, w);
}

void add_weight_gradient(const at::Tensor& grad, const at::Tensor& dy, const at::Tensor& x) {
  const ProfileScope scope("weight gradient", OperatorGroup::matrix_product);
  if (dy.scalar_type() == at::kFloat) {
    grad.addmm_(dy.t(), x);
  } else if (dy.is_cuda() && grad.is_contiguous()) {
    at::Tensor sum = grad;
    at::addmm_out(sum, grad, dy.t(), x, at::kFloat);
  } else {
    grad.add_(at::mm(dy.t(), x));
  }
}

void add_product(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  const ProfileScope scope("matrix product", OperatorGroup::matrix_product);
  y.addmm_(a, b, /*beta=*/1, /*alpha=*/scale);
}

}  // namespace finesweep::worker
