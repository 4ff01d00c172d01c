#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "jobs/result.h"
#include "worker/generation/sampling.h"
#include "worker/models/language_model.h"

namespace finesweep::worker {

struct GenerationOptions {
  std::int64_t max_new_tokens = 64;
  /// 1: greedy or sampling. More: beam search as transformers 5 has it (early_stopping false).
  std::int64_t num_beams = 1;
  /// Beam search: a hypothesis' score is the sum of its log-probabilities / length^length_penalty.
  double length_penalty = 1;
  /// Draws tokens; not together with beams.
  bool do_sample = false;
  SamplingOptions sampling;
  /// Keep keys and values of the tokens so far. Without: the same tokens, every step from the start.
  bool kv_cache = true;
  /// Any of them ends a row; empty: only max_new_tokens does.
  std::vector<std::int64_t> end_ids;
  /// What an encoder-decoder's decoder begins with.
  std::int64_t decoder_start_id = 0;
  /// Seeds the draws. Prompt i draws from the stream of (seed, first_row + i) alone, whatever else is in the batch.
  std::uint64_t seed = 0;
  std::int64_t first_row = 0;
};

struct Generated {
  /// New tokens only, up to and including the end token where there is one.
  std::vector<std::int64_t> tokens;
  /// Beam search: as length_penalty says. Otherwise the sum of the tokens' log-probabilities.
  double score = 0;
};

/// Ids without padding, of any lengths; of an encoder-decoder what its encoder reads.
using Prompts = std::vector<std::vector<std::int64_t>>;

class DeviceSteps;  // worker/generation/device_steps.h

/// Continues prompts with one model, call after call. On a GPU it keeps what makes the next call cheap (captured
/// steps and their caches, at most as much memory again as the largest call took), so whoever generates more than
/// once keeps it. The model outlives it. One thread.
class Generator {
 public:
  explicit Generator(LanguageModel& model);
  ~Generator();
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;

  /// For each prompt what follows, best first: one sequence, or num_beams of them. A row that reaches the model's
  /// longest sequence ends there. Nothing where `go_on`, called for each step (on a GPU some steps ahead), said
  /// false.
  ///
  /// The Error: an empty prompt, an id outside of the vocabulary, a prompt as long as the model's positions,
  /// options that do not go together.
  Result<std::optional<std::vector<std::vector<Generated>>>> generate(const Prompts& prompts,
                                                                      const GenerationOptions& options,
                                                                      const std::function<bool()>& go_on = {});

 private:
  LanguageModel* model_;
  std::unique_ptr<DeviceSteps> steps_;
};

/// The same once.
Result<std::optional<std::vector<std::vector<Generated>>>> generate(LanguageModel& model, const Prompts& prompts,
                                                                    const GenerationOptions& options,
                                                                    const std::function<bool()>& go_on = {});

}  // namespace finesweep::worker
