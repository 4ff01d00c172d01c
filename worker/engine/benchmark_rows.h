#pragma once

#include <cstdint>

#include "jobs/settings.h"
#include "worker/data/batch.h"
#include "worker/engine/task_data.h"
#include "worker/generation/generate.h"

namespace finesweep::worker {

/// The rows that a benchmark runs over and over: each has exactly the tokens that the settings ask for. Padding
/// costs nothing here (a pass works on the real tokens alone), so a row that is shorter goes on with the rows after
/// it, and a longer one is cut. Which rows, a permutation says that follows from the job's seed.
///
/// Of an encoder-decoder the decoder's side has as many tokens as the encoder's. Every token of a language model's
/// row counts in the loss. `data` has rows of some split, tokenised to sequence_length.
Batch benchmark_batch(const TaskData& data, Task task, const BenchmarkSettings& settings, std::uint64_t seed);

/// The same where a sweep has no rows: ids drawn from 0 … vocabulary - 1, and the first label.
Batch random_benchmark_batch(std::int64_t vocabulary, Task task, const BenchmarkSettings& settings,
                             std::uint64_t seed);

/// The batch's rows, to go on from.
Prompts benchmark_prompts(const Batch& batch);

}  // namespace finesweep::worker
