#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <utility>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"

namespace finesweep::worker::gpu {

void activate(const at::Tensor& z, const at::Tensor& y, Activation activation) {
  call(&CudaModule::activation_forward, "activation", z, kind_of(activation), z.const_data_ptr(),
       y.mutable_data_ptr(), z.numel(), type_of(z));
}

void keep_own_columns(const at::Tensor& x, const RankColumns& columns, const Layout& layout, bool check) {
  call(&CudaModule::own_columns, "the ranks of a pack", x, x.mutable_data_ptr(), x.size(0), x.size(1), x.stride(0),
       layout->on(x.device()).token_jobs.const_data_ptr<std::int32_t>(),
       columns.jobs.const_data_ptr<std::int32_t>(), columns.scales.const_data_ptr<float>(),
       check ? columns.broken.mutable_data_ptr<std::int32_t>() : nullptr, type_of(x));
}

void scale_by_job(const at::Tensor& x, const at::Tensor& factors, const Layout& layout, const at::Tensor& to) {
  call(&CudaModule::job_scales_forward, "the scales of a pack", x, x.const_data_ptr(), x.stride(0),
       factors.const_data_ptr(), factors.stride(0),
       layout->on(x.device()).token_jobs.const_data_ptr<std::int32_t>(), to.mutable_data_ptr(), to.stride(0),
       x.size(0), x.size(1), type_of(x));
}

void scale_by_job_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& factors,
                           const Layout& layout, const at::Tensor& grad, const at::Tensor& dx) {
  const DeviceLayout& there = layout->on(dy.device());
  const bool wanted = grad.defined();
  call(&CudaModule::job_scales_backward, "the scales of a pack", dy, dy.const_data_ptr(), dy.stride(0),
       wanted ? x.const_data_ptr() : nullptr, wanted ? x.stride(0) : 0, factors.const_data_ptr(), factors.stride(0),
       there.row_jobs.const_data_ptr<std::int32_t>(), there.starts.const_data_ptr<std::int32_t>(), there.row_count,
       factors.size(0), wanted ? grad.mutable_data_ptr<float>() : nullptr, wanted ? grad.stride(0) : 0,
       dx.mutable_data_ptr(), dx.stride(0), dy.size(1), type_of(dy));
}

void activation_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, Activation activation) {
  call(&CudaModule::activation_backward, "activation's gradient", z, kind_of(activation), z.const_data_ptr(),
       dy.const_data_ptr(), dz.mutable_data_ptr(), z.numel(), type_of(z));
}

void gate(const at::Tensor& z, const at::Tensor& y, Activation activation) {
  call(&CudaModule::gate_forward, "gate", y, kind_of(activation), z.const_data_ptr(), y.mutable_data_ptr(),
       y.size(0), y.size(1), type_of(y));
}

void gate_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, Activation activation) {
  call(&CudaModule::gate_backward, "gate's gradient", z, kind_of(activation), z.const_data_ptr(),
       dy.const_data_ptr(), dz.mutable_data_ptr(), dy.size(0), dy.size(1), type_of(z));
}

Var gated(Tape* tape, const Var& z, Activation activation) {
  const at::Tensor y = at::empty({z.value.size(0), z.value.size(1) / 2}, z.value.options());
  gate(z.value, y, activation);
  if (tape == nullptr || !z.needs_grad()) return Var(y);
  const Var result = tape->track(y);
  tape->record([slot = result.slot, z_slot = z.slot, z = z.value, activation] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = std::move(slot->grad).contiguous(), dz = at::empty_like(z);
    gate_gradient(z, dy, dz, activation);
    z_slot->add(dz);
  });
  return result;
}

void rotate_in_place(const at::Tensor& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
                     std::int64_t size, float sign) {
  call(&CudaModule::rotate, "rotary embedding", x, x.mutable_data_ptr(), x.size(0), x.stride(0), heads, size,
       table.cosine.const_data_ptr<float>(), table.sine.const_data_ptr<float>(),
       positions.const_data_ptr<std::int64_t>(), sign, type_of(x));
}

}  // namespace finesweep::worker::gpu
