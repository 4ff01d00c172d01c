#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/text_rows.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// How the model reads: one sequence that goes on, or a source for the encoder and a target for the decoder.
enum class SequenceModel { decoder_only, encoder_decoder };

struct SequenceOptions {
  SequenceModel model = SequenceModel::decoder_only;
  /// The most tokens of a row; for an encoder and decoder, of the source and of the target each.
  std::int64_t sequence_length = 0;
  std::string prompt;
  LossOn loss_on = LossOn::target;
  TextRows rows = TextRows::samples;
  /// To generate text: keeps the prompt of each row alone, of at most so many tokens, and its target as text. 0:
  /// not.
  std::int64_t prompt_length = 0;
};

SequenceOptions sequence_options(const DataContext& data, SequenceModel model, std::int64_t sequence_length);

/// Rows of tokens, one behind the other.
struct TokenRows {
  std::vector<std::int64_t> begins{0};  // row i is ids[begins[i]] … ids[begins[i + 1]]
  std::vector<TokenId> ids;

  std::int64_t count() const { return static_cast<std::int64_t>(begins.size()) - 1; }
  std::int64_t length(std::int64_t row) const {
    return begins[static_cast<std::size_t>(row) + 1] - begins[static_cast<std::size_t>(row)];
  }
  std::span<const TokenId> row(std::int64_t row) const {
    return std::span(ids).subspan(static_cast<std::size_t>(begins[static_cast<std::size_t>(row)]),
                                  static_cast<std::size_t>(length(row)));
  }
  void add(std::span<const TokenId> tokens) {
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    begins.push_back(static_cast<std::int64_t>(ids.size()));
  }
};

/// A tokenised split of a language model.
///
///   plain text, samples    a row as the tokenizer gives it, cut to the sequence length. Rows of fewer than two
///   tokens
///                          predict nothing and are left out.
///   plain text, blocks     all rows, the end token between them, cut into blocks of the sequence length; what is
///   left
///                          at the end is dropped (as in Hugging Face's run_clm). Rows without a token are left
///                          out.
///   source and target,     prompt, target, end token. Where they are too long together the source loses its end,
///   down
///     decoder only         to nothing; a target that does not fit beside the prompt's own words loses its end (and
///     then
///                          has no end token). At least one token of the target stays.
///   source and target,     the source (within the prompt, where there is one) with the tokenizer's special tokens;
///   and
///     encoder and decoder  the target with the end token, which stays where the target is cut.
struct SequenceRows {
  TokenRows inputs;
  /// Decoder only: how many tokens at the beginning of each row do not count in the loss.
  std::vector<std::int64_t> uncounted;
  TokenRows targets;  // encoder and decoder
  TokenRows prompts;  // to generate
  std::vector<std::string> references;
  /// Rows that lost a part to the sequence length: of the text or source, of the target.
  std::int64_t cut_texts = 0, cut_targets = 0;
};

/// `path` is for messages. The Error names file and line of a row that cannot be used, or says that nothing is
/// left, that the prompt leaves no room, or that the tokenizer has no end token.
Result<SequenceRows> tokenize_sequences(const std::vector<TextRow>& rows, const SequenceOptions& options,
                                        Tokenizer& tokenizer, const std::filesystem::path& path);

}  // namespace finesweep::worker
