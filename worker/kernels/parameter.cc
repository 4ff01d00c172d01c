#include "worker/kernels/parameter.h"

#include <ATen/ops/zeros_like.h>

#include <stdexcept>

#include "worker/kernels/gemm.h"
#include "worker/kernels/spare_rows.h"

namespace finesweep::worker {

at::Tensor QuantizedWeight::product(const at::Tensor& x, std::int64_t begin, std::int64_t count) const {
  return product_with_weight(x, dequantize(x.scalar_type(), begin, count));
}

namespace {

[[noreturn]] void inputs_are_not_quantised() {
  throw std::logic_error("a weight whose inputs are not quantised");
}

}  // namespace

at::Tensor QuantizedWeight::quantized_product(const at::Tensor&, const Fp8Rows*, std::int64_t, std::int64_t,
                                              const at::Tensor&, const at::Tensor&) const {
  inputs_are_not_quantised();
}

at::Tensor QuantizedWeight::quantized_transposed_product(const at::Tensor&, const Fp8Rows*, std::int64_t,
                                                         std::int64_t, const at::Tensor&) const {
  inputs_are_not_quantised();
}

at::Tensor QuantizedWeight::gradient_factors(std::int64_t, std::int64_t) const {
  inputs_are_not_quantised();
}

void Parameter::train(at::ScalarType type) {
  trained = true;
  master = value.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  value = to_with_spare_rows(master, master.options().dtype(type));
  grad = empty_with_spare_rows(master.sizes(), master.options()).zero_();
  touched_rows.clear();
}

void Parameter::refresh_value() {
  if (!value.is_same(master)) value.copy_(master);
}

void Parameter::zero_grad() {
  if (!grad.defined()) return;
  if (is_table && grad.is_cpu()) {
    for (const std::int64_t row : touched_rows) grad.select(0, row).zero_();
  } else {
    grad.zero_();
  }
  touched_rows.clear();
}

at::Tensor Parameter::slice(const at::Tensor& whole, std::size_t index) const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < index; ++i) begin += parts[i].rows;
  return whole.narrow(0, begin, parts[index].rows);
}

at::Tensor Parameter::in_file_layout(const at::Tensor& whole, std::size_t index) const {
  return transposed_in_files ? whole.t() : slice(whole, index);
}

}  // namespace finesweep::worker
