#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "worker/kernels/gemm.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"
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

/// A weight's rows, with zeros behind them where there is room: products are then those of a round vocabulary.
at::Tensor round_weight(const Parameter& weight, at::ScalarType type) {
  const at::Tensor rows = weight_rows(weight, type, 0, weight.rows());
  const at::Tensor more = with_spare_rows(rows);
  return more.defined() ? more : rows;
}

/// Rows of 16 bytes' multiple: products and kernels read them in vectors.
std::int64_t round_stride(std::int64_t columns) {
  return (columns + 7) / 8 * 8;
}

/// A loss of logits [count, vocabulary], whose rows lie `stride` apart and have room up to there, of the tokens
/// from `begin` on: each token's loss goes to `losses`, and with `gradient` the logits become the gradient of the
/// whole. `divisor` is that of these tokens.
using ChunkLoss = std::function<void(const at::Tensor& logits, std::int64_t stride, std::int64_t begin,
                                     bool gradient, const FinesweepDenominator& divisor, float* losses)>;

/// The sum of such losses of scale · hidden Wᵀ + b, without all logits at once: gradients are computed on the way
/// forward. The layout may be null where it is no pack's.
Var linear_loss(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& labels,
                const Denominator& denominator, double scale, const Layout& layout, const ChunkLoss& loss) {
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
  const at::Tensor weight = round_weight(*head.weight, counted.scalar_type());
  const auto wide = counted.options().dtype(at::kFloat);
  const std::int64_t stride = round_stride(vocabulary);
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
    loss(logits, stride, begin, wanted, from_token(divisor, begin), losses.mutable_data_ptr<float>() + begin);
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
  call(&CudaModule::add_sum, "loss", total, losses.const_data_ptr<float>(), tokens, divisor,
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
  adds_to(tape, {head.weight, head.bias});
  return result;
}

}  // namespace

Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& labels,
                         const Denominator& denominator, double scale, const Layout& layout) {
  return linear_loss(tape, hidden, head, labels, denominator, scale, layout,
                     [&](const at::Tensor& logits, std::int64_t stride, std::int64_t begin, bool gradient,
                         const FinesweepDenominator& divisor, float* losses) {
                       call(&CudaModule::cross_entropy, "cross-entropy", logits, logits.mutable_data_ptr(), stride,
                            labels.labels.const_data_ptr<std::int64_t>() + begin, logits.size(0), logits.size(1),
                            gradient ? 1 : 0, divisor, losses, type_of(logits));
                     });
}

Var linear_distillation(Tape* tape, const Var& hidden, const LinearModule& head, const TeacherLogits& teacher,
                        const TokenLabels& labels, const Distillation& how, const Denominator& denominator,
                        double scale) {
  const at::Tensor of_teacher = teacher.scale == 1 ? teacher.hidden : teacher.hidden * teacher.scale;
  const at::Tensor weight = round_weight(*teacher.head->weight, of_teacher.scalar_type());
  at::Tensor buffer;
  return linear_loss(tape, hidden, head, labels, denominator, scale, {},
                     [&](const at::Tensor& logits, std::int64_t stride, std::int64_t begin, bool gradient,
                         const FinesweepDenominator& divisor, float* losses) {
                       const std::int64_t count = logits.size(0), vocabulary = logits.size(1);
                       // The first chunk is the largest.
                       if (!buffer.defined()) buffer = at::empty({count, stride}, of_teacher.options());
                       const at::Tensor products = buffer.narrow(0, 0, count).narrow(1, 0, weight.size(0));
                       multiply(of_teacher.narrow(0, begin, count), weight.t(), products);
                       if (teacher.head->bias != nullptr)
                         products.narrow(1, 0, vocabulary).add_(teacher.head->bias->value);
                       call(&CudaModule::distillation, "distillation", logits, logits.mutable_data_ptr(),
                            products.const_data_ptr(), stride, labels.labels.const_data_ptr<std::int64_t>() + begin,
                            count, vocabulary, gradient ? 1 : 0, static_cast<float>(how.temperature),
                            static_cast<float>(how.alpha), divisor, losses, type_of(logits));
                     });
}

Var distillation_loss(Tape* tape, const Var& student, const at::Tensor& teacher, const at::Tensor& labels,
                      const Distillation& how, const Denominator& denominator) {
  const std::int64_t rows = student.value.size(0), classes = student.value.size(1);
  const std::int64_t stride = round_stride(classes);
  const auto wide = student.value.options().dtype(at::kFloat);
  const auto copied = [&](const at::Tensor& logits) {
    const at::Tensor copy = at::empty({rows, stride}, wide);
    copy.narrow(1, 0, classes).copy_(logits);
    return copy;
  };
  const at::Tensor mine = copied(student.value), other = copied(teacher), losses = at::empty({rows}, wide);
  const bool wanted = tape != nullptr && student.needs_grad();
  call(&CudaModule::distillation, "distillation", mine, mine.mutable_data_ptr(), other.const_data_ptr(), stride,
       labels.const_data_ptr<std::int64_t>(), rows, classes, wanted ? 1 : 0, static_cast<float>(how.temperature),
       static_cast<float>(how.alpha), kernel_view(denominator), losses.mutable_data_ptr<float>(), type_of(mine));
  const at::Tensor total = at::zeros({}, wide.dtype(at::kDouble));
  call(&CudaModule::add_sum, "loss", total, losses.const_data_ptr<float>(), rows, kernel_view(denominator),
       total.mutable_data_ptr<double>());
  const at::Tensor value = total.to(at::kFloat);
  if (!wanted) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, student_slot = student.slot, gradient = mine.narrow(1, 0, classes),
                type = student.value.scalar_type()] {
    if (slot->grad.defined()) student_slot->add((gradient * slot->grad).to(type));
  });
  return result;
}

}  // namespace finesweep::worker::gpu
