#include "worker/training/fused_lora.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>

#include "worker/kernels/gpu/kernels.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;

bool fits(const LinearModule& module) {
  if (module.branches.empty() || !module.scales.empty() || !module.of_jobs.empty()) return false;
  const Parameter& weight = *module.weight;
  if (weight.quantized || weight.trained || !gpu::has_kernels(weight.value)) return false;
  const at::ScalarType type = weight.value.scalar_type();
  if (type != at::kBFloat16 && type != at::kHalf) return false;
  return std::all_of(module.branches.begin(), module.branches.end(), [&](const LoraBranch& branch) {
    return branch.dropout == 0 && branch.scale == module.branches.front().scale &&
           branch.a->value.scalar_type() == type && branch.b->value.scalar_type() == type;
  });
}

LoraBlock block_of(const LinearModule& module) {
  LoraBlock block;
  const at::Tensor& weight = module.weight->value;
  block.out = weight.size(0);
  block.in = weight.size(1);
  for (const LoraBranch& branch : module.branches) {
    block.begins.push_back(block.ranks);
    block.ranks += padded_ranks(branch.a->rows());
  }
  block.grad_a.resize(module.branches.size());
  block.grad_b.resize(module.branches.size());
  return block;
}

std::int64_t bytes_of(const LoraBlock& block) {
  return (block.out + block.ranks) * (block.in + block.ranks) * 2;
}

}  // namespace

FusedLora::FusedLora(const std::vector<LinearModule*>& modules, Gradients gradients) {
  std::int64_t bytes = 0;
  for (LinearModule* module : modules) {
    if (!fits(*module)) continue;
    fused_.push_back(module);
    bytes += bytes_of(block_of(*module));
  }
  if (bytes > kMostBytes) fused_.clear();
  for (LinearModule* module : fused_) {
    auto block = std::make_shared<LoraBlock>(block_of(*module));
    const at::Tensor& weight = module->weight->value;
    block->matrix = at::zeros({block->out + block->ranks, block->in + block->ranks}, weight.options());
    block->matrix.narrow(0, 0, block->out).narrow(1, 0, block->in).copy_(weight);
    for (std::size_t i = 0; i < module->branches.size(); ++i) {
      const LoraBranch& branch = module->branches[i];
      const std::int64_t begin = block->begins[i];
      const at::Tensor a = block->a().narrow(0, begin, branch.a->rows());
      const at::Tensor b =
          block->b().narrow(0, branch.out_begin, branch.b->rows()).narrow(1, begin, branch.b->columns());
      a.copy_(branch.a->value);
      b.copy_(branch.b->value);
      branch.a->value = a;
      branch.b->value = b;
      const std::int64_t ranks = branch.a->rows(), padded = padded_ranks(ranks);
      if (gradients == Gradients::stay || ranks == padded || !branch.a->trained || !branch.b->trained) continue;
      block->grad_a[i] = at::zeros({padded, block->in}, branch.a->grad.options());
      block->grad_b[i] = at::zeros({branch.b->rows(), padded}, branch.b->grad.options());
      branch.a->grad = block->grad_a[i].narrow(0, 0, ranks).copy_(branch.a->grad);
      branch.b->grad = block->grad_b[i].narrow(1, 0, ranks).copy_(branch.b->grad);
    }
    module->block = std::move(block);
  }
}

FusedLora::~FusedLora() {
  for (LinearModule* module : fused_) {
    for (const LoraBranch& branch : module->branches) {
      branch.a->value = branch.a->value.contiguous();
      branch.b->value = branch.b->value.contiguous();
      if (branch.b->grad.defined()) branch.b->grad = branch.b->grad.contiguous();
    }
    module->block.reset();
  }
}

}  // namespace finesweep::worker
