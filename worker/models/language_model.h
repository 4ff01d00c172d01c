#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/kernels/decode_attention.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// Keys and values of the tokens that a model has seen, so that each new token costs one pass of its own. The model
/// fills it; rows are those of the batches that it is used with.
struct KeyValueCache {
  struct Layer {
    /// [rows, capacity, 2 × key width]: of each token its key and then its value. Undefined before the first pass.
    at::Tensor tokens;
    /// Of the encoder's output, encoder-decoders only: [source tokens, 2 × key width].
    at::Tensor source;
  };
  std::vector<Layer> layers;
  /// Tokens that each row holds: [rows].
  std::vector<std::int64_t> lengths;
  /// Where the tokens of the pass that is under way go; the first layer says it.
  at::Tensor places;
  /// Tokens that a row may come to hold.
  std::int64_t capacity = 0;
  /// Where there is one, the device counts the rows' tokens, and `lengths` is not looked at: see step_logits.
  std::optional<CountedCache> counted;

  /// Row r becomes what row rows[r] was: beams that were dropped and doubled.
  void reorder(const std::vector<std::int64_t>& rows);
};

/// What an encoder-decoder decodes from.
struct EncodedSource {
  at::Tensor hidden;  // [source tokens, width]
  Layout layout;
  /// The source row of each decoder row: several beams read one.
  std::vector<std::int64_t> row_of;
};

/// The state of a generation.
struct Decoding {
  /// Null: every step is given all tokens from the start.
  KeyValueCache* cache = nullptr;
  std::optional<EncodedSource> source;
  /// Where set, of a model that steps: the tokens of the next pass on the model's device, the first that the cache
  /// is to hold, with their places. Of the batch itself nothing is read then.
  const BatchInputs* inputs = nullptr;
};

/// What the loss of a language model is computed from: logits are scale · hidden Wᵀ of its head.
struct TokenOutputs {
  Var hidden;  // [tokens, width]
  const LinearModule* head = nullptr;
  double scale = 1;
  /// On the model's device: what should follow, -100 where nothing counts; of all tokens, or of `counted` alone.
  at::Tensor labels;   // int64
  at::Tensor counted;  // as TokenLabels::index
  Layout layout;
};

/// A model that continues text.
class LanguageModel : public Model {
 public:
  LanguageModel* language_model() override { return this; }
  virtual bool is_encoder_decoder() const { return false; }
  virtual std::int64_t vocabulary() const = 0;
  /// The longest sequence (of the decoder), where the model has a limit.
  virtual std::optional<std::int64_t> positions() const = 0;

  /// Of the tokens of a batch with labels (of an encoder-decoder the decoder's).
  virtual TokenOutputs outputs(const Batch& batch, const Pass& pass) = 0;

  /// Encoder-decoders: the encoder's output for the batch's input_ids, row_of 0, 1, 2, …
  virtual EncodedSource encode(const Batch& source);

  /// fp32 [rows, vocabulary] on the model's device: the logits of the token after the last of each row. The tokens
  /// are input_ids under attention_mask, of any padding: the prompt's (for an encoder-decoder the decoder's), or,
  /// with a cache, those that came since.
  virtual at::Tensor next_logits(const Batch& tokens, Decoding& decoding) = 0;

  /// Whether there is step_logits.
  virtual bool steps() const { return false; }
  /// The same for one token a row, where everything stands on the device and nothing waits for the host, so that a
  /// step can be captured.  ids [rows] int64 on the model's device; cache.counted is set, and its lengths are left
  /// to the caller to raise.
  virtual at::Tensor step_logits(const at::Tensor& ids, KeyValueCache& cache);
};

/// What self-attention needs beside the projections: the layer's number, for the cache.
///
/// Without a cache the tokens of the layout attend to one another; with one, their keys and values are appended to
/// the layer's and they attend to all. Lengths change when the pass ends (see advance).  qkv [tokens, (heads + 2 ×
/// key_heads) × size]. Where there is a rotation, query and key are turned by it first.
struct Rotation {
  const RotaryTable& table;
  const at::Tensor& positions;  // [tokens] int64
};
Var self_attention(const Pass& pass, std::size_t layer, const Var& qkv, const Layout& layout,
                   const AttentionOptions& options, const Dropout& dropout, const Rotation* rotation = nullptr);

/// Positions of the batch's tokens: behind those of the cache where there is one. [tokens] int64, CPU.
at::Tensor positions_of(const Pass& pass, const Layout& layout);

/// Where the tokens of a layout go in a flattened cache, behind those that it holds: the same in all layers.
/// [tokens] int64, CPU. Throws std::length_error where a row has no room for them.
at::Tensor places_of(const KeyValueCache& cache, const TokenLayout& layout);

/// The tokens of a finished pass count as held.
void advance(KeyValueCache& cache, const Layout& layout);

}  // namespace finesweep::worker
