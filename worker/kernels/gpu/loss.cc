#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "worker/kernels/gemm.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/linear_pass.h"
#include "worker/kernels/spare_rows.h"

namespace finesweep::worker::gpu {
namespace {

// Enough tokens for products at full speed, few enough for logits of some 200 MB.
constexpr std::int64_t kChunkTokens = 2048, kChunkBytes = std::int64_t{256} << 20;

/// What the way forward computes for the way back, for a loss whose gradient is 1.
struct Gradients {
  at::Tensor hidden;  // of the counted tokens
  at::Tensor weight, bias;
};

at::Tensor rows_at(const at::Tensor& from, const at::Tensor& index) {
  const at::Tensor rows = at::empty({index.size(0), from.size(1)}, from.options());
  const void* tables[3] = {from.const_data_ptr(), nullptr, nullptr};
  const std::int64_t* ids[3] = {index.const_data_ptr<std::int64_t>(), nullptr, nullptr};
  call(&CudaModule::gather_rows, "counted tokens", rows, tables, ids, rows.mutable_data_ptr(), rows.size(0),
       rows.size(1), type_of(rows));
  return rows;
}

/// The way back of rows_at into a gradient of `tokens` rows.
at::Tensor scattered(const at::Tensor& rows, const at::Tensor& index, std::int64_t tokens) {
  const at::Tensor all = at::zeros({tokens, rows.size(1)}, rows.options());
  call(&CudaModule::scatter_rows, "counted tokens", rows, rows.const_data_ptr(),
       index.const_data_ptr<std::int64_t>(), all.mutable_data_ptr(), rows.size(0), rows.size(1), type_of(rows));
  return all;
}

/// The same for the tokens from `begin` on.
FinesweepDenominator from_token(FinesweepDenominator denominator, std::int64_t begin) {
  if (denominator.index != nullptr) {
    denominator.index += begin;
  } else if (denominator.jobs != nullptr) {
    denominator.jobs += begin;
  }
  return denominator;
}

/// to = a b.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor to) {
  if (!Matmul{a, b, {}, {}, {}, to}.run().defined()) at::mm_out(to, a, b);
}

}  // namespace

Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& labels,
                         const Denominator& denominator, double scale, const Layout& layout) {
  const bool hidden_wanted = tape != nullptr && hidden.needs_grad();
  const bool weight_wanted = tape != nullptr && head.weight->trained;
  const bool bias_wanted = tape != nullptr && head.bias != nullptr && head.bias->trained;
  const bool wanted = hidden_wanted || weight_wanted || bias_wanted;
  // Gradients of parameters go straight to where they belong where nothing can come between.
  const bool direct = tape != nullptr && tape->loss_is_end();
  const bool pack = layout != nullptr && layout->is_pack();
  if (pack && wanted && !direct) throw std::logic_error("the losses of a pack are where its way back begins");

  at::Tensor counted = labels.index.defined() ? rows_at(hidden.value.contiguous(), labels.index) : hidden.value;
  if (scale != 1) counted = counted * scale;
  const std::int64_t tokens = counted.size(0), vocabulary = head.weight->rows();
  at::Tensor weight = weight_rows(*head.weight, counted.scalar_type(), 0, vocabulary);
  // With rows of zeros behind it the products are those of a round vocabulary.
  if (const at::Tensor more = with_spare_rows(weight); more.defined()) weight = more;
  const auto wide = counted.options().dtype(at::kFloat);
  // Rows of 16 bytes' multiple: products and the kernel read them in vectors.
  const std::int64_t stride = (vocabulary + 7) / 8 * 8;
  const std::int64_t fitting = kChunkBytes / (stride * counted.element_size());
  const std::int64_t step = std::min(tokens, std::clamp<std::int64_t>(fitting, 64, kChunkTokens));
  const at::Tensor buffer = at::empty({step, stride}, counted.options());
  const at::Tensor losses = at::empty({tokens}, wide);
  const FinesweepDenominator divisor =
      pack ? kernel_view(denominator, layout->on(counted.device()), labels.index) : kernel_view(denominator);
  Gradients gradients;
  if (hidden_wanted) gradients.hidden = at::empty(counted.sizes(), counted.options());
  if (weight_wanted) gradients.weight = direct ? head.weight->grad : at::zeros_like(head.weight->grad);
  if (bias_wanted) gradients.bias = direct ? head.bias->grad : at::zeros_like(head.bias->grad);
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const std::int64_t count = std::min(step, tokens - begin);
    const at::Tensor part = counted.narrow(0, begin, count);
    const at::Tensor products = buffer.narrow(0, 0, count).narrow(1, 0, weight.size(0));
    multiply(part, weight.t(), products);
    const at::Tensor logits = products.narrow(1, 0, vocabulary);
    if (head.bias != nullptr) logits.add_(head.bias->value);
    call(&CudaModule::cross_entropy, "cross-entropy", logits, logits.mutable_data_ptr(), stride,
         labels.labels.const_data_ptr<std::int64_t>() + begin, count, vocabulary, wanted ? 1 : 0,
         from_token(divisor, begin), losses.mutable_data_ptr<float>() + begin, type_of(logits));
    if (hidden_wanted) {
      multiply(products, weight, gradients.hidden.narrow(0, begin, count));
    }
    if (weight_wanted) {
      const at::Tensor all = direct ? with_spare_rows(gradients.weight) : at::Tensor();
      const bool together = all.defined() && all.size(0) == products.size(1);
      add_weight_gradient(together ? all : gradients.weight, together ? products : logits, part);
    }
    if (bias_wanted) add_column_sums(gradients.bias, logits);
  }
  const std::vector<std::int64_t> shape =
      pack ? std::vector<std::int64_t>{divisor.job_count} : std::vector<std::int64_t>();
  const at::Tensor total = at::zeros(shape, wide.dtype(at::kDouble));
  call(&CudaModule::add_sum, "cross-entropy", total, losses.const_data_ptr<float>(), tokens, divisor,
       total.mutable_data_ptr<double>());
  const at::Tensor value = total.to(at::kFloat);
  if (!wanted) return Var(value);

  const Var result = tape->track(value);
  tape->record([slot = result.slot, hidden_slot = hidden.slot, index = labels.index,
                gradients = std::move(gradients), &head, scale, direct, all = hidden.value.size(0)] {
    if (!slot->grad.defined()) return;
    const at::Tensor& d_loss = slot->grad;
    if (!direct && gradients.weight.defined()) head.weight->grad.add_(gradients.weight * d_loss);
    if (!direct && gradients.bias.defined()) head.bias->grad.add_(gradients.bias * d_loss);
    if (!gradients.hidden.defined()) return;
    at::Tensor d = gradients.hidden;
    if (!direct) d = (d * d_loss).to(d.scalar_type());
    if (scale != 1) d = d * scale;
    hidden_slot->add(index.defined() ? scattered(d, index, all) : d);
  });
  return result;
}

}  // namespace finesweep::worker::gpu
