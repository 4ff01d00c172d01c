#include "worker/data/dataset.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "worker/kernels/profile_scope.h"
#include "worker/random.h"

namespace finesweep::worker {

Result<ClassificationRows> tokenize_examples(const std::vector<Example>& examples, const Labels& labels,
                                             Tokenizer& tokenizer, std::int64_t sequence_length,
                                             const std::filesystem::path& path) {
  ClassificationRows rows;
  EncodeOptions options;
  options.truncation = Truncation::longest_first;
  options.max_length = sequence_length;
  for (const Example& example : examples) {
    const auto number = labels.number_of(example.label);
    if (!number) return Error{path.string() + ":" + std::to_string(example.line) + ": " + number.error().message};
    const auto encoding = example.second ? tokenizer.encode_pair(example.text, *example.second, options)
                                         : tokenizer.encode(example.text, options);
    if (!encoding) return encoding.error();
    rows.tokens.add(encoding->ids);
    rows.type_ids.insert(rows.type_ids.end(), encoding->type_ids.begin(), encoding->type_ids.end());
    rows.labels.push_back(*number);
  }
  return rows;
}

ClassificationDataset::ClassificationDataset(ClassificationRows rows, bool regression,
                                             const TokenizerTraits& traits)
    : rows_(std::move(rows)),
      regression_(regression),
      has_type_ids_(traits.gives_type_ids),
      pad_(traits.pad.value_or(0)),
      pad_type_(traits.pad_type_id),
      padding_side_(traits.padding_side) {}

std::int64_t ClassificationDataset::tokens_in_row(std::int64_t row) const {
  const TokenId* const first = rows_.tokens.ids.data() + rows_.tokens.begins[static_cast<std::size_t>(row)];
  std::int64_t tokens = rows_.tokens.length(row);
  while (left_off_ && tokens > 1 && first[tokens - 1] == *left_off_) --tokens;
  return tokens;
}

Batch ClassificationDataset::batch(std::span<const std::int64_t> rows, const LengthBuckets& buckets) const {
  const ProfileScope scope("batch", OperatorGroup::data);
  const auto count = static_cast<std::int64_t>(rows.size());
  std::int64_t length = 1;
  for (const std::int64_t row : rows) length = std::max(length, tokens_in_row(row));
  length = buckets.fit(length);

  const auto whole = at::TensorOptions().dtype(at::kLong);
  Batch batch;
  batch.input_ids = at::full({count, length}, pad_, whole);
  batch.attention_mask = at::zeros({count, length}, whole);
  if (has_type_ids_) batch.token_type_ids = at::full({count, length}, pad_type_, whole);
  batch.labels = at::empty({count}, at::TensorOptions().dtype(regression_ ? at::kFloat : at::kLong));
  batch.row_indices.assign(rows.begin(), rows.end());

  auto* ids = batch.input_ids.data_ptr<std::int64_t>();
  auto* mask = batch.attention_mask.data_ptr<std::int64_t>();
  auto* types = has_type_ids_ ? batch.token_type_ids.data_ptr<std::int64_t>() : nullptr;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    const std::int64_t begin = rows_.tokens.begins[static_cast<std::size_t>(row)], tokens = tokens_in_row(row);
    const std::int64_t to = i * length + (padding_side_ == Side::right ? 0 : length - tokens);
    std::copy_n(rows_.tokens.ids.begin() + begin, tokens, ids + to);
    std::fill_n(mask + to, tokens, 1);
    if (types != nullptr) std::copy_n(rows_.type_ids.begin() + begin, tokens, types + to);
    if (regression_) {
      batch.labels.data_ptr<float>()[i] = static_cast<float>(label(row));
    } else {
      batch.labels.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(label(row));
    }
  }
  return batch;
}

EpochPlan::EpochPlan(std::int64_t rows, std::int64_t batch_size, std::int64_t gradient_accumulation,
                     std::uint64_t seed)
    : rows_(rows), batch_size_(batch_size), accumulation_(gradient_accumulation), seed_(seed) {
  const std::int64_t batches = (rows + batch_size - 1) / batch_size;
  steps_per_epoch_ = (batches + accumulation_ - 1) / accumulation_;
}

std::vector<std::vector<std::int64_t>> EpochPlan::step(std::int64_t epoch, std::int64_t step) {
  if (epoch != ordered_epoch_) {
    order_ =
        random_permutation(rows_, RandomStream(seed_, purpose::data_order, {static_cast<std::uint64_t>(epoch)}));
    ordered_epoch_ = epoch;
  }
  std::vector<std::vector<std::int64_t>> batches;
  const std::int64_t first = step * accumulation_ * batch_size_;
  const std::int64_t end = std::min(rows_, first + accumulation_ * batch_size_);
  for (std::int64_t begin = first; begin < end; begin += batch_size_) {
    batches.emplace_back(order_.begin() + begin, order_.begin() + std::min(end, begin + batch_size_));
  }
  return batches;
}

}  // namespace finesweep::worker
