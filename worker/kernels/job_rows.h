#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

// What a pack computes job by job: with each job's own weights on its own rows, as the job alone would.

/// x [rows, …] in parts: part j are the rows begins[j] … begins[j + 1]. A part without rows has no value.
std::vector<Var> split_rows(Tape* tape, const Var& x, const std::vector<std::int64_t>& begins);
/// The way back of it: parts one behind the other.
Var join_rows(Tape* tape, const std::vector<Var>& parts);

/// join of compute(j, part j of x) over the jobs that have rows.
Var for_each_job(Tape* tape, const Var& x, const TokenLayout& layout,
                 const std::function<Var(std::size_t job, const Var& x)>& compute);

/// The scalars loss(j, part j of x), side by side: [jobs], 0 for a job without rows. `begins` as in split_rows.
Var losses_of_jobs(Tape* tape, const Var& x, const std::vector<std::int64_t>& begins,
                   const std::function<Var(std::size_t job, const Var& x)>& loss);

}  // namespace finesweep::worker
