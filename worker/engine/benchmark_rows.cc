#include "worker/engine/benchmark_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "worker/random.h"

namespace finesweep::worker {
namespace {

std::int64_t* numbers_of(const at::Tensor& tensor) {
  return tensor.mutable_data_ptr<std::int64_t>();
}

/// Tokens of the rows of a permutation, one row after the other, endlessly.
class TokenStream {
 public:
  TokenStream(const TaskData& data, const std::vector<std::int64_t>& order) : data_(data), order_(order) {}

  /// The next tokens are those of the row at this place of the permutation.
  void go_to(std::int64_t place) {
    row_ = data_.batch(std::vector<std::int64_t>{order_[static_cast<std::size_t>(place) % order_.size()]});
    place_ = place;
    at_ = 0;
  }

  /// Writes `count` ids, and types where `types` is not null; those of the labels where `labels` is set.
  void take(std::int64_t count, std::int64_t* ids, std::int64_t* types, bool labels) {
    std::size_t rows_without = 0;
    for (std::int64_t taken = 0; taken < count; ++at_) {
      const at::Tensor& from = labels ? row_.labels : row_.input_ids;
      if (at_ >= from.size(1)) {
        if (rows_without++ > order_.size()) throw std::runtime_error("no row of the data has a token that counts");
        go_to(place_ + 1);
        at_ = -1;
        continue;
      }
      const std::int64_t id = from.const_data_ptr<std::int64_t>()[at_];
      if (labels ? id == ignored_label : row_.attention_mask.const_data_ptr<std::int64_t>()[at_] == 0) continue;
      ids[taken] = id;
      if (types != nullptr) types[taken] = row_.token_type_ids.const_data_ptr<std::int64_t>()[at_];
      ++taken;
      rows_without = 0;
    }
  }

  const Batch& row() const { return row_; }

 private:
  const TaskData& data_;
  const std::vector<std::int64_t>& order_;
  std::int64_t place_ = 0, at_ = 0;
  Batch row_;
};

Batch empty_batch(std::int64_t rows, std::int64_t length) {
  Batch batch;
  batch.input_ids = at::zeros({rows, length}, at::kLong);
  batch.attention_mask = at::ones_like(batch.input_ids);
  for (std::int64_t r = 0; r < rows; ++r) batch.row_indices.push_back(r);
  return batch;
}

}  // namespace

Batch benchmark_batch(const TaskData& data, Task task, const BenchmarkSettings& settings, std::uint64_t seed) {
  const std::int64_t rows = settings.batch_size, length = settings.sequence_length;
  const auto order = random_permutation(data.rows(), RandomStream(seed, purpose::data_order, {0}));
  TokenStream stream(data, order);
  Batch batch = empty_batch(rows, length);
  if (task == Task::seq2seq) batch.labels = at::zeros({rows, length}, at::kLong);
  for (std::int64_t r = 0; r < rows; ++r) {
    stream.go_to(r);
    const Batch first = stream.row();
    if (r == 0 && first.token_type_ids.defined()) batch.token_type_ids = at::zeros({rows, length}, at::kLong);
    if (r == 0 && task == Task::classification) batch.labels = at::zeros({rows}, first.labels.options());
    std::int64_t* types = batch.token_type_ids.defined() ? numbers_of(batch.token_type_ids) + r * length : nullptr;
    stream.take(length, numbers_of(batch.input_ids) + r * length, types, false);
    if (task == Task::classification) batch.labels.select(0, r).copy_(first.labels.select(0, 0));
    if (task != Task::seq2seq) continue;
    stream.go_to(r);
    stream.take(length, numbers_of(batch.labels) + r * length, nullptr, true);
  }
  if (task == Task::causal_lm) batch.labels = batch.input_ids.clone();
  return batch;
}

Batch random_benchmark_batch(std::int64_t vocabulary, Task task, const BenchmarkSettings& settings,
                             std::uint64_t seed) {
  RandomStream stream(seed, purpose::benchmark_tokens);
  Batch batch = empty_batch(settings.batch_size, settings.sequence_length);
  const auto draw = [&](const at::Tensor& ids) {
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      numbers_of(ids)[i] = static_cast<std::int64_t>(stream.next_below(static_cast<std::uint64_t>(vocabulary)));
    }
  };
  draw(batch.input_ids);
  if (task == Task::classification) {
    batch.labels = at::zeros({settings.batch_size}, at::kLong);
    return batch;
  }
  batch.labels = batch.input_ids.clone();
  if (task == Task::seq2seq) draw(batch.labels);
  return batch;
}

Prompts benchmark_prompts(const Batch& batch) {
  Prompts prompts;
  const std::int64_t length = batch.input_ids.size(1);
  const std::int64_t* ids = batch.input_ids.const_data_ptr<std::int64_t>();
  for (std::int64_t r = 0; r < batch.rows(); ++r) prompts.emplace_back(ids + r * length, ids + (r + 1) * length);
  return prompts;
}

}  // namespace finesweep::worker
