#include "worker/kernels/gpu/kernels.h"

#include <ATen/ops/empty.h>

#include "worker/kernels/gpu/float_type.h"
#include "worker/kernels/upload.h"
#include "worker/random.h"

namespace finesweep::worker::gpu {
namespace {

FinesweepDropout without_tokens(const Dropout& dropout) {
  FinesweepDropout view{};
  if (!dropout.active()) return view;
  view.threshold = dropout.threshold;
  view.scale = dropout.scale();
  view.key = dropout.stream(0).key();
  view.site = dropout.site;
  view.step = dropout.step_on_device;
  view.step_number = dropout.step;
  return view;
}

const FinesweepRowStream* streams_of(const DeviceLayout& layout) {
  static_assert(sizeof(FinesweepRowStream) == 3 * sizeof(std::int64_t));
  return layout.streams.defined() ? static_cast<const FinesweepRowStream*>(layout.streams.const_data_ptr())
                                  : nullptr;
}

}  // namespace

bool has_kernels(at::ScalarType type, c10::Device device) {
  return device.is_cuda() && (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) &&
         cuda_module() != nullptr;
}

bool has_kernels(const at::Tensor& x) {
  return has_kernels(x.scalar_type(), x.device());
}

int type_of(const at::Tensor& x) {
  return float_type_of(x);
}

int kind_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return kActivationNone;
    case Activation::gelu:
      return kActivationGelu;
    case Activation::gelu_tanh:
      return kActivationGeluTanh;
    case Activation::relu:
      return kActivationRelu;
    case Activation::tanh:
      return kActivationTanh;
    case Activation::silu:
      return kActivationSilu;
  }
  return kActivationNone;
}

void* stream_of(const at::Tensor& x) {
  return current_stream(x.device());
}

FinesweepDropout kernel_view(const Dropout& dropout, const Layout& layout, c10::Device device) {
  FinesweepDropout view = without_tokens(dropout);
  if (view.threshold == 0) return view;
  const DeviceLayout& tokens = layout->on(device);
  view.rows = tokens.token_rows.const_data_ptr<std::int32_t>();
  view.places = tokens.places.const_data_ptr<std::int32_t>();
  view.streams = streams_of(tokens);
  return view;
}

FinesweepDropout attention_view(const Dropout& dropout, const Layout& queries, c10::Device device) {
  FinesweepDropout view = without_tokens(dropout);
  if (view.threshold == 0) return view;
  const DeviceLayout& layout = queries->on(device);
  view.rows = layout.rows.const_data_ptr<std::int32_t>();
  view.streams = streams_of(layout);
  return view;
}

FinesweepDenominator kernel_view(const Denominator& denominator) {
  FinesweepDenominator view{};
  if (denominator.is_number()) {
    view.number = denominator.number();
  } else {
    view.device = denominator.on_device().const_data_ptr<double>();
  }
  return view;
}

FinesweepDenominator kernel_view(const Denominator& denominator, const DeviceLayout& layout,
                                 const at::Tensor& index) {
  FinesweepDenominator view = kernel_view(denominator);
  view.jobs = layout.token_jobs.const_data_ptr<std::int32_t>();
  view.index = data_or_null<std::int64_t>(index);
  view.job_count = denominator.on_device().numel();
  return view;
}

FinesweepNormWeights kernel_view(const NormModule& module) {
  return {module.weight->value.const_data_ptr<float>(),
          module.bias == nullptr ? nullptr : module.bias->value.const_data_ptr<float>(),
          static_cast<float>(module.epsilon), module.kind == NormKind::layer ? 1 : 0};
}

at::Tensor upload(const at::Tensor& on_cpu, c10::Device device) {
  const at::Tensor there = at::empty(on_cpu.sizes(), on_cpu.options().device(device));
  worker::upload(on_cpu, there);
  return there;
}

}  // namespace finesweep::worker::gpu
