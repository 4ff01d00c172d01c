#include "worker/kernels/distillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <stdexcept>
#include <utility>

#include "worker/kernels/gemm.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/linear_loss.h"
#include "worker/kernels/linear_pass.h"

namespace finesweep::worker {
namespace {

/// Several matrices of a chunk's size are alive at once.
constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20;

struct Losses {
  at::Tensor sum;       // fp64
  at::Tensor gradient;  // of the sum, with respect to the student's logits; where it is wanted
};

/// Of rows that all count.  student, teacher [rows, labels] fp32
Losses losses_of(const at::Tensor& student, const at::Tensor& teacher, const at::Tensor& labels,
                 const Distillation& how, bool gradient) {
  const double temperature = how.temperature;
  Losses result;
  result.sum = at::zeros({}, student.options().dtype(at::kDouble));
  if (how.alpha > 0) {
    const at::Tensor soft_teacher = at::log_softmax(teacher / temperature, 1);
    at::Tensor soft_student = at::log_softmax(student / temperature, 1);
    const at::Tensor probability = soft_teacher.exp();
    const at::Tensor divergence = (probability * (soft_teacher - soft_student)).sum(at::kDouble);
    result.sum = result.sum + divergence * (how.alpha * temperature * temperature);
    // d KL / d logit = (softmax(student / T) - softmax(teacher / T)) / T
    if (gradient) result.gradient = soft_student.exp_().sub_(probability).mul_(how.alpha * temperature);
  }
  if (how.alpha < 1) {
    const at::Tensor index = labels.unsqueeze(1);
    at::Tensor hard = at::log_softmax(student, 1);
    result.sum = result.sum - hard.gather(1, index).sum(at::kDouble) * (1 - how.alpha);
    if (gradient) {
      hard.exp_().mul_(1 - how.alpha);
      hard.scatter_add_(1, index, at::full(index.sizes(), how.alpha - 1, hard.options()));
      result.gradient = result.gradient.defined() ? result.gradient.add_(hard) : hard;
    }
  }
  return result;
}

}  // namespace

Var distillation_loss(Tape* tape, const Var& student, const at::Tensor& teacher, const at::Tensor& labels,
                      const Distillation& how, const Denominator& given) {
  if (gpu::has_kernels(student.value)) return gpu::distillation_loss(tape, student, teacher, labels, how, given);
  const double denominator = given.number();
  const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
  const auto counted = [&](const at::Tensor& rows) { return at::index_select(rows, 0, index); };
  const bool wanted = tape != nullptr && student.needs_grad();
  const Losses losses = losses_of(counted(student.value), counted(teacher), counted(labels), how, wanted);
  const at::Tensor value = (losses.sum / denominator).to(at::kFloat);
  if (!wanted) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, student_slot = student.slot, index, gradient = losses.gradient, denominator,
                like = student.value] {
    if (!slot->grad.defined()) return;
    student_slot->add(at::zeros_like(like).index_copy_(0, index, gradient * (slot->grad / denominator)));
  });
  return result;
}

Var linear_distillation(Tape* tape, const Var& hidden, const LinearModule& head, const TeacherLogits& teacher,
                        const TokenLabels& token_labels, const Distillation& how, const Denominator& given,
                        double scale) {
  const at::Tensor& labels = token_labels.labels;
  const bool on_gpu = gpu::has_kernels(hidden.value);
  if (on_gpu && token_labels.index.defined()) {
    return gpu::linear_distillation(tape, hidden, head, teacher, token_labels, how, given, scale);
  }
  const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
  const at::Tensor counted_labels = at::index_select(labels, 0, index);
  if (on_gpu) {
    return gpu::linear_distillation(tape, hidden, head, teacher, TokenLabels(counted_labels, index), how, given,
                                    scale);
  }
  if (token_labels.index.defined() || !given.is_number()) {
    throw std::invalid_argument("counted tokens and denominators of a device are for its kernels");
  }
  const double denominator = given.number();
  const at::Tensor counted_teacher = teacher.scale == 1 ? teacher.hidden : teacher.hidden * teacher.scale;
  const Parameter& matrix = *teacher.head->weight;
  const at::Tensor weight = weight_rows(matrix, counted_teacher.scalar_type(), 0, matrix.rows());
  const at::Tensor bias = teacher.head->bias == nullptr ? at::Tensor() : teacher.head->bias->value;
  const LinearLoss what{.index = index, .denominator = denominator, .scale = scale, .chunk_bytes = kChunkBytes};
  return linear_loss(
      tape, hidden, head, what, [&](at::Tensor& logits, std::int64_t begin, std::int64_t count, bool gradient) {
        const at::Tensor of_teacher = product_with_weight(counted_teacher.narrow(0, begin, count), weight, bias);
        Losses losses = losses_of(logits.to(at::kFloat), of_teacher.to(at::kFloat),
                                  counted_labels.narrow(0, begin, count), how, gradient);
        if (gradient) logits = losses.gradient.div_(denominator).to(logits.scalar_type());
        return losses.sum;
      });
}

}  // namespace finesweep::worker
