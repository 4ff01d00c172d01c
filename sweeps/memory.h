#pragma once

#include <optional>

#include "jobs/job.h"
#include "sweeps/model_info.h"

namespace finesweep::sweeps {

/// What a training or evaluation job is thought to hold at its peak, in MB (10⁶ bytes), from the weight files'
/// headers:
///
///   weights      parameters × bytes: 4; in bf16 or fp16 2 for a frozen base, 6 where all are trained; matrices in
///   the
///                layers of a base in NF4 half a byte, with their scales; of one in FP8 2 too: a byte for each of
///                forward and backward
///   gradients    trained parameters × 4
///   moments      trained parameters × 8 (AdamW)
///   activations  layers × rows × tokens × (17 hidden + 2.5 heads × tokens) numbers, where fused attention saves
///                the second term (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
///                Models"); with checkpointing one layer's and each layer's input; without training two layers'; of
///                a language model the logits of 2,048 tokens
///
/// Rows are taken to be of full length. The program itself and its libraries come on top.
struct MemoryEstimate {
  double weights_mb = 0, gradients_mb = 0, moments_mb = 0, activations_mb = 0;
  double total_mb() const { return weights_mb + gradients_mb + moments_mb + activations_mb; }
};

/// Nothing for jobs that start from another job's weights of unknown size, and for other kinds.
std::optional<MemoryEstimate> estimate_memory(const Job& job, ModelCatalog& models);

/// The same of a training or evaluation job whatever it starts from; `model` is what its weights have come from.
MemoryEstimate estimate_memory_over(const Job& job, const ModelInfo& model);

/// Parameters that the job trains, without a head that is yet to be made.
std::int64_t trained_parameters(const Job& job, const ModelInfo& info);

}  // namespace finesweep::sweeps
