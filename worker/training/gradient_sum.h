#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "worker/collectives/process_group.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/parameter.h"
#include "worker/kernels/tape.h"

namespace finesweep::worker {

/// Adds up the gradients that the processes of a group computed, each of its share of a batch, while the rest of
/// the way back goes on (as https://arxiv.org/abs/2006.15704).
///
/// Gradients lie one behind the other in buckets, the last parameters of the model first, as the way back is done
/// with them: each Parameter::grad becomes a view of its bucket. On a CPU a bucket leaves as soon as it is whole.
/// On a GPU the way back, captured or not, leaves a mark there, and the sum waits for that mark alone. An embedding
/// table on a CPU gives the rows that any rank touched.
class GradientSum {
 public:
  struct Options {
    std::int64_t bucket_bytes = std::int64_t{25} << 20;
  };
  /// Before anything holds on to the gradients' memory. All outlive it; all ranks have the same parameters.
  GradientSum(const std::vector<Parameter*>& parameters, ProcessGroup& group, const Options& options);
  GradientSum(const std::vector<Parameter*>& parameters, ProcessGroup& group)
      : GradientSum(parameters, group, Options()) {}

  /// Of a pass that ends a step, forward and back; on a GPU of any pass, since a captured one may be either.
  std::unique_ptr<GradientWatch> watch(const Tape& tape);
  /// On a GPU, behind the way back of every pass.
  void end_pass();
  /// Once a step, behind its passes: sums what is not under way yet, and `loss` (fp64 [1], on the group's device).
  /// Behind it the gradients are those of all ranks. `passes`: whether this rank had any.
  enum class Passes { none, some };
  void finish(const at::Tensor& loss, Passes passes);

  std::size_t buckets() const { return buckets_.size(); }

 private:
  struct Bucket {
    at::Tensor values;  // fp32 [n]
    std::vector<const Parameter*> parameters;
    std::size_t missing = 0;  // of a pass that is watched
    std::unique_ptr<ProcessGroup::Mark> mark;
  };

  void add_bucket(const std::vector<Parameter*>& members);
  void whole(const Parameter& parameter);
  void sum_tables();

  ProcessGroup& group_;
  std::vector<Bucket> buckets_;
  std::unordered_map<const Parameter*, std::size_t> bucket_of_;
  std::vector<Parameter*> tables_;
  std::size_t started_ = 0;  // buckets of this step
};

}  // namespace finesweep::worker
