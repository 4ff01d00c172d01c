#pragma once

#include "worker/kernels/distillation.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker::gpu {

// What the operations of ops.h do on tensors that gpu::has_kernels; arguments and results as there.

/// Whether the norm's width is one that the kernels compute.
bool computes(const at::Tensor& x, const NormModule& module);
Var norm_dropout(Tape* tape, const Var& x, const NormModule& module, const Layout& layout, const Dropout& dropout,
                 const LinearModule* next = nullptr);
Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout, const LinearModule* next);
/// mask · x, or residual + mask · x; `to` may be x.
void dropout(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& to, const Layout& layout,
             const Dropout& dropout);

void activate(const at::Tensor& z, const at::Tensor& y, Activation activation);
void activation_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, Activation activation);
Var gated(Tape* tape, const Var& z, Activation activation);
/// y [tokens, inner] = activation(z[:, :inner]) · z[:, inner:], and its gradient dz.
void gate(const at::Tensor& z, const at::Tensor& y, Activation activation);
void gate_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, Activation activation);
void rotate_in_place(const at::Tensor& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
                     std::int64_t size, float sign);

/// x [tokens, ranks] *= the scale of its rank where that is the token's job's, else 0. `check`: says in
/// columns.broken whose numbers are not finite.
void keep_own_columns(const at::Tensor& x, const RankColumns& columns, const Layout& layout, bool check);

/// to = x with the columns of each token times the numbers of its job, factors [jobs, columns]; of one type, rows
/// may lie apart, and `to` may be x.
void scale_by_job(const at::Tensor& x, const at::Tensor& factors, const Layout& layout, const at::Tensor& to);
/// The way back: dx, which may be dy, and where `grad` [jobs, columns] is defined it += the sums of dy · x over the
/// tokens of each job, in a fixed order.
void scale_by_job_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& factors,
                           const Layout& layout, const at::Tensor& grad, const at::Tensor& dx);

/// to = the columns of these, side by side. Widths and distances are multiples of eight elements.
void concatenate(const std::vector<at::Tensor>& from, const at::Tensor& to);

/// grad += the sum over rows of dy.
void add_column_sums(const at::Tensor& grad, const at::Tensor& dy);

at::Tensor sum_of_rows(const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
                       const at::Tensor& types);
void add_rows(const at::Tensor& gradient, const at::Tensor& ids, std::int64_t skipped, const at::Tensor& grad);

Var mean_tokens(Tape* tape, const Var& x, const Layout& layout);

/// x Wᵀ + b in fp32 for a module of few outputs with nothing beside its weight and bias, which are fp32; x of any
/// type. Undefined: not such a product, or not on a GPU.
at::Tensor few_outputs(const at::Tensor& x, const LinearModule& module);

Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& labels,
                         const Denominator& denominator, double scale, const Layout& layout);

/// The teacher's logits on the same device. Nothing waits for the device.
Var distillation_loss(Tape* tape, const Var& student, const at::Tensor& teacher, const at::Tensor& labels,
                      const Distillation& how, const Denominator& denominator);
/// The labels have an index.
Var linear_distillation(Tape* tape, const Var& hidden, const LinearModule& head, const TeacherLogits& teacher,
                        const TokenLabels& labels, const Distillation& how, const Denominator& denominator,
                        double scale);

/// `options` with everything filled in. Keys of no row overlap those of another.
Var attention(Tape* tape, const AttentionInputs& inputs, const Layout& queries, const RowSpans& keys,
              const AttentionOptions& options, const Dropout& dropout);

}  // namespace finesweep::worker::gpu
