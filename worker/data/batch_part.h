#pragma once

#include <cstdint>

#include "worker/data/batch.h"

namespace finesweep::worker {

/// Rows first … first + count, as views.
inline Batch part_of(const Batch& batch, std::int64_t first, std::int64_t count) {
  const auto narrowed = [&](const at::Tensor& x) { return x.defined() ? x.narrow(0, first, count) : x; };
  Batch part;
  part.input_ids = narrowed(batch.input_ids);
  part.attention_mask = narrowed(batch.attention_mask);
  part.token_type_ids = narrowed(batch.token_type_ids);
  part.labels = narrowed(batch.labels);
  part.decoder_input_ids = narrowed(batch.decoder_input_ids);
  part.position_ids = narrowed(batch.position_ids);
  const auto& rows = batch.row_indices;
  if (!rows.empty()) part.row_indices.assign(rows.begin() + first, rows.begin() + first + count);
  return part;
}

}  // namespace finesweep::worker
