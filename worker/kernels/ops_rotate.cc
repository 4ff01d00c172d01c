#include "worker/kernels/differentiate.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {

Var rotate(Tape* tape, const Var& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
           std::int64_t size) {
  return differentiate(tape, {x}, {}, [&](const std::vector<at::Tensor>& v) {
    return reference::rotate(v[0], table, positions, heads, size);
  });
}

}  // namespace finesweep::worker
