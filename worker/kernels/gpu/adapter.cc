#include <ATen/ops/empty.h>

#include <cstdlib>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"

namespace finesweep::worker::gpu {
namespace {

constexpr std::int64_t kMostRank = 16, kMostColumns = 100000;

bool is_wide(const at::Tensor& x) {
  return x.stride(1) == 1 && x.stride(0) % 8 == 0 && x.size(1) % 8 == 0 && x.size(1) <= kMostColumns &&
         reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

}  // namespace

bool add_adapter_gradients(const at::Tensor& d, const at::Tensor& x, const at::Tensor& down,
                           const at::Tensor& through, double scale, const at::Tensor& grad_b,
                           const at::Tensor& grad_a) {
  static const bool off = std::getenv("FINESWEEP_NO_ADAPTER_KERNEL") != nullptr;
  if (off) return false;
  const at::ScalarType type = d.scalar_type();
  if ((type != at::kBFloat16 && type != at::kHalf) || x.scalar_type() != type || down.scalar_type() != type ||
      through.scalar_type() != type || down.size(1) > kMostRank || !is_wide(d) || !is_wide(x) ||
      down.stride(1) != 1 || through.stride(1) != 1 || !grad_b.is_contiguous() || !grad_a.is_contiguous()) {
    return false;
  }
  FinesweepAdapterGradients what{};
  what.tokens = d.size(0);
  what.rank = down.size(1);
  what.outs = d.size(1);
  what.ins = x.size(1);
  what.d = d.const_data_ptr();
  what.x = x.const_data_ptr();
  what.down = down.const_data_ptr();
  what.through = through.const_data_ptr();
  what.d_stride = d.stride(0);
  what.x_stride = x.stride(0);
  what.down_stride = down.stride(0);
  what.through_stride = through.stride(0);
  what.scale = static_cast<float>(scale);
  what.b = grad_b.mutable_data_ptr<float>();
  what.a = grad_a.mutable_data_ptr<float>();
  const at::Tensor partial =
      at::empty({cuda_module()->adapter_scratch(what.tokens, what.outs, what.ins)}, d.options().dtype(at::kFloat));
  call(&CudaModule::adapter_gradients, "an adapter's gradients", d, &what, partial.mutable_data_ptr<float>(),
       type_of(d));
  return true;
}

}  // namespace finesweep::worker::gpu
