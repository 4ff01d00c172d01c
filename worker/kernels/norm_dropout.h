#pragma once

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// dropout(norm(x)): the end of an embedding. The layout may be null where dropout is inactive.
Var norm_dropout(Tape* tape, const Var& x, const NormModule& module, const Layout& layout, const Dropout& dropout);

}  // namespace finesweep::worker
