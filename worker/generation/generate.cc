#include "worker/generation/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "worker/generation/beam_search.h"
#include "worker/generation/device_steps.h"
#include "worker/generation/prompt_batch.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

using Sequences = std::vector<std::vector<std::int64_t>>;

Status check(LanguageModel& model, const Prompts& prompts, const GenerationOptions& options) {
  if (options.max_new_tokens < 1) return Error{"generation: max_new_tokens must be at least 1"};
  if (options.num_beams < 1) return Error{"generation: num_beams must be at least 1"};
  if (options.do_sample && options.num_beams > 1) {
    return Error{"generation: do_sample and num_beams above 1 do not go together; set num_beams: 1"};
  }
  if (options.do_sample && !(options.sampling.temperature > 0)) {
    return Error{"generation: temperature must be above 0"};
  }
  const std::optional<std::int64_t> positions = model.is_encoder_decoder() ? std::nullopt : model.positions();
  for (const auto& prompt : prompts) {
    if (prompt.empty()) return Error{"generation: a prompt has no tokens"};
    if (positions && static_cast<std::int64_t>(prompt.size()) >= *positions) {
      return Error{"generation: a prompt of " + std::to_string(prompt.size()) +
                   " tokens leaves no room in the model's " + std::to_string(*positions) +
                   " positions; shorten it"};
    }
    for (const std::int64_t id : prompt) {
      if (id >= 0 && id < model.vocabulary()) continue;
      return Error{"generation: token id " + std::to_string(id) + " is outside of the model's 0 … " +
                   std::to_string(model.vocabulary() - 1)};
    }
  }
  return {};
}

/// Sequences that are continued together, with the model's state for them.
class Rows {
 public:
  Rows(LanguageModel& model, const Prompts& prompts, const GenerationOptions& options)
      : model_(model), use_cache_(options.kv_cache) {
    std::size_t longest = 1;
    if (model.is_encoder_decoder()) {
      decoding_.source = model.encode(batch_of(prompts));
      sequences_.assign(prompts.size(), {options.decoder_start_id});
    } else {
      sequences_ = prompts;
      for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
    }
    cache_.capacity = static_cast<std::int64_t>(longest) + options.max_new_tokens;
    if (use_cache_) decoding_.cache = &cache_;
    held_.assign(sequences_.size(), 0);
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  std::int64_t count() const { return static_cast<std::int64_t>(sequences_.size()); }
  std::int64_t length(std::int64_t row) const { return static_cast<std::int64_t>(sequences_[row].size()); }

  /// fp32 [rows, vocabulary], on the model's device.
  at::Tensor next_logits() {
    if (!use_cache_) return model_.next_logits(batch_of(sequences_), decoding_);
    Sequences fresh;
    for (std::size_t r = 0; r < sequences_.size(); ++r) {
      fresh.emplace_back(sequences_[r].begin() + static_cast<std::ptrdiff_t>(held_[r]), sequences_[r].end());
      held_[r] = sequences_[r].size();
    }
    return model_.next_logits(batch_of(fresh), decoding_);
  }

  void append(std::int64_t row, std::int64_t token) { sequences_[row].push_back(token); }

  /// Row r becomes what row origins[r] was.
  void reorder(const std::vector<std::int64_t>& origins) {
    Sequences sequences;
    std::vector<std::size_t> held;
    std::vector<std::int64_t> row_of;
    for (const std::int64_t origin : origins) {
      sequences.push_back(sequences_[origin]);
      held.push_back(held_[origin]);
      if (decoding_.source) row_of.push_back(decoding_.source->row_of[origin]);
    }
    sequences_ = std::move(sequences);
    held_ = std::move(held);
    if (decoding_.source) decoding_.source->row_of = std::move(row_of);
    if (use_cache_ && !cache_.lengths.empty()) cache_.reorder(origins);
  }

 private:
  LanguageModel& model_;
  bool use_cache_;
  Sequences sequences_;
  std::vector<std::size_t> held_;  // tokens of each sequence that the cache holds
  KeyValueCache cache_;
  Decoding decoding_;
};

bool ends(const GenerationOptions& options, std::int64_t token) {
  return std::find(options.end_ids.begin(), options.end_ids.end(), token) != options.end_ids.end();
}

/// Of the prompt's own stream for each step.
double uniform_of(const GenerationOptions& options, std::int64_t prompt, std::int64_t step) {
  const RandomStream stream(options.seed, purpose::sampling,
                            {static_cast<std::uint64_t>(options.first_row + prompt)});
  return uniform_number(stream.key(), stream.lane(), static_cast<std::uint64_t>(step));
}

using Answers = std::vector<std::vector<Generated>>;

/// Greedy and sampling: each row goes its own way.
std::optional<Answers> continue_rows(LanguageModel& model, const Prompts& prompts, const GenerationOptions& options,
                                     const std::function<bool()>& go_on) {
  Answers answers(prompts.size(), std::vector<Generated>(1));
  Rows rows(model, prompts, options);
  std::vector<std::int64_t> prompt_of(prompts.size());  // of each row
  std::iota(prompt_of.begin(), prompt_of.end(), 0);
  std::vector<bool> done(prompts.size(), false);
  const std::optional<std::int64_t> longest = model.positions();

  for (std::int64_t step = 0; step < options.max_new_tokens && rows.count() > 0; ++step) {
    if (go_on && !go_on()) return std::nullopt;
    const at::Tensor logits = rows.next_logits();
    const at::Tensor on_cpu = logits.to(at::kCPU).contiguous();
    const at::Tensor best = at::argmax(logits, 1).to(at::kCPU);
    const std::int64_t vocabulary = on_cpu.size(1);
    std::vector<std::int64_t> staying;
    for (std::int64_t r = 0; r < rows.count(); ++r) {
      const std::int64_t prompt = prompt_of[static_cast<std::size_t>(r)];
      const std::span<const float> row(on_cpu.const_data_ptr<float>() + r * vocabulary,
                                       static_cast<std::size_t>(vocabulary));
      const std::int64_t token = options.do_sample
                                     ? sample_token(row, options.sampling, uniform_of(options, prompt, step))
                                     : best.const_data_ptr<std::int64_t>()[r];
      Generated& answer = answers[static_cast<std::size_t>(prompt)][0];
      if (!done[static_cast<std::size_t>(prompt)]) {
        answer.tokens.push_back(token);
        answer.score += log_probability(row, token);
      }
      rows.append(r, token);
      const bool full = longest && rows.length(r) >= *longest;
      if (ends(options, token) || full) done[static_cast<std::size_t>(prompt)] = true;
      if (!done[static_cast<std::size_t>(prompt)]) staying.push_back(r);
    }
    // Leaving rows behind copies the cache of the others: only where it pays, or where a row may not grow.
    const std::int64_t leaving = rows.count() - static_cast<std::int64_t>(staying.size());
    if (leaving * 4 >= rows.count() || (longest && leaving > 0)) {
      std::vector<std::int64_t> prompts_left;
      for (const std::int64_t r : staying) prompts_left.push_back(prompt_of[static_cast<std::size_t>(r)]);
      rows.reorder(staying);
      prompt_of = std::move(prompts_left);
    }
  }
  return answers;
}

/// The best continuations of each search's running beams, which stand one search after the other in `logits`.
std::vector<std::vector<BeamSearch::Candidate>> best_candidates(const at::Tensor& logits,
                                                                const std::vector<BeamSearch*>& searches) {
  const std::int64_t vocabulary = logits.size(1);
  const at::Tensor log_probabilities = at::log_softmax(logits, 1);
  std::vector<std::vector<BeamSearch::Candidate>> all;
  std::int64_t row = 0;
  for (const BeamSearch* search : searches) {
    const auto& running = search->running();
    const std::int64_t beams = static_cast<std::int64_t>(running.size());
    const at::Tensor scores = at::empty({beams, 1}, at::kFloat);
    for (std::int64_t b = 0; b < beams; ++b) scores.mutable_data_ptr<float>()[b] = running[b].score;
    const at::Tensor sums = log_probabilities.narrow(0, row, beams) + scores.to(logits.device());
    const std::int64_t wanted = std::min(search->candidates_wanted(), beams * vocabulary);
    auto [values, places] = at::topk(sums.view({-1}), wanted);
    values = values.to(at::kCPU);
    places = places.to(at::kCPU);
    std::vector<BeamSearch::Candidate> candidates;
    for (std::int64_t i = 0; i < wanted; ++i) {
      const std::int64_t place = places.const_data_ptr<std::int64_t>()[i];
      candidates.push_back({place / vocabulary, place % vocabulary, values.const_data_ptr<float>()[i]});
    }
    all.push_back(std::move(candidates));
    row += beams;
  }
  return all;
}

std::optional<Answers> search_beams(LanguageModel& model, const Prompts& prompts, const GenerationOptions& options,
                                    const std::function<bool()>& go_on) {
  Rows rows(model, prompts, options);
  std::vector<BeamSearch> searches;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    BeamSearch::Options mine{options.num_beams, options.max_new_tokens, options.length_penalty, options.end_ids};
    if (const auto longest = model.positions()) {
      mine.max_new_tokens = std::min(mine.max_new_tokens, *longest - rows.length(static_cast<std::int64_t>(p)));
    }
    searches.emplace_back(mine);
  }
  std::vector<BeamSearch*> active;
  for (BeamSearch& search : searches) active.push_back(&search);
  while (!active.empty()) {
    if (go_on && !go_on()) return std::nullopt;
    const auto candidates = best_candidates(rows.next_logits(), active);
    std::vector<std::int64_t> origins, tokens;
    std::vector<BeamSearch*> still_active;
    std::int64_t row = 0;
    for (std::size_t s = 0; s < active.size(); ++s) {
      const std::int64_t first = row;
      row += static_cast<std::int64_t>(active[s]->running().size());
      const std::vector<std::int64_t> from = active[s]->advance(candidates[s]);
      if (active[s]->over()) continue;
      still_active.push_back(active[s]);
      for (std::size_t b = 0; b < from.size(); ++b) {
        origins.push_back(first + from[b]);
        tokens.push_back(active[s]->running()[b].tokens.back());
      }
    }
    active = std::move(still_active);
    if (active.empty()) break;
    rows.reorder(origins);
    for (std::size_t r = 0; r < tokens.size(); ++r) rows.append(static_cast<std::int64_t>(r), tokens[r]);
  }
  Answers answers;
  for (const BeamSearch& search : searches) {
    std::vector<Generated> sequences;
    for (BeamSearch::Hypothesis& hypothesis : search.finished()) {
      sequences.push_back({std::move(hypothesis.tokens), hypothesis.score});
    }
    answers.push_back(std::move(sequences));
  }
  return answers;
}

}  // namespace

Generator::Generator(LanguageModel& model) : model_(&model) {}
Generator::~Generator() = default;
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;

Result<std::optional<Answers>> Generator::generate(const Prompts& prompts, const GenerationOptions& options,
                                                   const std::function<bool()>& go_on) {
  if (prompts.empty()) return std::optional<Answers>(Answers());
  if (Status fits = check(*model_, prompts, options); !fits) return Error{fits.error()};
  const at::NoGradGuard no_graph;
  if (options.num_beams > 1) return search_beams(*model_, prompts, options, go_on);
  if (!model_->device().is_cuda() || !DeviceSteps::can_follow(*model_, options)) {
    return continue_rows(*model_, prompts, options, go_on);
  }
  if (!steps_) steps_ = std::make_unique<DeviceSteps>(*model_);
  return steps_->generate(prompts, options, go_on);
}

Result<std::optional<Answers>> generate(LanguageModel& model, const Prompts& prompts,
                                        const GenerationOptions& options, const std::function<bool()>& go_on) {
  return Generator(model).generate(prompts, options, go_on);
}

}  // namespace finesweep::worker
