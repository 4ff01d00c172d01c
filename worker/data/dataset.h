#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "jobs/result.h"
#include "worker/data/batch.h"
#include "worker/data/examples.h"
#include "worker/data/length_buckets.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// The tokenised rows of a split, ready to be put together to batches.
class ClassificationDataset {
 public:
  /// Tokenises every row, cut to `sequence_length` (the longest text first). `path` is for messages: a label that
  /// is not known gives its file and line.
  static Result<ClassificationDataset> make(const std::vector<Example>& examples, const Labels& labels,
                                            Tokenizer& tokenizer, std::int64_t sequence_length,
                                            const std::filesystem::path& path);

  std::int64_t rows() const { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t tokens_in_row(std::int64_t row) const;
  double label(std::int64_t row) const { return labels_[static_cast<std::size_t>(row)]; }

  /// The rows, padded to the longest of them (or its bucket) on the tokenizer's side.
  Batch batch(std::span<const std::int64_t> rows, const LengthBuckets& buckets = {}) const;

 private:
  std::vector<std::int64_t> begins_{0};  // row i is ids_[begins_[i]] … ids_[begins_[i + 1]]
  std::vector<TokenId> ids_, type_ids_;
  std::vector<double> labels_;
  bool regression_ = false, has_type_ids_ = false;
  TokenId pad_ = 0, pad_type_ = 0;
  Side padding_side_ = Side::right;
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
