#include "worker/data/sequence_rows.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "worker/data/prompt.h"
#include "worker/data/table.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

Result<TokenId> end_token(const Tokenizer& tokenizer) {
  if (const auto end = tokenizer.traits().end) return *end;
  return Error{"The tokenizer names no end token (eos_token in tokenizer_config.json), which ends every text."};
}

Result<SequenceRows> samples(const std::vector<TextRow>& rows, const SequenceOptions& options, Tokenizer& tokenizer,
                             const fs::path& path) {
  SequenceRows result;
  EncodeOptions encode;
  encode.truncation = Truncation::longest_first;
  encode.max_length = options.sequence_length;
  std::size_t special = 0;
  for (const auto& piece : tokenizer.traits().sequence_template.single) special += piece.ids.size();
  std::vector<TokenId> ids;
  for (const TextRow& row : rows) {
    ids.clear();
    tokenizer.append_ids(row.text, ids);
    auto encoding = tokenizer.wrap(ids, nullptr, encode);
    if (!encoding) return encoding.error();
    if (encoding->ids.size() < 2) continue;
    result.cut_texts += ids.size() + special > encoding->ids.size();
    result.inputs.add(encoding->ids);
  }
  if (result.inputs.count() == 0) {
    return Error{path.string() + ": no row has two tokens or more, so there is nothing to predict."};
  }
  result.uncounted.assign(static_cast<std::size_t>(result.inputs.count()), 0);
  return result;
}

Result<SequenceRows> blocks(const std::vector<TextRow>& rows, const SequenceOptions& options, Tokenizer& tokenizer,
                            const fs::path& path) {
  const auto end = end_token(tokenizer);
  if (!end) return end.error();
  auto prompt = Prompt::make("", Prompt::Around::beginning, tokenizer);
  if (!prompt) return prompt.error();
  SequenceRows result;
  auto& ids = result.inputs.ids;
  for (const TextRow& row : rows) {
    const std::size_t before = ids.size();
    if (before > 0) ids.push_back(*end);
    const auto encoded = prompt->encode(row.text, INT64_MAX);
    if (static_cast<std::int64_t>(encoded.ids.size()) == prompt->fixed_tokens()) {
      ids.resize(before);
    } else {
      ids.insert(ids.end(), encoded.ids.begin(), encoded.ids.end());
    }
  }
  const std::int64_t length = options.sequence_length, tokens = static_cast<std::int64_t>(ids.size());
  if (tokens < length) {
    return Error{path.string() + ": all rows together have " + std::to_string(tokens) +
                 " tokens, fewer than one block of sequence_length " + std::to_string(length) +
                 ". Lower it, or set data.rows to samples."};
  }
  for (std::int64_t block = 1; block <= tokens / length; ++block) result.inputs.begins.push_back(block * length);
  ids.resize(static_cast<std::size_t>(result.inputs.begins.back()));
  result.uncounted.assign(static_cast<std::size_t>(result.inputs.count()), 0);
  return result;
}

/// Rows with source and target, one at a time.
class PairEncoder {
 public:
  PairEncoder(const SequenceOptions& options, Tokenizer& tokenizer, Prompt prompt, TokenId end)
      : options_(options), tokenizer_(tokenizer), prompt_(std::move(prompt)), end_(end) {}

  bool decoder_only() const { return options_.model == SequenceModel::decoder_only; }

  /// That at least the prompt's own words and a token of the target or source fit.
  Status check_lengths() const {
    const std::int64_t needed = prompt_.fixed_tokens() + 1;
    const auto refuse = [&](const char* setting, std::int64_t length) {
      return Error{std::string("A ") + setting + " of " + std::to_string(length) + " leaves no room beside the " +
                   std::to_string(prompt_.fixed_tokens()) +
                   " tokens of data.prompt without its source. Raise it, or shorten the prompt."};
    };
    if (options_.sequence_length < needed) return refuse("sequence_length", options_.sequence_length);
    if (options_.prompt_length > 0 && options_.prompt_length < needed) {
      return refuse("prompt length", options_.prompt_length);
    }
    return {};
  }

  /// The Error is without file and line.
  Status add(const TextRow& row) {
    target_.clear();
    tokenizer_.append_ids(*row.target, target_);
    if (target_.empty()) return Error{"the tokenizer finds no token in the target"};
    if (Status added = decoder_only() ? add_sequence(row) : add_pair(row); !added) return added;
    if (options_.prompt_length > 0) {
      result_.prompts.add(prompt_.encode(row.text, options_.prompt_length).ids);
      result_.references.push_back(*row.target);
    }
    return {};
  }

  SequenceRows take() { return std::move(result_); }

 private:
  Status add_sequence(const TextRow& row) {
    target_.push_back(end_);
    const std::int64_t length = options_.sequence_length, wanted = static_cast<std::int64_t>(target_.size());
    const std::int64_t room = std::min(wanted, length - prompt_.fixed_tokens());
    auto [ids, is_cut] = prompt_.encode(row.text, length - room);
    if (ids.empty()) return Error{"source and prompt give no token, so there is nothing before the target"};
    result_.cut_texts += is_cut;
    const auto before = static_cast<std::int64_t>(ids.size());
    const std::int64_t kept = std::min(wanted, length - before);
    result_.cut_targets += kept < wanted;
    ids.insert(ids.end(), target_.begin(), target_.begin() + kept);
    result_.inputs.add(ids);
    result_.uncounted.push_back(options_.loss_on == LossOn::target ? before : 0);
    return {};
  }

  Status add_pair(const TextRow& row) {
    const auto [ids, is_cut] = prompt_.encode(row.text, options_.sequence_length);
    result_.cut_texts += is_cut;
    result_.inputs.add(ids);
    const auto most = static_cast<std::size_t>(options_.sequence_length) - 1;
    if (target_.size() > most) {
      ++result_.cut_targets;
      target_.resize(most);
    }
    target_.push_back(end_);
    result_.targets.add(target_);
    return {};
  }

  const SequenceOptions& options_;
  Tokenizer& tokenizer_;
  Prompt prompt_;
  TokenId end_;
  std::vector<TokenId> target_;
  SequenceRows result_;
};

Result<SequenceRows> pairs(const std::vector<TextRow>& rows, const SequenceOptions& options, Tokenizer& tokenizer,
                           const fs::path& path) {
  const auto end = end_token(tokenizer);
  if (!end) return end.error();
  const bool decoder_only = options.model == SequenceModel::decoder_only;
  auto prompt = Prompt::make(options.prompt, decoder_only ? Prompt::Around::beginning : Prompt::Around::both_sides,
                             tokenizer);
  if (!prompt) return prompt.error();
  PairEncoder encoder(options, tokenizer, std::move(*prompt), *end);
  if (Status fits = encoder.check_lengths(); !fits) return fits.error();
  for (const TextRow& row : rows) {
    if (Status added = encoder.add(row); !added) return at_line(path, row.line, added.error().message);
  }
  return encoder.take();
}

}  // namespace

SequenceOptions sequence_options(const DataContext& data, SequenceModel model, std::int64_t sequence_length) {
  SequenceOptions options;
  options.model = model;
  options.sequence_length = sequence_length;
  options.prompt = data.prompt;
  options.loss_on = data.loss_on;
  options.rows = data.rows;
  return options;
}

Result<SequenceRows> tokenize_sequences(const std::vector<TextRow>& rows, const SequenceOptions& options,
                                        Tokenizer& tokenizer, const fs::path& path) {
  if (options.sequence_length < 2) return Error{"A sequence_length of at least 2 is needed to predict a token."};
  if (rows.empty()) return Error{path.string() + ": there are no rows."};
  if (rows.front().target) return pairs(rows, options, tokenizer, path);
  if (options.model == SequenceModel::encoder_decoder) {
    return Error{path.string() + ": a model with encoder and decoder needs rows with source and target."};
  }
  return options.rows == TextRows::blocks ? blocks(rows, options, tokenizer, path)
                                          : samples(rows, options, tokenizer, path);
}

}  // namespace finesweep::worker
