#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "worker/data/batch.h"
#include "worker/data/length_buckets.h"
#include "worker/data/sequence_rows.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// The rows of a language model's split, ready to be put together to batches (tasks causal_lm and seq2seq).
class SequenceDataset {
 public:
  SequenceDataset(SequenceRows rows, SequenceModel model, const TokenizerTraits& traits);

  std::int64_t rows() const { return rows_.inputs.count(); }
  /// Tokens that a row puts through the model, of encoder and decoder together.
  std::int64_t tokens_in_row(std::int64_t row) const;
  /// Tokens of a row that count in the loss. The first token of a sequence is never predicted.
  std::int64_t predicted_tokens(std::int64_t row) const;

  /// To learn from or to take the loss of. Padded on the right: a decoder numbers positions from the first token.
  Batch batch(std::span<const std::int64_t> rows, const LengthBuckets& buckets = {}) const;

  /// Whether prompts and references are there (SequenceOptions::prompt_length, source and target).
  bool can_generate() const { return rows_.prompts.count() > 0; }
  /// To generate from: input_ids and attention_mask alone, no labels. A decoder's prompts are padded on the left,
  /// so that all go on at one place; an encoder's on the right.
  Batch prompts(std::span<const std::int64_t> rows, const LengthBuckets& buckets = {}) const;
  /// The target of a row as the data has it, never cut.
  const std::string& reference(std::int64_t row) const { return rows_.references[static_cast<std::size_t>(row)]; }

  /// Rows that lost a part to the sequence length, for people to know.
  std::int64_t cut_texts() const { return rows_.cut_texts; }
  std::int64_t cut_targets() const { return rows_.cut_targets; }

 private:
  SequenceRows rows_;
  SequenceModel model_;
  TokenId pad_;
};

}  // namespace finesweep::worker
