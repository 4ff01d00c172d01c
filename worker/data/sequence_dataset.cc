#include "worker/data/sequence_dataset.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

std::int64_t padded_length(const TokenRows& tokens, std::span<const std::int64_t> rows,
                           const LengthBuckets& buckets) {
  std::int64_t length = 1;
  for (const std::int64_t row : rows) length = std::max(length, tokens.length(row));
  return buckets.fit(length);
}

/// Rows of tokens as a matrix.
at::Tensor padded(const TokenRows& tokens, std::span<const std::int64_t> rows, std::int64_t length,
                  std::int64_t pad, Side side) {
  const auto count = static_cast<std::int64_t>(rows.size());
  at::Tensor result = at::full({count, length}, pad, at::TensorOptions().dtype(at::kLong));
  auto* to = result.data_ptr<std::int64_t>();
  for (const std::int64_t row : rows) {
    const auto ids = tokens.row(row);
    std::copy(ids.begin(), ids.end(),
              to + (side == Side::right ? 0 : length - static_cast<std::int64_t>(ids.size())));
    to += length;
  }
  return result;
}

at::Tensor mask(const TokenRows& tokens, std::span<const std::int64_t> rows, std::int64_t length, Side side) {
  const auto count = static_cast<std::int64_t>(rows.size());
  at::Tensor result = at::zeros({count, length}, at::TensorOptions().dtype(at::kLong));
  auto* to = result.data_ptr<std::int64_t>();
  for (const std::int64_t row : rows) {
    std::fill_n(to + (side == Side::right ? 0 : length - tokens.length(row)), tokens.length(row), 1);
    to += length;
  }
  return result;
}

Batch read_by_model(const TokenRows& tokens, std::span<const std::int64_t> rows, const LengthBuckets& buckets,
                    std::int64_t pad, Side side) {
  const std::int64_t length = padded_length(tokens, rows, buckets);
  Batch batch;
  batch.input_ids = padded(tokens, rows, length, pad, side);
  batch.attention_mask = mask(tokens, rows, length, side);
  batch.row_indices.assign(rows.begin(), rows.end());
  return batch;
}

}  // namespace

SequenceDataset::SequenceDataset(SequenceRows rows, SequenceModel model, const TokenizerTraits& traits)
    : rows_(std::move(rows)), model_(model), pad_(traits.pad ? *traits.pad : traits.end.value_or(0)) {}

std::int64_t SequenceDataset::tokens_in_row(std::int64_t row) const {
  return rows_.inputs.length(row) + (model_ == SequenceModel::encoder_decoder ? rows_.targets.length(row) : 0);
}

std::int64_t SequenceDataset::predicted_tokens(std::int64_t row) const {
  if (model_ == SequenceModel::encoder_decoder) return rows_.targets.length(row);
  return rows_.inputs.length(row) - std::max<std::int64_t>(rows_.uncounted[static_cast<std::size_t>(row)], 1);
}

Batch SequenceDataset::batch(std::span<const std::int64_t> rows, const LengthBuckets& buckets) const {
  const ProfileScope scope("batch", OperatorGroup::data);
  Batch batch = read_by_model(rows_.inputs, rows, buckets, pad_, Side::right);
  if (model_ == SequenceModel::encoder_decoder) {
    const std::int64_t length = padded_length(rows_.targets, rows, buckets);
    batch.labels = padded(rows_.targets, rows, length, ignored_label, Side::right);
    return batch;
  }
  const std::int64_t length = batch.input_ids.size(1);
  batch.labels = padded(rows_.inputs, rows, length, ignored_label, Side::right);
  auto* labels = batch.labels.data_ptr<std::int64_t>();
  for (const std::int64_t row : rows) {
    std::fill_n(labels, rows_.uncounted[static_cast<std::size_t>(row)], ignored_label);
    labels += length;
  }
  return batch;
}

Batch SequenceDataset::prompts(std::span<const std::int64_t> rows, const LengthBuckets& buckets) const {
  const ProfileScope scope("batch", OperatorGroup::data);
  return read_by_model(rows_.prompts, rows, buckets, pad_,
                       model_ == SequenceModel::decoder_only ? Side::left : Side::right);
}

}  // namespace finesweep::worker
