#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "worker/kernels/token_layout.h"
#include "worker/random.h"

namespace finesweep::worker {

/// Dropout at one place of a model in one step. Whether an element is kept follows from the stream and the
/// element's place alone: row within the accumulated batch, token (counted over the row's real tokens), column (for
/// attention: row, head, query, key). So a mask does not depend on padding, on how a batch is split for
/// accumulation, on the number of threads, nor on what else is in the batch.
///
/// One Philox block decides eight elements, with 16 bits each: the probability is rounded to a multiple of 2^-16.
struct Dropout {
  std::uint32_t threshold = 0;  // dropped where the 16 bits are below it; 0: no dropout
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::uint64_t site = 0;
  /// Where set: the step as kernels of a GPU read it, so that a captured step can be replayed as another. It must
  /// outlive the replays.
  const std::int64_t* step_on_device = nullptr;

  bool active() const { return threshold != 0; }
  float scale() const { return 65536.0f / static_cast<float>(65536 - threshold); }
  /// The stream of a row of the accumulated batch. Its block (token << 32) + column / 8 decides eight columns of a
  /// hidden state; its block (head << 48) + (query << 24) + key / 8 eight attention probabilities. Element i of a
  /// block has number i / 2 of the block: the low 16 bits where i is even, else the high ones.
  RandomStream stream(std::int64_t row) const { return stream_of({seed, step, row}); }
  /// That of row r of a layout. In a pack each row has its job's seed and step.
  RandomStream stream(const TokenLayout& layout, std::int64_t r) const {
    return layout.streams.empty() ? stream(layout.first_row + r) : stream_of(layout.streams[r]);
  }

 private:
  RandomStream stream_of(const RowStream& of) const {
    return RandomStream(of.seed, purpose::dropout,
                        {static_cast<std::uint64_t>(of.step), site, static_cast<std::uint64_t>(of.row)});
  }
};

/// What a pass decides about dropout; a site adds its own probability and number.
struct DropoutRun {
  bool active = false;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  /// As Dropout::step_on_device.
  const std::int64_t* step_on_device = nullptr;
};

/// Numbers a place by its name ("bert.encoder.layer.0.output").
std::uint64_t dropout_site(std::string_view name);

/// Dropout at a place in a pass. Inactive where the run is, or probability is 0.
Dropout make_dropout(double probability, const DropoutRun& run, std::uint64_t site);

/// Elements are kept where these 16 bits are not below the threshold: 8 × `blocks` of them from `first_block` on.
void dropout_bits(const RandomStream& stream, std::uint64_t first_block, std::int64_t blocks, std::uint16_t* bits);

/// The mask of hidden states as a tensor, 0 or 1/(1-p): [tokens, width] fp32 on the CPU. For reference and tests;
/// the kernels compute it as they go.
at::Tensor dropout_mask(const Dropout& dropout, const TokenLayout& layout, std::int64_t width);
/// Of the attention probabilities of row r of a layout of queries: [heads, queries, keys].
at::Tensor attention_dropout_mask(const Dropout& dropout, const TokenLayout& layout, std::int64_t r,
                                  std::int64_t heads, std::int64_t queries, std::int64_t keys);

}  // namespace finesweep::worker
