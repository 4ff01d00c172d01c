#pragma once

#include <memory>
#include <optional>

#include "worker/data/tokenized_cache.h"
#include "worker/engine/task_data.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Classification, or regression where labels are numbers with a fraction: rows with a label, a head that scores
/// it. Labels are those of `manifest`, where an earlier step has settled them; else data.labels, else those of the
/// training rows, else those of the rows that are read. `end_padding`: what a head that pools the last token takes
/// for padding where a row ends in it.
std::unique_ptr<JobTask> make_classification_task(const DataContext& data,
                                                  const std::optional<ModelManifest>& manifest, Pooling pooling,
                                                  std::optional<TokenId> end_padding,
                                                  std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache);

}  // namespace finesweep::worker
