#include "worker/training/pruning.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace finesweep::worker {
namespace {

/// The mask of values [n] fp32 on the CPU, none negative.
at::Tensor mask_of(const at::Tensor& magnitudes, double amount) {
  const std::int64_t count = magnitudes.numel();
  at::Tensor mask = at::ones({count}, at::kByte);
  // nearbyint rounds half to even, as Python's round.
  const auto pruned = static_cast<std::int64_t>(std::nearbyint(amount * static_cast<double>(count)));
  if (pruned == 0) return mask;
  const float* values = magnitudes.const_data_ptr<float>();
  std::vector<float> sorted(values, values + count);
  std::nth_element(sorted.begin(), sorted.begin() + (pruned - 1), sorted.end());
  const float threshold = sorted[static_cast<std::size_t>(pruned - 1)];
  // All that is smaller goes; of those that equal the threshold the first, until there are enough.
  std::int64_t equal_ones = pruned - std::count_if(values, values + count, [&](float v) { return v < threshold; });
  std::uint8_t* kept = mask.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] < threshold || (values[i] == threshold && equal_ones-- > 0)) kept[i] = 0;
  }
  return mask;
}

}  // namespace

Result<std::vector<at::Tensor>> magnitude_masks(const std::vector<at::Tensor>& tensors, double amount,
                                                PruneScope scope) {
  std::vector<at::Tensor> magnitudes, masks;
  for (const at::Tensor& tensor : tensors) {
    at::Tensor values = tensor.to(at::kCPU, at::kFloat).contiguous().abs().reshape({-1});
    if (!values.isfinite().all().item<bool>()) {
      return Error{"A weight to prune is not a finite number: the training before has diverged."};
    }
    magnitudes.push_back(std::move(values));
  }
  if (scope == PruneScope::per_tensor) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      masks.push_back(mask_of(magnitudes[i], amount).view(tensors[i].sizes()));
    }
    return masks;
  }
  if (tensors.empty()) return masks;
  const at::Tensor all = mask_of(at::cat(magnitudes), amount);
  std::int64_t begin = 0;
  for (const at::Tensor& tensor : tensors) {
    masks.push_back(all.narrow(0, begin, tensor.numel()).view(tensor.sizes()));
    begin += tensor.numel();
  }
  return masks;
}

void ParameterMask::apply() const {
  const at::Tensor pruned = mask.eq(0);
  if (parameter->master.defined()) {
    parameter->master.masked_fill_(pruned, 0);
    parameter->refresh_value();
  } else {
    parameter->value = parameter->value.masked_fill(pruned, 0);
  }
}

double sparsity(const NamedMasks& masks) {
  std::int64_t kept = 0, all = 0;
  for (const auto& [name, mask] : masks) {
    kept += mask.sum(at::kLong).item<std::int64_t>();
    all += mask.numel();
  }
  return all == 0 ? 0 : static_cast<double>(all - kept) / static_cast<double>(all);
}

}  // namespace finesweep::worker
