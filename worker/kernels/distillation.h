#pragma once

#include <ATen/core/Tensor.h>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Knowledge distillation (https://arxiv.org/abs/1503.02531): of each row or token that counts
///
///   alpha · T² · KL(softmax(teacher / T) ‖ softmax(student / T)) + (1 - alpha) · cross-entropy with the label
///
/// T² keeps the gradients of both parts of one size whatever the temperature.
struct Distillation {
  double temperature = 2;
  double alpha = 0.5;
};

/// The sum over the rows that count, divided by `denominator`. Logits [rows, labels] fp32 of both, labels [rows]
/// int64, -100 where a row does not count.
Var distillation_loss(Tape* tape, const Var& student, const at::Tensor& teacher, const at::Tensor& labels,
                      const Distillation& how, const Denominator& denominator);

/// What logits are a product of: scale · hidden Wᵀ + b.
struct TeacherLogits {
  at::Tensor
      hidden;  // [counted, width]: of the tokens that count alone; where labels have an index, of those in it
  const LinearModule* head = nullptr;
  double scale = 1;
};

/// The same straight from hidden states, without all logits of either model at once.
///
///   hidden [tokens, width]
///
/// Neither head may have adapters. No work is spent on tokens that do not count.
Var linear_distillation(Tape* tape, const Var& hidden, const LinearModule& head, const TeacherLogits& teacher,
                        const TokenLabels& labels, const Distillation& how, const Denominator& denominator,
                        double scale);

}  // namespace finesweep::worker
