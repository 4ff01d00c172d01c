#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "worker/kernels/cuda/module.h"
#include "worker/kernels/denominator.h"
#include "worker/kernels/dropout.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker::gpu {

/// Whether the kernels of libfinesweep-cuda.so compute operations on such a tensor.
bool has_kernels(const at::Tensor& x);
bool has_kernels(at::ScalarType type, c10::Device device);

/// FinesweepFloat.
int type_of(const at::Tensor& x);
/// FinesweepActivation.
int kind_of(Activation activation);
void* stream_of(const at::Tensor& x);

/// Calls the function of the module on the current stream of the tensor's device; throws what launching failed
/// with.
template <typename Function, typename... Arguments>
void call(Function CudaModule::*function, const char* what, const at::Tensor& on, Arguments... arguments) {
  check_cuda((cuda_module()->*function)(arguments..., stream_of(on)), what);
}

/// Of hidden states [tokens, width]. The layout may be null where dropout is inactive.
FinesweepDropout kernel_view(const Dropout& dropout, const Layout& layout, c10::Device device);
/// Of attention probabilities.
FinesweepDropout attention_view(const Dropout& dropout, const Layout& queries, c10::Device device);
FinesweepDenominator kernel_view(const Denominator& denominator);
/// Of the tokens of a pack; `index` as TokenLabels has it.
FinesweepDenominator kernel_view(const Denominator& denominator, const DeviceLayout& layout,
                                 const at::Tensor& index);
FinesweepNormWeights kernel_view(const NormModule& module);

template <typename T>
const T* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}
inline const void* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr() : nullptr;
}
inline void* writable_or_null(const at::Tensor& x) {
  return x.defined() ? x.mutable_data_ptr() : nullptr;
}

/// Copies a tensor of the host to the device without waiting for the device.
at::Tensor upload(const at::Tensor& on_cpu, c10::Device device);

}  // namespace finesweep::worker::gpu
