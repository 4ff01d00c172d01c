#include "worker/quantization/nf4_cuda.h"

#include <ATen/ops/empty.h>

#include "worker/kernels/cuda/module.h"
#include "worker/kernels/gpu/float_type.h"

namespace finesweep::worker::cuda {
namespace {

constexpr std::int64_t kMostTokens = 8;

FinesweepNf4 view_of(const Nf4Tensor& tensor) {
  FinesweepNf4 view{};
  view.packed = tensor.packed.const_data_ptr<std::uint8_t>();
  view.block_size = tensor.block_size;
  if (!tensor.nested) {
    view.absmax = tensor.absmax.const_data_ptr<float>();
    return view;
  }
  view.codes = tensor.nested->codes.const_data_ptr<std::uint8_t>();
  view.nested_absmax = tensor.nested->absmax.const_data_ptr<float>();
  view.map = tensor.nested->map.const_data_ptr<float>();
  view.offset = tensor.nested->offset;
  view.nested_block = tensor.nested->block_size;
  return view;
}

}  // namespace

bool has_kernels(const Nf4Tensor& tensor) {
  return tensor.packed.is_cuda() && cuda_module() != nullptr;
}

void dequantize(const Nf4Tensor& tensor, std::int64_t first, const at::Tensor& out) {
  const FinesweepNf4 view = view_of(tensor);
  check_cuda(cuda_module()->nf4_dequantize(&view, first, out.numel(), out.mutable_data_ptr(),
                                           gpu::float_type_of(out), current_stream(out.device())),
             "dequantising NF4");
}

bool multiplies_directly(const Nf4Tensor& w, std::int64_t tokens) {
  return has_kernels(w) && tokens >= 1 && tokens <= kMostTokens && w.block_size % 32 == 0 &&
         w.shape[1] % w.block_size == 0;
}

at::Tensor product(const at::Tensor& x, const Nf4Tensor& w) {
  const at::Tensor y = at::empty({x.size(0), w.shape[0]}, x.options());
  const FinesweepNf4 view = view_of(w);
  check_cuda(cuda_module()->nf4_product(&view, w.shape[0], w.shape[1], x.const_data_ptr(), x.size(0),
                                        y.mutable_data_ptr(), gpu::float_type_of(x), current_stream(x.device())),
             "multiplying with NF4");
  return y;
}

}  // namespace finesweep::worker::cuda
