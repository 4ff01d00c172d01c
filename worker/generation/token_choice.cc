#include "worker/generation/token_choice.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "worker/generation/sampling.h"
#include "worker/kernels/cuda/module.h"
#include "worker/kernels/profile_scope.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kRuleWords = sizeof(FinesweepDecodeRules) / sizeof(std::int64_t);
constexpr std::int64_t kMostEnds = sizeof(FinesweepDecodeRules::end_ids) / sizeof(std::int64_t);
constexpr std::int64_t kMostVocabulary = 1 << 18;  // to draw from

/// Columns of the state behind the rules.
enum Column : std::int64_t { kLane, kId, kLength, kProduced, kScore, kDone, kColumns };

std::int64_t place_of(Column column, std::int64_t rows) {
  return kRuleWords + column * rows;
}

FinesweepDecodeRules rules_of(const GenerationOptions& options, std::int64_t positions, std::uint64_t key) {
  FinesweepDecodeRules rules{};
  rules.max_new_tokens = options.max_new_tokens;
  rules.positions = positions;
  rules.top_k = options.sampling.top_k;
  rules.key = key;
  rules.temperature = options.sampling.temperature;
  rules.top_p = options.sampling.top_p;
  rules.samples = options.do_sample ? 1 : 0;
  rules.end_count = static_cast<std::int64_t>(options.end_ids.size());
  std::copy(options.end_ids.begin(), options.end_ids.end(), rules.end_ids);
  return rules;
}

}  // namespace

bool TokenChoice::follows(const GenerationOptions& options, std::int64_t vocabulary) {
  return static_cast<std::int64_t>(options.end_ids.size()) <= kMostEnds &&
         (!options.do_sample || vocabulary <= kMostVocabulary);
}

TokenChoice::TokenChoice(c10::Device device, std::int64_t rows, std::int64_t tokens, std::int64_t vocabulary)
    : rows_(rows), tokens_of_row_(tokens), vocabulary_(vocabulary) {
  const at::TensorOptions words = at::TensorOptions(at::kLong).device(device);
  state_ = at::zeros({kRuleWords + kColumns * rows + 1}, words);
  ids_ = state_.narrow(0, place_of(kId, rows), rows);
  lengths_ = state_.narrow(0, place_of(kLength, rows), rows);
  remaining_ = state_.narrow(0, place_of(kColumns, rows), 1).view(at::kInt).narrow(0, 0, 1);
  tokens_ = at::zeros({rows, tokens}, words);
  if (device.is_cpu()) return;
  partial_ = at::empty({rows, 32, 4}, words.dtype(at::kDouble));
  arrived_ = at::zeros({rows}, words.dtype(at::kInt));
}

void TokenChoice::begin(const std::vector<std::int64_t>& prompt_lengths, const GenerationOptions& options,
                        std::int64_t positions) {
  draws_ = options.do_sample;
  if (draws_ && !masses_.defined() && !state_.is_cpu()) {
    masses_ = at::empty({rows_, vocabulary_}, state_.options());
  }
  const std::int64_t rows = static_cast<std::int64_t>(prompt_lengths.size());
  const at::Tensor fresh = at::zeros({state_.size(0)}, at::kLong);
  std::int64_t* words = fresh.mutable_data_ptr<std::int64_t>();
  const auto column = [&](Column which) { return words + place_of(which, rows_); };
  std::uint64_t key = 0;
  for (std::int64_t r = 0; r < rows_; ++r) {
    const RandomStream stream(options.seed, purpose::sampling, {static_cast<std::uint64_t>(options.first_row + r)});
    key = stream.key();
    column(kLane)[r] = static_cast<std::int64_t>(stream.lane());
    column(kLength)[r] = r < rows ? prompt_lengths[static_cast<std::size_t>(r)] : 0;
    column(kDone)[r] = r < rows ? 0 : 1;
  }
  words[place_of(kColumns, rows_)] = rows;
  const FinesweepDecodeRules rules = rules_of(options, positions, key);
  std::memcpy(words, &rules, sizeof rules);
  state_.copy_(fresh);
}

FinesweepDecodeState TokenChoice::view() const {
  std::int64_t* words = state_.mutable_data_ptr<std::int64_t>();
  const auto column = [&](Column which) { return words + place_of(which, rows_); };
  FinesweepDecodeState view{};
  view.rules = reinterpret_cast<const FinesweepDecodeRules*>(words);
  view.lanes = reinterpret_cast<const std::uint64_t*>(column(kLane));
  view.ids = column(kId);
  view.lengths = column(kLength);
  view.tokens = tokens_.mutable_data_ptr<std::int64_t>();
  view.produced = column(kProduced);
  view.scores = reinterpret_cast<double*>(column(kScore));
  view.done = column(kDone);
  view.remaining = remaining_.mutable_data_ptr<std::int32_t>();
  view.rows = rows_;
  view.token_capacity = tokens_of_row_;
  if (partial_.defined()) view.partial = partial_.mutable_data_ptr<double>();
  if (arrived_.defined()) view.arrived = arrived_.mutable_data_ptr<std::int32_t>();
  if (masses_.defined()) view.masses = reinterpret_cast<std::uint64_t*>(masses_.mutable_data_ptr<std::int64_t>());
  return view;
}

void TokenChoice::choose(const at::Tensor& logits, bool held) {
  const ProfileScope scope("choice of tokens", OperatorGroup::other);
  if (state_.is_cpu()) return choose_on_host(logits, held);
  FinesweepDecodeState state = view();
  state.rows = logits.size(0);
  check_cuda(cuda_module()->decode_choose(&state, logits.const_data_ptr<float>(), logits.size(1), draws_ ? 1 : 0,
                                          held ? 1 : 0, current_stream(logits.device())),
             "choosing tokens");
}

void TokenChoice::choose_on_host(const at::Tensor& logits, bool held) {
  const FinesweepDecodeState state = view();
  const FinesweepDecodeRules& rules = *state.rules;
  const SamplingOptions sampling{rules.temperature, rules.top_k, rules.top_p};
  for (std::int64_t r = 0; r < logits.size(0); ++r) {
    if (state.done[r] != 0) continue;
    const std::span<const float> row(logits.const_data_ptr<float>() + r * logits.size(1),
                                     static_cast<std::size_t>(logits.size(1)));
    const std::int64_t number = state.produced[r]++;
    const std::int64_t token = draws_
                                   ? sample_token(row, sampling, uniform_number(rules.key, state.lanes[r], number))
                                   : std::max_element(row.begin(), row.end()) - row.begin();
    state.tokens[r * tokens_of_row_ + number] = token;
    state.scores[r] += log_probability(row, token);
    state.ids[r] = token;
    state.lengths[r] += held ? 1 : 0;
    const bool is_end =
        std::find(rules.end_ids, rules.end_ids + rules.end_count, token) != rules.end_ids + rules.end_count;
    if (!is_end && number + 1 < rules.max_new_tokens && state.lengths[r] + 1 < rules.positions) continue;
    state.done[r] = 1;
    --*state.remaining;
  }
}

std::vector<std::vector<Generated>> TokenChoice::answers(std::int64_t rows) const {
  const at::Tensor state = state_.to(at::kCPU), tokens = tokens_.to(at::kCPU);
  const std::int64_t* words = state.const_data_ptr<std::int64_t>();
  std::vector<std::vector<Generated>> answers;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t* row = tokens.const_data_ptr<std::int64_t>() + r * tokens_of_row_;
    Generated generated;
    generated.tokens.assign(row, row + words[place_of(kProduced, rows_) + r]);
    std::memcpy(&generated.score, words + place_of(kScore, rows_) + r, sizeof generated.score);
    answers.push_back({std::move(generated)});
  }
  return answers;
}

}  // namespace finesweep::worker
