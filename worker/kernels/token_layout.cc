#include "worker/kernels/token_layout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "worker/kernels/profile_scope.h"
#include "worker/random.h"

namespace finesweep::worker {

Layout TokenLayout::of_mask(const at::Tensor& attention_mask, std::int64_t first_row) {
  const ProfileScope scope("layout", OperatorGroup::data);
  const at::Tensor mask = attention_mask.to(at::kCPU, at::kLong).contiguous();
  const std::int64_t rows = mask.size(0), length = mask.size(1);
  const std::int64_t* ones = mask.const_data_ptr<std::int64_t>();
  TokenLayout layout;
  layout.rows = rows;
  layout.first_row = first_row;
  layout.starts.push_back(0);
  std::vector<std::int64_t> index;
  index.reserve(rows * length);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = r * length; i < (r + 1) * length; ++i) {
      if (ones[i] == 0) continue;
      index.push_back(i);
      layout.row.push_back(static_cast<std::int32_t>(r));
    }
    layout.starts.push_back(static_cast<std::int64_t>(index.size()));
    if (layout.tokens_of(r) == 0) throw std::invalid_argument("a row of the batch has no token under its mask");
    layout.longest = std::max(layout.longest, layout.tokens_of(r));
  }
  layout.padded_index = at::empty({layout.tokens()}, at::kLong);
  std::copy(index.begin(), index.end(), layout.padded_index.mutable_data_ptr<std::int64_t>());
  return std::make_shared<const TokenLayout>(std::move(layout));
}

std::int64_t RowSpans::longest() const {
  return count.empty() ? 0 : *std::max_element(count.begin(), count.end());
}

RowSpans TokenLayout::spans() const {
  RowSpans spans;
  spans.of = weak_from_this().lock();
  for (std::int64_t r = 0; r < rows; ++r) {
    spans.begin.push_back(starts[r]);
    spans.count.push_back(tokens_of(r));
  }
  return spans;
}

at::Tensor TokenLayout::positions(const std::vector<std::int64_t>& before) const {
  at::Tensor result = at::empty({tokens()}, at::kLong);
  std::int64_t* out = result.mutable_data_ptr<std::int64_t>();
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t first = before.empty() ? 0 : before[r];
    for (std::int64_t i = 0; i < tokens_of(r); ++i) *out++ = first + i;
  }
  return result;
}

Layout TokenLayout::first_tokens() const {
  TokenLayout layout;
  layout.whole_ = weak_from_this().lock();
  layout.rows = rows;
  layout.longest = 1;
  layout.first_row = first_row;
  layout.padded_index = at::empty({rows}, at::kLong);
  for (std::int64_t r = 0; r < rows; ++r) {
    layout.starts.push_back(r);
    layout.row.push_back(static_cast<std::int32_t>(r));
    layout.padded_index.mutable_data_ptr<std::int64_t>()[r] =
        padded_index.const_data_ptr<std::int64_t>()[starts[r]];
  }
  layout.starts.push_back(rows);
  layout.job_rows = job_rows;
  layout.streams = streams;
  return std::make_shared<const TokenLayout>(std::move(layout));
}

std::vector<std::int64_t> TokenLayout::job_tokens() const {
  std::vector<std::int64_t> begins;
  for (const std::int64_t row : job_rows) begins.push_back(starts[row]);
  return begins;
}

Layout TokenLayout::pack(const std::vector<JobRows>& jobs) {
  TokenLayout whole;
  std::vector<at::Tensor> places;
  whole.starts.push_back(0);
  whole.job_rows.push_back(0);
  for (const JobRows& job : jobs) {
    if (job.layout) {
      const TokenLayout& mine = *job.layout;
      const std::int64_t tokens = whole.tokens();
      for (const std::int32_t row : mine.row) whole.row.push_back(static_cast<std::int32_t>(whole.rows) + row);
      for (std::int64_t r = 0; r < mine.rows; ++r) {
        whole.starts.push_back(tokens + mine.starts[r + 1]);
        whole.streams.push_back({job.seed, job.step, mine.first_row + r});
      }
      whole.rows += mine.rows;
      whole.longest = std::max(whole.longest, mine.longest);
      places.push_back(mine.padded_index);
    }
    whole.job_rows.push_back(whole.rows);
  }
  whole.padded_index = at::cat(places);
  return std::make_shared<const TokenLayout>(std::move(whole));
}

Layout TokenLayout::of_job(std::size_t j) const {
  if (rows_of_job(j) == 0) return nullptr;
  of_jobs_.resize(jobs());
  if (of_jobs_[j]) return of_jobs_[j];
  TokenLayout layout;
  const std::int64_t first = job_rows[j], last = job_rows[j + 1], token = starts[first];
  layout.rows = last - first;
  for (std::int64_t r = first; r <= last; ++r) layout.starts.push_back(starts[r] - token);
  for (std::int64_t r = first; r < last; ++r) layout.longest = std::max(layout.longest, tokens_of(r));
  for (std::int64_t t = token; t < starts[last]; ++t) {
    layout.row.push_back(row[t] - static_cast<std::int32_t>(first));
  }
  layout.padded_index = padded_index.narrow(0, token, layout.tokens());
  layout.streams.assign(streams.begin() + first, streams.begin() + last);
  return of_jobs_[j] = std::make_shared<const TokenLayout>(std::move(layout));
}

std::vector<std::int32_t> device_layout_numbers(const TokenLayout& layout, std::int64_t size) {
  std::vector<std::int32_t> numbers;
  numbers.reserve(static_cast<std::size_t>(2 * (layout.rows + 1 + size)));
  const auto add = [&](std::int64_t number) { numbers.push_back(static_cast<std::int32_t>(number)); };
  for (const std::int64_t start : layout.starts) add(start);
  add(size);
  for (std::int64_t t = 0; t < size; ++t) {
    add(layout.first_row + (t < layout.tokens() ? layout.row[static_cast<std::size_t>(t)] : 0));
  }
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    for (std::int64_t i = 0; i < layout.tokens_of(r); ++i) add(i);
  }
  for (std::int64_t i = 0; i < size - layout.tokens(); ++i) add(i);
  for (std::int64_t r = 0; r < layout.rows; ++r) add(layout.first_row + r);
  if (!layout.is_pack()) return numbers;
  const std::vector<std::int64_t> begins = layout.job_tokens();
  for (std::size_t j = 0; j < layout.jobs(); ++j) {
    numbers.insert(numbers.end(), static_cast<std::size_t>(begins[j + 1] - begins[j]),
                   static_cast<std::int32_t>(j));
  }
  numbers.insert(numbers.end(), static_cast<std::size_t>(size - layout.tokens()), -1);
  for (std::size_t j = 0; j < layout.jobs(); ++j) {
    numbers.insert(numbers.end(), static_cast<std::size_t>(layout.rows_of_job(j)), static_cast<std::int32_t>(j));
  }
  return numbers;
}

std::vector<std::int64_t> device_streams(const TokenLayout& layout) {
  std::vector<std::int64_t> streams;
  for (const RowStream& of : layout.streams) {
    const std::uint64_t key = RandomStream(of.seed, purpose::dropout).key();
    streams.insert(streams.end(), {static_cast<std::int64_t>(key), of.step, of.row});
  }
  return streams;
}

DeviceLayout device_layout_of(const at::Tensor& numbers, const at::Tensor& streams, std::int64_t rows,
                              std::int64_t size) {
  DeviceLayout layout;
  layout.row_count = rows;
  layout.starts = numbers.narrow(0, 0, rows + 2);
  layout.token_rows = numbers.narrow(0, rows + 2, size);
  layout.places = numbers.narrow(0, rows + 2 + size, size);
  layout.rows = numbers.narrow(0, rows + 2 + 2 * size, rows);
  if (!streams.defined()) return layout;
  layout.token_jobs = numbers.narrow(0, 2 * rows + 2 + 2 * size, size);
  layout.row_jobs = numbers.narrow(0, 2 * rows + 2 + 3 * size, rows);
  layout.streams = streams;
  return layout;
}

namespace {

/// Of one token a row, on the device alone: the layout of the whole may change from replay to replay.
DeviceLayout first_of(const DeviceLayout& whole) {
  const auto numbers = whole.starts.options();
  DeviceLayout layout;
  layout.row_count = whole.row_count;
  layout.starts = at::cat({at::arange(whole.row_count + 1, numbers), at::full({1}, whole.row_count, numbers)});
  layout.token_rows = layout.rows = whole.rows;
  layout.token_jobs = layout.row_jobs = whole.row_jobs;
  layout.streams = whole.streams;
  layout.places = at::zeros({whole.row_count}, numbers);
  layout.longest = 1;
  layout.even = true;
  return layout;
}

}  // namespace

namespace {

template <typename T>
at::Tensor uploaded(const std::vector<T>& numbers, at::ScalarType type, c10::Device device) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  const at::Tensor pinned = at::empty({count}, at::TensorOptions(type).pinned_memory(true));
  std::copy(numbers.begin(), numbers.end(), pinned.mutable_data_ptr<T>());
  return pinned.to(device, /*non_blocking=*/true);
}

}  // namespace

at::Tensor DeviceLayout::first() const {
  return starts.narrow(0, 0, row_count).to(at::kLong);
}

at::Tensor DeviceLayout::last() const {
  return starts.narrow(0, 1, row_count).to(at::kLong) - 1;
}

const DeviceLayout& TokenLayout::on(c10::Device device) const {
  if (!on_device_) {
    DeviceLayout made;
    if (whole_) {
      made = first_of(whole_->on(device));
    } else {
      const at::Tensor numbers = uploaded(device_layout_numbers(*this, tokens()), at::kInt, device);
      const at::Tensor of_rows = is_pack() ? uploaded(device_streams(*this), at::kLong, device) : at::Tensor();
      made = device_layout_of(numbers, of_rows, rows, tokens());
      made.longest = longest;
      made.even = tokens() == rows * longest;
    }
    on_device_ = std::make_shared<const DeviceLayout>(std::move(made));
  }
  return *on_device_;
}

}  // namespace finesweep::worker
