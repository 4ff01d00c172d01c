#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jobs/packing.h"
#include "jobs/plan.h"
#include "sweeps/model_info.h"

namespace finesweep::sweeps {

/// How many jobs a pack may hold by `resources.pack`, on a GPU and on a CPU; 1: none shares.
struct PackSizes {
  int on_gpu = 1;
  int on_cpu = 1;
};
PackSizes pack_sizes(const Resources& resources);

/// Tokens of one training step from which a GPU is busy by itself.
///
/// A step costs a fixed part (its kernels are launched, however little they do) and a part for each token. On an
/// H100 a LoRA step of GPT-2 (width 768) takes 1.0 ms + 1.1 ms for 1,024 tokens: at 256 tokens a job, eight jobs
/// take 3.7 times as long one after the other as in one pack; at 1,024 1.7 times, at 4,096 1.08 times. So 4,096
/// tokens keep that GPU busy. Of another model it is as many as fill the GPU with as many tiles of its matrix
/// products, whose outputs have tokens × width numbers: 4,096 × 768 ÷ width.
std::int64_t saturating_tokens(std::int64_t width);

/// How each of the plan's jobs may share a pack, in its order.
///
/// Trainings may share one where they train adapters of one method on the same frozen base (the model, or the
/// artifact of one job) with the same task, labels, precision, quantisation, attention, dropouts, pooling and
/// gradient checkpointing, and rows that are padded to the same length: sequence_length up to the next power of
/// two. Ranks, rates, seeds, batch sizes, lengths of training and data may differ. Alone stay those with masks in
/// force while they train, that continue another job, or that train an adapter further.
///
/// Evaluations may share one where their adapters stand on the same base, kept in the same way, with the same task,
/// labels, precision, attention and length. Adapters, splits, metrics, batch sizes and data may differ. Alone stay
/// those of whole models, of text that is generated, and with a profile.
///
/// Alone stay jobs of both kinds with `isolate` or several GPUs, of which the report shows or chooses by time or
/// memory, and of whose memory there is no estimate. With `pack: auto` so do jobs whose own steps saturate a GPU,
/// and a pack has at most twice the tokens that saturate; three times as many are taken to do so in an evaluation,
/// which has no way back. `pack: N` asks for N jobs whatever they gain.
std::vector<PackTraits> pack_traits(const Plan& plan, ModelCatalog& models);

/// Which jobs run together where all are ready at once and there is one device, whose memory is no limit.
struct PlannedPack {
  std::vector<std::size_t> jobs;  // two or more, by their index in the plan
  std::int64_t tokens = 0;        // of a step, or of a batch
  double memory_mb = 0;           // estimate
};
std::vector<PlannedPack> planned_packs(const std::vector<PackTraits>& traits, int most_jobs);

}  // namespace finesweep::sweeps
