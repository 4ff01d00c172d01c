#pragma once

#include <memory>

#include "worker/data/tokenized_cache.h"
#include "worker/engine/task_data.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// A language model's task: rows are text to go on with, or a source and the target to write for it. Loss counts
/// tokens; ROUGE (F, not stemmed, 0 to 1) and BLEU (0 to 100) compare targets with the text that the model
/// generates.
std::unique_ptr<JobTask> make_language_task(const JobContext& context, const ModelSource& source,
                                            std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache);

}  // namespace finesweep::worker
