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
#include "worker/training/device_adamw.h"

namespace finesweep::worker {

/// Adds up the gradients that the processes of a group computed, each of its share of a batch, while the rest of
/// the way back goes on (as https://arxiv.org/abs/2006.15704).
///
/// Gradients lie one behind the other in buckets, the last parameters of the model first, as the way back is done
/// with them: each Parameter::grad becomes a view of its bucket. On a CPU a bucket leaves as soon as it is whole.
/// On a GPU the way back, captured or not, leaves a mark there, and the sum waits for that mark alone. An embedding
/// table on a CPU gives the rows that any rank touched.
///
/// On GPUs, where all of a model is trained, each rank then updates a share of the weights alone (ZeRO stage 1,
/// https://arxiv.org/abs/1910.02054): of every bucket it gets the sum of one part, which halves what goes over the
/// links before the update, and gives the others the weights that it made of it. Weights lie in buckets likewise.
class GradientSum final : public DeviceAdamW::Others {
 public:
  struct Options {
    std::int64_t bucket_bytes = std::int64_t{25} << 20;
    /// Each rank updates a share of the weights, if they can be shared out.
    bool shares_update = false;
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
  /// Behind it the gradients are those of all ranks, or where the update is shared those of this one's share, and
  /// the loss is not summed yet. `passes`: whether this rank had any.
  enum class Passes { none, some };
  void finish(const at::Tensor& loss, Passes passes);

  bool shares_update() const { return shares_update_; }
  /// What this rank updates, a bucket a group. The last bucket is the first: that of the embeddings, which is
  /// large, goes over the links while others are updated.
  DeviceAdamW::Job share(const std::vector<Parameter*>& parameters,
                         const std::vector<AdamW::Moments>& moments) const;
  void add_up(const at::Tensor& numbers) override;
  void updated(std::size_t group) override;
  /// Behind all groups: the weights are everybody's, to the passes that follow.
  void finish_update() { group_.finish_sums(); }
  /// Brings the fp32 weights and moments of all ranks together, as checkpoints want them. All ranks call it.
  void make_whole(const std::vector<Parameter*>& parameters, const std::vector<AdamW::Moments>& moments);

  std::size_t buckets() const { return buckets_.size(); }

 private:
  struct Bucket {
    at::Tensor values;   // fp32 [n]
    at::Tensor weights;  // [n], in the type of the passes; where the update is shared
    std::vector<const Parameter*> parameters;
    std::size_t missing = 0;  // of a pass that is watched
    std::unique_ptr<ProcessGroup::Mark> mark;
  };

  /// Values `begin` to before `end` of a parameter, which one rank updates.
  struct Piece {
    const Parameter* parameter = nullptr;
    std::int64_t begin = 0, end = 0;
  };

  bool has_equal_parts(const Parameter& parameter) const;
  bool can_share(const std::vector<Parameter*>& parameters) const;
  void add_bucket(const std::vector<Parameter*>& members);
  std::vector<Piece> pieces_of(const Bucket& bucket, int rank) const;
  void whole(const Parameter& parameter);
  void sum_tables();

  ProcessGroup& group_;
  std::vector<Bucket> buckets_;
  std::unordered_map<const Parameter*, std::size_t> bucket_of_;
  std::vector<Parameter*> tables_;
  bool shares_update_ = false;
  std::size_t started_ = 0;  // buckets of this step
};

}  // namespace finesweep::worker
