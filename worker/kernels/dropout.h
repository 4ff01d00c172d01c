#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "worker/kernels/token_layout.h"
#include "worker/random.h"

namespace finesweep::worker {

/// Dropout at one place of a model in one step. Whether an element is kept follows from the stream and the
/// element's place alone: row within the accumulated batch, position within the row, column (for attention: row,
/// head, query position, key position). So a mask does not depend on padding, on how a batch is split for
/// accumulation, on the number of threads, nor on what else is in the batch.
///
/// One Philox block decides eight elements, with 16 bits each: the probability is rounded to a multiple of 2^-16.
struct Dropout {
  std::uint32_t threshold = 0;  // dropped where the 16 bits are below it; 0: no dropout
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::uint64_t site = 0;

  bool active() const { return threshold != 0; }
  float scale() const { return 65536.0f / static_cast<float>(65536 - threshold); }
  /// The stream of a row of the accumulated batch. Its block (position << 32) + column / 8 decides a hidden state's
  /// eight columns; its block (head << 48) + (query << 24) + key / 8 eight attention probabilities. Element i of a
  /// block has the low (i < 4) or high 16 bits of number i % 4.
  RandomStream stream(std::int64_t row) const {
    return RandomStream(seed, purpose::dropout,
                        {static_cast<std::uint64_t>(step), site, static_cast<std::uint64_t>(row)});
  }
};

/// What a pass decides about dropout; a site adds its own probability and number.
struct DropoutRun {
  bool active = false;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
};

/// Numbers a place by its name ("bert.encoder.layer.0.output").
std::uint64_t dropout_site(std::string_view name);

/// Dropout at a place in a pass. Inactive where the run is, or probability is 0.
Dropout make_dropout(double probability, const DropoutRun& run, std::uint64_t site);

/// The mask of hidden states as a tensor, 0 or 1/(1-p): [tokens, width] fp32 on the CPU. For reference and tests;
/// the kernels compute it as they go.
at::Tensor dropout_mask(const Dropout& dropout, const TokenLayout& layout, std::int64_t width);
/// Of attention probabilities of one row: [heads, queries, keys], by positions within the padded row.
at::Tensor attention_dropout_mask(const Dropout& dropout, std::int64_t row, std::int64_t heads,
                                  const std::vector<std::int32_t>& queries, const std::vector<std::int32_t>& keys);

}  // namespace finesweep::worker
