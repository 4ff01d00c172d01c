#include "worker/engine/task_data.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "worker/data/tokenized_cache.h"
#include "worker/engine/classification_task.h"
#include "worker/engine/language_task.h"
#include "worker/engine/model_files.h"

namespace finesweep::worker {

Result<std::unique_ptr<JobTask>> make_job_task(const JobContext& context, const ModelSource& source,
                                               Pooling pooling, const std::filesystem::path& cache) {
  auto tokenizer = load_model_tokenizer(source.tokenizer);
  if (!tokenizer) return tokenizer.error();
  RowCache rows{cache, ""};
  if (!cache.empty()) {
    auto digest = tokenizer_digest(source.tokenizer);
    if (!digest) return digest.error();
    rows.tokenizer_digest = std::move(*digest);
  }
  if (context.task == Task::classification) {
    return make_classification_task(context.data, source.manifest, pooling, std::move(*tokenizer), rows);
  }
  return make_language_task(context, source, std::move(*tokenizer), rows);
}

std::vector<std::int64_t> consecutive_rows(std::int64_t first, std::int64_t count, std::int64_t rows) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(std::min(count, rows - first)));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

Status check_metrics(const EvaluateSettings& settings, const std::vector<std::string>& known,
                     const std::string& of) {
  for (const std::string& metric : settings.metrics) {
    if (std::find(known.begin(), known.end(), metric) != known.end()) continue;
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    return Error{"evaluate.metrics: '" + metric + "' is no metric of " + of + "; it has: " + names + "."};
  }
  return {};
}

bool wants(const EvaluateSettings& settings, const std::string& metric) {
  return settings.metrics.empty() ||
         std::find(settings.metrics.begin(), settings.metrics.end(), metric) != settings.metrics.end();
}

Status check_loss(double loss, const EvaluateSettings& settings) {
  if (std::isfinite(loss)) return {};
  return Error{
      "The loss on the " + settings.split +
      " split is not a finite number: the model has diverged. Train it with a lower learning rate, or in fp32."};
}

}  // namespace finesweep::worker
