#include "worker/kernels/cpu/rotary.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

void rotate_in_place(const at::Tensor& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
                     std::int64_t size, float sign) {
  if (x.is_cuda()) return gpu::rotate_in_place(x, table, positions, heads, size, sign);
  with_storage(x.scalar_type(), [&]<typename T>() {
    cpu::RotaryKernels<T>::rotate(x.mutable_data_ptr<T>(), x.size(0), x.stride(0), heads, size,
                                  table.cosine.const_data_ptr<float>(), table.sine.const_data_ptr<float>(),
                                  positions.const_data_ptr<std::int64_t>(), sign);
  });
}

}  // namespace

Var rotate(Tape* tape, const Var& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
           std::int64_t size) {
  const ProfileScope scope("rotary embedding", OperatorGroup::attention);
  const bool on_gpu = gpu::has_kernels(x.value) && x.value.stride(1) == 1;
  if (!on_gpu && !has_kernels(x.value)) {
    return differentiate(tape, {x}, {}, [&](const std::vector<at::Tensor>& v) {
      return reference::rotate(v[0], table, positions, heads, size);
    });
  }
  rotate_in_place(x.value, table, positions, heads, size, 1);
  if (tape == nullptr || !x.needs_grad()) return Var(x.value);
  const Var result = tape->track(x.value);
  tape->record([slot = result.slot, x_slot = x.slot, table, positions, heads, size] {
    at::Tensor gradient = std::move(slot->grad);
    if (!gradient.defined()) return;
    if (gradient.use_count() > 1 || !gradient.is_contiguous())
      gradient = gradient.clone(at::MemoryFormat::Contiguous);
    rotate_in_place(gradient, table, positions, heads, size, -1);
    x_slot->add(gradient);
  });
  return result;
}

}  // namespace finesweep::worker
