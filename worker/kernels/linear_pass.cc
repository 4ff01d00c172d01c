#include "worker/kernels/linear_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <utility>

#include "worker/kernels/cpu/norm.h"
#include "worker/kernels/cpu/scale.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gemm.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {

bool LinearModule::trains() const {
  bool any = weight->trained || (bias != nullptr && bias->trained);
  for (const LoraBranch& branch : branches) any |= branch.a->trained || branch.b->trained;
  for (const ScaleBranch& branch : scales) any |= branch.scale->trained;
  for (const LinearModule* module : of_jobs) any |= module->trains();
  return any;
}

at::Tensor weight_rows(const Parameter& weight, at::ScalarType type, std::int64_t begin, std::int64_t count) {
  return weight.quantized ? weight.quantized->dequantize(type, begin, count) : weight.value.narrow(0, begin, count);
}

void add_column_sums(const at::Tensor& grad, const at::Tensor& dy) {
  if (gpu::has_kernels(dy) && dy.stride(1) == 1) return gpu::add_column_sums(grad, dy);
  if (!has_kernels(dy)) {
    grad.add_(at::sum(dy, {0}, false, at::kFloat));
    return;
  }
  with_storage(dy.scalar_type(), [&]<typename T>() {
    cpu::NormKernels<T>::column_sums(dy.const_data_ptr<T>(), dy.size(0), dy.size(1), dy.stride(0),
                                     grad.mutable_data_ptr<float>());
  });
}

at::Tensor masked(const at::Tensor& x, const Layout& layout, const Dropout& rate) {
  return dropout(nullptr, Var(x), layout, rate).value;
}

ColumnScale::ColumnScale(const ScaleBranch& branch, Layout layout, std::int64_t first, std::int64_t count)
    : scale_(branch.scale), layout_(std::move(layout)), first_(first), count_(count), of_jobs_(branch.of_jobs) {}

/// Of the parameter's value or gradient: [count], or of each job [jobs, count].
at::Tensor ColumnScale::numbers_of(const at::Tensor& all) const {
  return of_jobs_ ? all.narrow(1, first_, count_) : all.view({-1}).narrow(0, first_, count_);
}

void ColumnScale::forward(const at::Tensor& from, const at::Tensor& to, bool keeps) {
  // Columns that are overwritten are copied on the way; others live on as they are.
  const bool kept = keeps && trained(), copied = kept && from.is_same(to);
  if (of_jobs_ || !has_kernels(from)) {
    if (kept) from_ = copied ? from.clone() : from;
    if (of_jobs_) {
      forward_by_job(from, to);
    } else {
      to.copy_(from * numbers_of(scale_->value).to(from.scalar_type()));
    }
    return;
  }
  if (kept) from_ = copied ? at::empty(from.sizes(), from.options()) : from;
  const at::Tensor numbers = numbers_of(scale_->value).to(at::kFloat);
  with_storage(from.scalar_type(), [&]<typename T>() {
    cpu::ScaleKernels<T>::forward(from.const_data_ptr<T>(), from.stride(0), numbers.const_data_ptr<float>(),
                                  copied ? from_.mutable_data_ptr<T>() : nullptr, to.mutable_data_ptr<T>(),
                                  to.stride(0), from.size(0), count_);
  });
}

void ColumnScale::backward(const at::Tensor& d_to, const at::Tensor& d_from) const {
  if (of_jobs_) return backward_by_job(d_to, d_from);
  const at::Tensor grad = trained() ? numbers_of(scale_->grad) : at::Tensor();
  const at::Tensor numbers = numbers_of(scale_->value).to(at::kFloat);
  if (!has_kernels(d_to)) {
    if (trained()) grad.add_((d_to.to(at::kFloat) * from_.to(at::kFloat)).sum(0));
    d_from.copy_(d_to * numbers.to(d_to.scalar_type()));
    return;
  }
  with_storage(d_to.scalar_type(), [&]<typename T>() {
    cpu::ScaleKernels<T>::backward(d_to.const_data_ptr<T>(), d_to.stride(0),
                                   trained() ? from_.const_data_ptr<T>() : nullptr, trained() ? from_.stride(0) : 0,
                                   numbers.const_data_ptr<float>(),
                                   trained() ? grad.mutable_data_ptr<float>() : nullptr,
                                   d_from.mutable_data_ptr<T>(), d_from.stride(0), d_to.size(0), count_);
  });
}

void ColumnScale::forward_by_job(const at::Tensor& from, const at::Tensor& to) const {
  const at::Tensor numbers = numbers_of(scale_->value).to(from.scalar_type());
  if (gpu::has_kernels(from)) return gpu::scale_by_job(from, numbers, layout_, to);
  to.copy_(reference::scale_by_job(from, numbers, *layout_));
}

void ColumnScale::backward_by_job(const at::Tensor& d_to, const at::Tensor& d_from) const {
  const at::Tensor numbers = numbers_of(scale_->value).to(d_to.scalar_type());
  const at::Tensor grad = trained() ? numbers_of(scale_->grad) : at::Tensor();
  if (gpu::has_kernels(d_to)) return gpu::scale_by_job_gradient(d_to, from_, numbers, layout_, grad, d_from);
  if (trained()) grad.add_(reference::job_sums(d_to.to(at::kFloat) * from_.to(at::kFloat), *layout_));
  d_from.copy_(reference::scale_by_job(d_to, numbers, *layout_));
}

LinearPass::LinearPass(const LinearModule& module, Layout layout, std::int64_t out_begin, std::int64_t out_count)
    : module_(&module),
      layout_(std::move(layout)),
      out_begin_(out_begin),
      out_count_(out_count < 0 ? module.weight->rows() - out_begin : out_count) {
  for (std::size_t i = 0; i < module.branches.size(); ++i) {
    const LoraBranch& branch = module.branches[i];
    const Columns columns = columns_of(branch.out_begin, branch.b->rows());
    if (columns.count <= 0) continue;
    Lora& lora = loras_.emplace_back();
    lora.branch = &branch;
    lora.columns = columns;
    if (!module.block) continue;
    lora.rank_begin = module.block->begins[i];
    lora.grad_a = module.block->grad_a[i];
    lora.grad_b = module.block->grad_b[i];
  }
  for (const ScaleBranch& branch : module.scales) {
    if (branch.on_input) continue;
    const Columns columns = columns_of(branch.out_begin, branch.columns());
    if (columns.count > 0) scales_.push_back({ColumnScale(branch, layout_, columns.first, columns.count), columns});
  }
}

LinearPass::Columns LinearPass::columns_of(std::int64_t begin, std::int64_t count) const {
  const std::int64_t first = std::max(begin, out_begin_), last = std::min(begin + count, out_begin_ + out_count_);
  return {first - out_begin_, last - first, first - begin};
}

std::vector<Parameter*> LinearPass::parameters() const {
  std::vector<Parameter*> all{module_->weight, module_->bias};
  for (const Lora& lora : loras_) all.insert(all.end(), {lora.branch->a, lora.branch->b});
  for (const Scale& scale : scales_) all.push_back(scale.scale.parameter());
  return all;
}

bool LinearPass::trains() const {
  const std::vector<Parameter*> all = parameters();
  return std::any_of(all.begin(), all.end(), [](const Parameter* p) { return p != nullptr && p->trained; });
}

at::Tensor LinearPass::multiply(const Parameter& weight, const Var& input, const at::Tensor& bias,
                                const at::Tensor& residual) const {
  const at::Tensor& x = input.value;
  if (!weight.quantized) {
    return product_with_weight(x, weight.value.narrow(0, out_begin_, out_count_), bias, residual);
  }
  if (weight.quantized->quantizes_inputs()) {
    return weight.quantized->quantized_product(x, input.fp8.get(), out_begin_, out_count_, bias, residual);
  }
  const at::ScalarType type = weight.product_type.value_or(x.scalar_type());
  constexpr std::int64_t kFewTokens = 8;  // then a product with the few bits themselves is the faster
  if (gpu::has_kernels(x) && type == x.scalar_type() && x.size(0) > kFewTokens) {
    return product_with_weight(x, weight_rows(weight, type, out_begin_, out_count_), bias, residual);
  }
  const at::Tensor z = weight.quantized->product(x.to(type), out_begin_, out_count_).to(x.scalar_type());
  if (bias.defined()) z.add_(bias);
  if (residual.defined()) z.add_(residual);
  return z;
}

at::Tensor LinearPass::forward(const Var& x, const DropoutRun& run, const at::Tensor& residual, bool keeps) {
  const at::Tensor bias =
      module_->bias == nullptr ? at::Tensor() : module_->bias->value.narrow(0, out_begin_, out_count_);
  if (const at::Tensor z = forward_in_block(x, bias, residual, keeps); z.defined()) return z;
  const at::Tensor z = multiply(*module_->weight, x, bias, residual);
  for (Lora& lora : loras_) {
    const LoraBranch& branch = *lora.branch;
    lora.dropout = make_dropout(branch.dropout, run, branch.site);
    lora.input = lora.dropout.active() ? masked(x.value, layout_, lora.dropout) : x.value;
    lora.down = product_with_weight(lora.input, branch.a->value);
    if (branch.columns != nullptr) gpu::keep_own_columns(lora.down, *branch.columns, layout_, /*check=*/false);
    add_product(z.narrow(1, lora.columns.begin, lora.columns.count), lora.down, lora.up().t(), branch.scale);
  }
  for (Scale& scale : scales_) {
    const at::Tensor columns = z.narrow(1, scale.columns.begin, scale.columns.count);
    scale.scale.forward(columns, columns, keeps);
  }
  if (keeps) keep(x);
  return z;
}

at::Tensor LinearPass::forward_in_block(const Var& x, const at::Tensor& bias, const at::Tensor& residual,
                                        bool keeps) {
  if (module_->block == nullptr || out_count_ != module_->block->out) return {};
  const LoraBlock& block = *module_->block;
  const at::Tensor wide = with_room(x.value, block.ranks);
  if (!wide.defined()) return {};
  at::Tensor down = wide.narrow(1, block.in, block.ranks);
  at::addmm_out(down, down, x.value, block.a().t(), /*beta=*/0, loras_.front().branch->scale);
  for (Lora& lora : loras_) {
    lora.input = x.value;
    lora.down = down.narrow(1, lora.rank_begin, lora.ranks());
    if (lora.branch->columns != nullptr) {
      gpu::keep_own_columns(lora.down, *lora.branch->columns, layout_, /*check=*/false);
    }
  }
  down_is_scaled_ = true;
  if (keeps) keep(x);
  return product_with_weight(wide, block.forward_weight(), bias, residual);
}

void LinearPass::keep(const Var& x) {
  input_slot_ = x.slot;
  if (module_->weight->trained) input_ = x.value;
}

at::Tensor LinearPass::forward_through_gelu(const Var& x, at::Tensor& before) {
  const bool plain = loras_.empty() && scales_.empty() && module_->bias != nullptr && !module_->quantizes_inputs();
  if (!plain || !gpu::has_kernels(x.value) ||
      module_->weight->product_type.value_or(x.value.scalar_type()) != x.value.scalar_type()) {
    return {};
  }
  const at::Tensor weight = weight_rows(*module_->weight, x.value.scalar_type(), out_begin_, out_count_);
  const at::Tensor z = at::empty({x.value.size(0), out_count_}, x.value.options());
  const at::Tensor y =
      gpu::Matmul{x.value, weight.t(), {}, module_->bias->value.narrow(0, out_begin_, out_count_), z, {}}.run();
  if (!y.defined()) return {};
  before = z;
  keep(x);
  return y;
}

namespace {

/// grad += scale · aᵀ b on a GPU, in one product.
void add_scaled_gradient(const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b, double scale) {
  at::Tensor sum = grad;
  if (a.scalar_type() == at::kFloat) {
    at::addmm_out(sum, grad, a.t(), b, /*beta=*/1, scale);
  } else {
    at::addmm_out(sum, grad, a.t(), b, at::kFloat, /*beta=*/1, scale);
  }
}

}  // namespace

void LinearPass::lora_backward_on_gpu(const Lora& lora, const at::Tensor& dy) const {
  const LoraBranch& branch = *lora.branch;
  const at::Tensor columns = dy.narrow(1, lora.columns.begin, lora.columns.count);
  const at::Tensor through = at::mm(columns, lora.up());  // [tokens, rank], not yet scaled
  if (branch.columns != nullptr) gpu::keep_own_columns(through, *branch.columns, layout_, /*check=*/true);
  if (branch.b->trained) {
    const bool is_padded = lora.grad_b.defined() && lora.down.size(1) == lora.grad_b.size(1);
    const at::Tensor& grad = is_padded ? lora.grad_b : branch.b->grad;
    add_scaled_gradient(grad.narrow(0, lora.columns.first, lora.columns.count), columns, lora.down,
                        down_is_scaled_ ? 1 : branch.scale);
  }
  if (branch.a->trained) add_scaled_gradient(branch.a->grad, through, lora.input, branch.scale);
  if (!input_slot_) return;
  const auto product = [&](const at::Tensor& sum, double beta) {
    return at::addmm(sum, through, branch.a->value, beta, branch.scale);
  };
  at::Tensor& there = input_slot_->grad;
  if (!lora.dropout.active() && there.defined() && there.use_count() == 1) {
    there.addmm_(through, branch.a->value, /*beta=*/1, branch.scale);
    return;
  }
  const at::Tensor d = product(at::empty({1, branch.a->value.size(1)}, through.options()), 0);
  input_slot_->add(lora.dropout.active() ? masked(d, layout_, lora.dropout) : d);
}

bool LinearPass::backward_in_block(const at::Tensor& dy) const {
  if (!down_is_scaled_) return false;
  const LoraBlock& block = *module_->block;
  const at::Tensor wide = with_room(dy, block.ranks);
  if (!wide.defined()) return false;
  at::Tensor through = wide.narrow(1, block.out, block.ranks);
  at::addmm_out(through, through, dy, block.b(), /*beta=*/0, loras_.front().branch->scale);
  for (const Lora& lora : loras_) {
    const LoraBranch& branch = *lora.branch;
    const at::Tensor mine = through.narrow(1, lora.rank_begin, lora.ranks());
    if (branch.columns != nullptr) gpu::keep_own_columns(mine, *branch.columns, layout_, /*check=*/true);
    if (branch.b->trained) {
      add_scaled_gradient(lora.grad_b.defined() ? lora.grad_b : branch.b->grad,
                          dy.narrow(1, lora.columns.begin, lora.columns.count), lora.down, 1);
    }
    if (branch.a->trained)
      add_scaled_gradient(lora.grad_a.defined() ? lora.grad_a : branch.a->grad, mine, lora.input, 1);
  }
  if (input_slot_) add_to_input(wide, block.backward_weight());
  return true;
}

/// input_slot_ += dy weight; on a GPU in one kernel with what is there.
void LinearPass::add_to_input(const at::Tensor& dy, const at::Tensor& weight) const {
  at::Tensor& there = input_slot_->grad;
  const bool joins = there.defined() && there.is_cuda();
  const at::Tensor sum = joins ? gpu::Matmul{dy, weight, there, {}, {}, {}}.run() : at::Tensor();
  if (sum.defined()) {
    there = sum;
  } else {
    input_slot_->add(product_with_transposed_weight(dy, weight));
  }
}

/// The same with a weight that quantises dy.
void LinearPass::add_quantized_to_input(const at::Tensor& dy, const Fp8Rows* rows) const {
  at::Tensor& there = input_slot_->grad;
  const bool joins = there.defined() && there.scalar_type() == dy.scalar_type() && there.stride(1) == 1;
  const at::Tensor sum = module_->weight->quantized->quantized_transposed_product(dy, rows, out_begin_, out_count_,
                                                                                  joins ? there : at::Tensor());
  if (joins) {
    there = sum;
  } else {
    input_slot_->add(sum);
  }
}

void LinearPass::lora_backward(const Lora& lora, const at::Tensor& dy) const {
  if (gpu::has_kernels(dy)) return lora_backward_on_gpu(lora, dy);
  const LoraBranch& branch = *lora.branch;
  const at::Tensor columns = dy.narrow(1, lora.columns.begin, lora.columns.count);
  const at::Tensor through = at::mm(columns, lora.up()).mul_(branch.scale);  // [tokens, rank]
  if (branch.b->trained) {
    add_weight_gradient(branch.b->grad.narrow(0, lora.columns.first, lora.columns.count), columns,
                        at::mul(lora.down, branch.scale));
  }
  if (branch.a->trained) add_weight_gradient(branch.a->grad, through, lora.input);
  if (!input_slot_) return;
  if (lora.dropout.active()) {
    input_slot_->add(masked(at::mm(through, branch.a->value), layout_, lora.dropout));
  } else {
    input_slot_->add_product(through, branch.a->value);
  }
}

const LinearModule* LinearPass::quantizing() const {
  return input_slot_ && scales_.empty() && module_->quantizes_inputs() ? module_ : nullptr;
}

bool LinearPass::reads_gradient() const {
  return !loras_.empty() || !scales_.empty() || module_->weight->trained ||
         (module_->bias != nullptr && module_->bias->trained);
}

at::Tensor LinearPass::gradient_factors() const {
  return module_->weight->quantized->gradient_factors(out_begin_, out_count_);
}

void LinearPass::backward(at::Tensor dy, const Fp8Rows* rows) const {
  if (!scales_.empty() && (dy.use_count() > 1 || !dy.is_contiguous())) dy = dy.clone(at::MemoryFormat::Contiguous);
  for (const Scale& scale : scales_) {
    const at::Tensor columns = dy.narrow(1, scale.columns.begin, scale.columns.count);
    scale.scale.backward(columns, columns);
  }
  if (module_->bias != nullptr && module_->bias->trained) {
    add_column_sums(module_->bias->grad.narrow(0, out_begin_, out_count_), dy);
  }
  if (module_->weight->trained) {
    add_weight_gradient(module_->weight->grad.narrow(0, out_begin_, out_count_), dy, input_);
  }
  if (backward_in_block(dy)) return;
  // On a GPU the base's product adds to what the adapters gave, in one kernel.
  const bool adapters_first = gpu::has_kernels(dy);
  if (adapters_first) {
    for (const Lora& lora : loras_) lora_backward(lora, dy);
  }
  if (input_slot_ && module_->quantizes_inputs()) {
    add_quantized_to_input(dy, rows);
  } else if (input_slot_) {
    const at::ScalarType type = module_->weight->product_type.value_or(dy.scalar_type());
    const at::Tensor weight = weight_rows(*module_->weight, type, out_begin_, out_count_);
    if (type == dy.scalar_type()) {
      add_to_input(dy, weight);
    } else {
      input_slot_->add(product_with_transposed_weight(dy.to(type), weight).to(dy.scalar_type()));
    }
  }
  if (adapters_first) return;
  for (const Lora& lora : loras_) lora_backward(lora, dy);
}

}  // namespace finesweep::worker
