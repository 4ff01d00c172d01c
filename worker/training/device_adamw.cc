#include "worker/training/device_adamw.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

/// Plain data in memory that the device can read while the host goes on.
template <typename T>
at::Tensor pinned(const std::vector<T>& values) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
  const at::Tensor copy = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  std::memcpy(copy.mutable_data_ptr(), values.data(), static_cast<std::size_t>(bytes));
  return copy;
}

template <typename T>
at::Tensor on_device(const std::vector<T>& values, c10::Device device) {
  return pinned(values).to(device, /*non_blocking=*/true);
}

bool in_place(const at::Tensor& x, at::ScalarType type) {
  return x.defined() && x.is_cuda() && x.is_contiguous() && x.scalar_type() == type;
}

}  // namespace

bool DeviceAdamW::available(const std::vector<Parameter*>& parameters) {
  return !parameters.empty() && std::all_of(parameters.begin(), parameters.end(), [](const Parameter* p) {
    return in_place(p->master, at::kFloat) && in_place(p->grad, at::kFloat) && p->value.is_contiguous() &&
           gpu::has_kernels(p->value);
  });
}

DeviceAdamW::DeviceAdamW(const std::vector<Parameter*>& parameters, const std::vector<AdamW::Moments>& moments,
                         const AdamWOptions& options)
    : options_(options) {
  const c10::Device device = parameters.front()->master.device();
  const std::int64_t chunk = cuda_module()->adamw_chunk();
  std::vector<FinesweepAdamWTensor> tensors;
  std::vector<FinesweepAdamWChunk> chunks;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = *parameters[i];
    FinesweepAdamWTensor tensor{};
    tensor.master = p.master.mutable_data_ptr<float>();
    tensor.first = moments[i].first.mutable_data_ptr<float>();
    tensor.second = moments[i].second.mutable_data_ptr<float>();
    tensor.grad = p.grad.mutable_data_ptr<float>();
    tensor.value = p.value.is_same(p.master) || p.value.data_ptr() == p.master.data_ptr()
                       ? nullptr
                       : p.value.mutable_data_ptr();
    tensor.type = gpu::type_of(p.value);
    tensor.decays = p.decays ? 1 : 0;
    tensor.count = p.master.numel();
    tensors.push_back(tensor);
    for (std::int64_t begin = 0; begin < tensor.count; begin += chunk) {
      chunks.push_back({begin, static_cast<std::int32_t>(i), 0});
    }
  }
  chunk_count_ = static_cast<std::int64_t>(chunks.size());
  tensors_ = on_device(tensors, device);
  chunks_ = on_device(chunks, device);
  const at::TensorOptions wide = at::TensorOptions(at::kDouble).device(device);
  loss_ = at::zeros({1}, wide);
  partial_ = at::empty({std::max<std::int64_t>(1, chunk_count_)}, wide);
  numbers_ = at::empty({static_cast<std::int64_t>(sizeof(FinesweepAdamWNumbers))}, wide.dtype(at::kByte));
  resume();
}

void DeviceAdamW::resume() {
  FinesweepStepResult fresh{};
  fresh.finite = 1;
  const at::Tensor begin = pinned(std::vector<FinesweepStepResult>{fresh});
  if (!result_.defined()) result_ = at::empty(begin.sizes(), loss_.options().dtype(at::kByte));
  result_.copy_(begin, /*non_blocking=*/true);
}

void DeviceAdamW::update(double learning_rate, std::int64_t step, double unscale) {
  const ProfileScope scope("AdamW", OperatorGroup::optimiser);
  const double exponent = static_cast<double>(step);
  FinesweepAdamWNumbers numbers{};
  numbers.decay = static_cast<float>(1 - learning_rate * options_.weight_decay);
  numbers.beta1 = static_cast<float>(options_.beta1);
  numbers.beta2 = static_cast<float>(options_.beta2);
  numbers.one_minus_beta1 = static_cast<float>(1 - options_.beta1);
  numbers.one_minus_beta2 = static_cast<float>(1 - options_.beta2);
  numbers.epsilon = static_cast<float>(options_.epsilon);
  numbers.step_size = static_cast<float>(learning_rate / (1 - std::pow(options_.beta1, exponent)));
  numbers.inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, exponent)));
  numbers.max_norm = static_cast<float>(options_.max_grad_norm);
  numbers.unscale = unscale;
  numbers_.copy_(pinned(std::vector<FinesweepAdamWNumbers>{numbers}), /*non_blocking=*/true);
  gpu::call(&CudaModule::adamw, "AdamW", loss_, static_cast<const FinesweepAdamWTensor*>(tensors_.const_data_ptr()),
            static_cast<const FinesweepAdamWChunk*>(chunks_.const_data_ptr()), chunk_count_,
            static_cast<const FinesweepAdamWNumbers*>(numbers_.const_data_ptr()), loss_.mutable_data_ptr<double>(),
            partial_.mutable_data_ptr<double>(), static_cast<FinesweepStepResult*>(result_.mutable_data_ptr()));
}

void DeviceAdamW::copy_result(const at::Tensor& pinned) const {
  at::Tensor to = pinned;
  to.copy_(result_, /*non_blocking=*/true);
}

std::int64_t DeviceAdamW::result_bytes() {
  return static_cast<std::int64_t>(sizeof(FinesweepStepResult));
}

DeviceStepResult DeviceAdamW::read_result(const at::Tensor& pinned) {
  FinesweepStepResult result{};
  std::memcpy(&result, pinned.const_data_ptr(), sizeof result);
  return {result.loss, result.grad_norm, result.finite != 0};
}

}  // namespace finesweep::worker
