#include "worker/kernels/token_layout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "worker/kernels/profile_scope.h"

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
  return std::make_shared<const TokenLayout>(std::move(layout));
}

}  // namespace finesweep::worker
