#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/where.h>

#include <stdexcept>
#include <vector>

#include "worker/kernels/cpu/softmax.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/job_rows.h"
#include "worker/kernels/linear_loss.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

/// Sum of -log softmax(logits)[label]; `logits` become its gradient divided by `denominator`, where that is wanted.
at::Tensor softmax_losses(at::Tensor& logits, const at::Tensor& labels, double denominator, bool gradient) {
  if (has_kernels(logits)) {
    const at::Tensor losses = at::empty({logits.size(0)}, at::kFloat);
    with_storage(logits.scalar_type(), [&]<typename T>() {
      cpu::CrossEntropyKernels<T>::forward(logits.mutable_data_ptr<T>(), labels.const_data_ptr<std::int64_t>(),
                                           logits.size(0), logits.size(1), gradient,
                                           static_cast<float>(1 / denominator), losses.mutable_data_ptr<float>());
    });
    return losses.sum(at::kDouble);
  }
  const at::Tensor index = labels.unsqueeze(1);
  const at::Tensor log_probabilities = at::log_softmax(logits, 1, at::kFloat);
  const at::Tensor loss = -log_probabilities.gather(1, index).sum(at::kDouble);
  if (gradient) {
    at::Tensor d_logits = log_probabilities.exp();
    d_logits.scatter_add_(1, index, at::full_like(index, -1, d_logits.options()));
    logits = d_logits.div_(denominator).to(logits.scalar_type());
  }
  return loss;
}

at::Tensor labels_of_all(const TokenLabels& labels, std::int64_t tokens) {
  if (!labels.index.defined()) return labels.labels;
  // One place more, for indices of -1.
  const at::Tensor all = at::full({tokens + 1}, -100, labels.labels.options());
  const at::Tensor place = at::where(labels.index.lt(0), at::full_like(labels.index, tokens), labels.index);
  return all.index_copy_(0, place, labels.labels).narrow(0, 0, tokens);
}

}  // namespace

Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& token_labels,
                         const Denominator& denominator, double scale, const Layout& layout,
                         const DropoutRun& run) {
  const ProfileScope scope("linear cross-entropy", OperatorGroup::loss);
  if (layout != nullptr && layout->is_pack() && !gpu::has_kernels(hidden.value)) {
    const std::vector<std::int64_t> begins = layout->job_tokens();
    return losses_of_jobs(tape, hidden, begins, [&](std::size_t job, const Var& mine) {
      const at::Tensor labels = token_labels.labels.narrow(0, begins[job], mine.value.size(0));
      return linear_cross_entropy(tape, mine, head.of_jobs.empty() ? head : *head.of_jobs[job], labels,
                                  denominator.of_job(job), scale, layout->of_job(job), run);
    });
  }
  const bool adapted = !head.branches.empty() || !head.scales.empty();
  const at::Tensor labels = adapted ? labels_of_all(token_labels, hidden.value.size(0)) : token_labels.labels;
  if (adapted) {
    // Adapters on a head are rare, and their dropout needs every token in its place: all logits at once.
    Var scaled = hidden;
    if (scale != 1) {
      scaled = differentiate(tape, {hidden}, {}, [&](const std::vector<at::Tensor>& v) { return v[0] * scale; });
    }
    return cross_entropy(tape, to_float(tape, linear(tape, scaled, head, layout, run)), labels, denominator);
  }
  if (gpu::has_kernels(hidden.value)) {
    return gpu::linear_cross_entropy(tape, hidden, head, token_labels, denominator, scale, layout);
  }
  if (token_labels.index.defined() || !denominator.is_number()) {
    throw std::invalid_argument("counted tokens and denominators of a device are for its kernels");
  }
  const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
  const at::Tensor counted = at::index_select(labels, 0, index);
  return linear_loss(tape, hidden, head, {.index = index, .denominator = denominator.number(), .scale = scale},
                     [&](at::Tensor& logits, std::int64_t begin, std::int64_t count, bool gradient) {
                       return softmax_losses(logits, counted.narrow(0, begin, count), denominator.number(),
                                             gradient);
                     });
}

}  // namespace finesweep::worker
