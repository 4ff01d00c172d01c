#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/models/model.h"
#include "worker/models/weights.h"

namespace finesweep::worker {

/// What the config.json of a BERT or a RoBERTa says of the model.
struct BertConfig {
  std::int64_t vocabulary = 0, positions = 0, types = 0;
  std::int64_t width = 0, layers = 0, heads = 0, inner = 0;
  Activation activation = Activation::gelu;
  double hidden_dropout = 0, attention_dropout = 0, head_dropout = 0;
  double norm_epsilon = 1e-12;
  double initializer_range = 0.02;
  std::int64_t padding_id = 0;         // -1: none
  std::int64_t padding_position = -1;  // whose embedding gets no gradient, as padding_id's; -1: none
};

/// The Error names the key. `padding_id`: where the config has none.
Result<BertConfig> read_bert_config(const Json& config, std::int64_t padding_id);

/// The encoder that BERT and RoBERTa share: embeddings of words, positions and types, then layers of attention and
/// feed-forward block, each with its norm at the end. Its modules are called `name`.embeddings,
/// `name`.encoder.layer.0, ….
class BertEncoder {
 public:
  static void add_weights(WeightSpecs& specs, const std::string& name, const BertConfig& config);
  /// The name of one of the encoder's tensors, or of its pooler's, in a file that leaves out `name` or calls norms'
  /// parameters gamma and beta. Other names stay as they are; empty for a buffer.
  static std::string canonical_name(std::string_view file_name, std::string_view name);

  /// `weights` must outlive it.
  BertEncoder(ModelWeights& weights, const std::string& name, const BertConfig& config,
              at::ScalarType compute_type);

  /// [tokens] int64 each, on the model's device.
  struct Inputs {
    at::Tensor ids, positions, types;
  };
  /// The output for every token: [tokens, width].
  Var run(const Inputs& inputs, const Layout& layout, const Pass& pass);
  /// The output for the first token of each row: [rows, width]. The last layer runs for these alone.
  Var run_for_first(const Inputs& inputs, const Layout& layout, const Pass& pass);

  std::vector<LinearModule*> linear_modules();

 private:
  struct Layer {
    LinearModule qkv, output, up, down;
    NormModule attention_norm, output_norm;
    std::uint64_t attention_site = 0, output_site = 0, down_site = 0;
    const LinearModule* next = nullptr;  // that multiplies the layer's output; null: of the last one

    bool trains() const;
  };

  Var run_all(const Inputs& inputs, const Layout& layout, const Pass& pass, std::size_t layers_for_first);
  Var run_layer(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass);
  Var run_layer_for_first(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass);
  Var after_attention(const Layer& layer, const Var& context, const Var& residual, const Layout& layout,
                      const Pass& pass);
  AttentionOptions attention_options() const;

  BertConfig config_;
  at::ScalarType compute_type_;
  EmbeddingModule embedding_;
  std::uint64_t embedding_site_;
  std::vector<Layer> layers_;
};

}  // namespace finesweep::worker
