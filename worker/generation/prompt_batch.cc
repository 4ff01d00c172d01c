#include "worker/generation/prompt_batch.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

Batch batch_of(const std::vector<std::vector<std::int64_t>>& rows) {
  const ProfileScope scope("batch", OperatorGroup::data);
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  Batch batch;
  batch.input_ids =
      at::zeros({static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(longest)}, at::kLong);
  batch.attention_mask = at::zeros_like(batch.input_ids);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::int64_t* ids = batch.input_ids.mutable_data_ptr<std::int64_t>() + r * longest;
    std::copy(rows[r].begin(), rows[r].end(), ids);
    std::fill_n(batch.attention_mask.mutable_data_ptr<std::int64_t>() + r * longest, rows[r].size(), 1);
    batch.row_indices.push_back(static_cast<std::int64_t>(r));
  }
  return batch;
}

}  // namespace finesweep::worker
