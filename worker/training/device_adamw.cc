#include "worker/training/device_adamw.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/upload.h"

namespace finesweep::worker {
namespace {

bool in_place(const at::Tensor& x, at::ScalarType type) {
  return x.defined() && x.is_cuda() && x.is_contiguous() && x.scalar_type() == type;
}

/// How far apart the rows of a matrix, or of what lies in one, are.
std::int64_t stride_of(const at::Tensor& x) {
  return x.dim() == 2 && !x.is_contiguous() ? x.stride(0) : x.dim() == 2 ? x.size(1) : x.numel();
}

FinesweepAdamWTensor kernel_view(const DeviceAdamW::Tensor& of, std::int32_t job) {
  Parameter& p = *of.parameter;
  const at::Tensor& grad = of.grad.defined() ? of.grad : p.grad;
  const at::Tensor& value = of.value.defined() ? of.value : p.value;
  FinesweepAdamWTensor tensor{};
  tensor.master = p.master.mutable_data_ptr<float>();
  tensor.first = of.moments->first.mutable_data_ptr<float>();
  tensor.second = of.moments->second.mutable_data_ptr<float>();
  tensor.grad = grad.mutable_data_ptr<float>();
  tensor.value = value.data_ptr() == p.master.data_ptr() ? nullptr : value.mutable_data_ptr();
  tensor.type = gpu::type_of(value);
  tensor.decays = p.decays ? 1 : 0;
  tensor.count = of.end < 0 ? p.master.numel() : of.end;
  tensor.columns = p.master.dim() == 2 ? p.master.size(1) : p.master.numel();
  tensor.grad_stride = stride_of(grad);
  tensor.value_stride = stride_of(value);
  tensor.job = job;
  tensor.shared = of.value.defined() ? 1 : 0;
  return tensor;
}

FinesweepAdamWNumbers numbers_of(const DeviceAdamW::Step& step, const AdamWOptions& options) {
  const double exponent = static_cast<double>(step.step);
  FinesweepAdamWNumbers numbers{};
  numbers.decay = static_cast<float>(1 - step.learning_rate * options.weight_decay);
  numbers.beta1 = static_cast<float>(options.beta1);
  numbers.beta2 = static_cast<float>(options.beta2);
  numbers.one_minus_beta1 = static_cast<float>(1 - options.beta1);
  numbers.one_minus_beta2 = static_cast<float>(1 - options.beta2);
  numbers.epsilon = static_cast<float>(options.epsilon);
  numbers.step_size = static_cast<float>(step.learning_rate / (1 - std::pow(options.beta1, exponent)));
  numbers.inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(options.beta2, exponent)));
  numbers.max_norm = static_cast<float>(options.max_grad_norm);
  numbers.unscale = step.unscale;
  return numbers;
}

DeviceAdamW::Job job_of(const std::vector<Parameter*>& parameters, const std::vector<AdamW::Moments>& moments,
                        const AdamWOptions& options) {
  DeviceAdamW::Job job;
  for (std::size_t i = 0; i < parameters.size(); ++i) job.tensors.push_back({parameters[i], &moments[i]});
  job.options = options;
  return job;
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
    : DeviceAdamW({job_of(parameters, moments, options)}) {}

DeviceAdamW::DeviceAdamW(const std::vector<Job>& jobs, at::Tensor broken) : broken_(std::move(broken)) {
  const c10::Device device = jobs.front().tensors.front().parameter->master.device();
  const std::int64_t chunk = cuda_module()->adamw_chunk();
  std::vector<FinesweepAdamWTensor> tensors;
  std::vector<FinesweepAdamWChunk> chunks;
  std::vector<FinesweepAdamWJob> chunks_of_jobs;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    options_.push_back(jobs[j].options);
    std::vector<std::int64_t> ends{static_cast<std::int64_t>(chunks.size())};
    const auto first = static_cast<std::int64_t>(chunks.size());
    for (const Tensor& of : jobs[j].tensors) {
      const auto number = static_cast<std::int32_t>(tensors.size());
      tensors.push_back(kernel_view(of, static_cast<std::int32_t>(j)));
      for (std::int64_t begin = of.begin; begin < tensors.back().count; begin += chunk)
        chunks.push_back({begin, number, 0});
      ends.push_back(static_cast<std::int64_t>(chunks.size()));
    }
    for (const std::size_t tensors_before : jobs[j].groups) group_ends_.push_back(ends[tensors_before]);
    chunks_of_jobs.push_back({first, static_cast<std::int64_t>(chunks.size())});
  }
  chunk_count_ = static_cast<std::int64_t>(chunks.size());
  tensors_ = uploaded(tensors, device);
  chunks_ = uploaded(chunks, device);
  jobs_ = uploaded(chunks_of_jobs, device);
  const at::TensorOptions wide = at::TensorOptions(at::kDouble).device(device);
  const auto count = static_cast<std::int64_t>(jobs.size());
  of_all_ = at::zeros({1 + count}, wide);
  losses_ = of_all_.narrow(0, 1, count);
  one_job_ = uploaded(std::vector<FinesweepAdamWJob>{{0, 1}}, device);
  partial_ = at::empty({std::max<std::int64_t>(1, chunk_count_)}, wide);
  results_ = at::empty({count * static_cast<std::int64_t>(sizeof(FinesweepStepResult))}, wide.dtype(at::kByte));
  resume();
}

void DeviceAdamW::resume() {
  FinesweepStepResult fresh{};
  fresh.finite = 1;
  results_.copy_(uploaded(std::vector<FinesweepStepResult>(options_.size(), fresh), results_.device()));
}

at::Tensor DeviceAdamW::numbers_of_all(const std::vector<Step>& steps) const {
  std::vector<FinesweepAdamWNumbers> numbers;
  for (std::size_t j = 0; j < steps.size(); ++j) numbers.push_back(numbers_of(steps[j], options_[j]));
  return uploaded(numbers, losses_.device());
}

void DeviceAdamW::sum_squares(double* total) {
  gpu::call(&CudaModule::adamw_squares, "AdamW", losses_,
            static_cast<const FinesweepAdamWTensor*>(tensors_.const_data_ptr()),
            static_cast<const FinesweepAdamWChunk*>(chunks_.const_data_ptr()), chunk_count_,
            partial_.mutable_data_ptr<double>(), total);
}

void DeviceAdamW::decide(const at::Tensor& partial, const at::Tensor& jobs, const at::Tensor& numbers) {
  gpu::call(&CudaModule::adamw_verdict, "AdamW", losses_, partial.const_data_ptr<double>(),
            static_cast<const FinesweepAdamWJob*>(jobs.const_data_ptr()),
            static_cast<std::int64_t>(options_.size()),
            static_cast<const FinesweepAdamWNumbers*>(numbers.const_data_ptr()), losses_.mutable_data_ptr<double>(),
            broken_.defined() ? broken_.mutable_data_ptr<std::int32_t>() : nullptr,
            static_cast<FinesweepStepResult*>(results_.mutable_data_ptr()));
}

void DeviceAdamW::update_chunks(std::int64_t begin, std::int64_t end, const at::Tensor& numbers) {
  gpu::call(&CudaModule::adamw_update, "AdamW", losses_,
            static_cast<const FinesweepAdamWTensor*>(tensors_.const_data_ptr()),
            static_cast<const FinesweepAdamWChunk*>(chunks_.const_data_ptr()) + begin, end - begin,
            static_cast<std::int64_t>(options_.size()),
            static_cast<const FinesweepAdamWNumbers*>(numbers.const_data_ptr()),
            static_cast<const FinesweepStepResult*>(results_.const_data_ptr()),
            broken_.defined() ? broken_.mutable_data_ptr<std::int32_t>() : nullptr);
}

void DeviceAdamW::update(const std::vector<Step>& steps) {
  const ProfileScope scope("AdamW", OperatorGroup::optimiser);
  const at::Tensor numbers = numbers_of_all(steps);
  sum_squares(nullptr);
  decide(partial_, jobs_, numbers);
  update_chunks(0, chunk_count_, numbers);
}

void DeviceAdamW::update(const Step& step, Others& others) {
  const ProfileScope scope("AdamW", OperatorGroup::optimiser);
  const at::Tensor numbers = numbers_of_all({step});
  sum_squares(of_all_.mutable_data_ptr<double>());
  others.add_up(of_all_);
  decide(of_all_, one_job_, numbers);
  std::int64_t begin = 0;
  for (std::size_t group = 0; group < group_ends_.size(); ++group) {
    update_chunks(std::exchange(begin, group_ends_[group]), group_ends_[group], numbers);
    others.updated(group);
  }
}

std::vector<DeviceStepResult> DeviceStepResults::get() const {
  const at::Tensor& bytes = bytes_.get();
  std::vector<FinesweepStepResult> results(static_cast<std::size_t>(bytes.numel()) / sizeof(FinesweepStepResult));
  std::memcpy(results.data(), bytes.const_data_ptr(), results.size() * sizeof(FinesweepStepResult));
  std::vector<DeviceStepResult> read;
  for (const FinesweepStepResult& one : results) {
    read.push_back({one.loss, one.grad_norm, one.finite != 0, one.broken != 0});
  }
  return read;
}

}  // namespace finesweep::worker
