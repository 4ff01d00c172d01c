#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/norm_linear.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

Var norm_linear(Tape* tape, const Var& x, const NormModule& norm, const LinearModule& module, const Layout& layout,
                const DropoutRun& run, const NormLinearOptions& options) {
  if (tape == nullptr) {
    const ProfileScope scope("norm and linear", OperatorGroup::matrix_product);
    const at::Tensor y = gpu::decode_linear(
        x.value, module,
        {.norm = &norm, .activation = options.activation, .gated = options.gated, .to_float = options.to_float});
    if (y.defined()) return Var(y);
  }
  const Var normed = worker::norm(tape, x, norm, &module);
  const Var y = options.gated ? linear_gated(tape, normed, module, layout, run, options.activation, options.next)
                              : linear(tape, normed, module, layout, run, options.activation, 0, -1, options.next);
  return options.to_float ? worker::to_float(tape, y) : y;
}

}  // namespace finesweep::worker
