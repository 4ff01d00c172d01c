#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/kernels/token_layout.h"

namespace finesweep::worker {

/// What a pass reads of a batch: of its tokens under the mask, row after row. A model makes it on the CPU; moved to
/// the model's device it may stand in for the batch (Pass::inputs), as in a step that was captured with other
/// batches.
struct BatchInputs {
  struct Tokens {
    Layout layout;
    at::Tensor ids, positions, types;  // [tokens] int64; undefined where the model does not read them
    /// Of prompts: where keys and values of the tokens go in a flattened cache (KeyValueCache). [tokens] int64.
    at::Tensor places;
    std::int64_t spare_place = 0;  // of those of tokens of no row, if a pass has such
  };
  Tokens tokens;  // of an encoder-decoder: the decoder's
  Tokens source;  // of an encoder-decoder
  /// Of each row or, of a language model, of each token what should follow it.
  at::Tensor labels;
  /// Where labels are those of some tokens alone: which (TokenLabels).
  at::Tensor counted;
  /// The labels are the tokens', not the rows'.
  bool of_tokens = false;
  /// The labels of tokens are wanted with an index, however many there are.
  bool indexed = false;
  /// Of a distillation, on the model's device from the start: final hidden states of the tokens that count, as many
  /// as do ([counted tokens, width]; moved to the device as `counted` has them), or a classifier's logits [rows,
  /// labels].
  at::Tensor teacher;
};

/// What one job gives to a pass of a pack: nothing, where `inputs` is absent, and the seed and step of its dropout.
struct JobInputs {
  std::optional<BatchInputs> inputs;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
};

/// The inputs of a pass over several jobs, at least one of which gives some: one job's rows behind the other's. All
/// on the CPU.
BatchInputs pack_inputs(const std::vector<JobInputs>& jobs);

}  // namespace finesweep::worker
