#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "jobs/result.h"
#include "worker/data/batch.h"
#include "worker/data/examples.h"
#include "worker/data/length_buckets.h"
#include "worker/data/sequence_rows.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// A tokenised split of a classification or regression.
struct ClassificationRows {
  TokenRows tokens;
  std::vector<TokenId> type_ids;  // as tokens.ids; empty where the tokenizer gives none
  std::vector<double> labels;     // classes, or a regression's values
};

/// Tokenises every row, cut to `sequence_length` (the longest text first). `path` is for messages: a label that is
/// not known gives its file and line.
Result<ClassificationRows> tokenize_examples(const std::vector<Example>& examples, const Labels& labels,
                                             Tokenizer& tokenizer, std::int64_t sequence_length,
                                             const std::filesystem::path& path);

/// The tokenised rows of a split, ready to be put together to batches.
class ClassificationDataset {
 public:
  ClassificationDataset(ClassificationRows rows, bool regression, const TokenizerTraits& traits);

  std::int64_t rows() const { return rows_.tokens.count(); }
  std::int64_t tokens_in_row(std::int64_t row) const;
  double label(std::int64_t row) const { return rows_.labels[static_cast<std::size_t>(row)]; }

  /// Tokens like this at the end of a row are left off, but for a row's first token: a decoder that pools the last
  /// token takes them for padding (transformers, GenericForSequenceClassification).
  void leave_off_at_end(TokenId token) { left_off_ = token; }

  /// The rows, padded to the longest of them (or its bucket) on the tokenizer's side.
  Batch batch(std::span<const std::int64_t> rows, const LengthBuckets& buckets = {}) const;

 private:
  ClassificationRows rows_;
  bool regression_, has_type_ids_;
  TokenId pad_, pad_type_;
  Side padding_side_;
  std::optional<TokenId> left_off_;
};

/// How the rows of a split are cut into optimiser steps. The order of an epoch is a permutation that follows from
/// the seed and the epoch's number alone; a batch takes the next rows of it, the last batch what is left; a step
/// takes the next `gradient_accumulation` batches, the last step what is left.
class EpochPlan {
 public:
  EpochPlan(std::int64_t rows, std::int64_t batch_size, std::int64_t gradient_accumulation, std::uint64_t seed);

  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  /// The rows of each batch of step `step` (from 0) of `epoch` (from 0).
  std::vector<std::vector<std::int64_t>> step(std::int64_t epoch, std::int64_t step);

 private:
  std::int64_t rows_, batch_size_, accumulation_, steps_per_epoch_;
  std::uint64_t seed_;
  std::int64_t ordered_epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace finesweep::worker
