#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/models/family.h"
#include "worker/models/language_model.h"
#include "worker/models/pretrained.h"
#include "worker/models/rotary.h"
#include "worker/models/weights.h"

namespace finesweep::worker {

/// What a config.json says of a decoder-only model: an embedding, layers of causal attention and feed-forward
/// block, each behind a norm and added to what goes through, a last norm and a head.
struct DecoderConfig {
  std::int64_t vocabulary = 0, width = 0, inner = 0;
  /// The longest sequence.
  std::int64_t positions = 0;
  std::int64_t heads = 0, key_heads = 0, head_size = 0;
  struct Layer {
    double attention_scale = 1;
    std::int64_t window = 0;  // 0: attention reaches all tokens before
  };
  std::vector<Layer> layers;
  /// Query and key are turned by their position. Absent: positions have a table.
  std::optional<RotaryFrequencies> rotary;
  NormKind norm = NormKind::layer;
  double norm_epsilon = 1e-5;
  Activation activation = Activation::gelu_tanh;
  /// down(activation(gate x) · up x) in place of down(activation(up x)).
  bool gated = false;
  bool qkv_bias = false, output_bias = false, feed_forward_bias = false;
  /// Files hold the layers' matrices as [in, out].
  bool transposed = false;
  double attention_dropout = 0;
  std::optional<double> embedding_dropout, residual_dropout;  // absent: the family has none
  /// A padding token that the embedding does not train; -1: none.
  std::int64_t padding_id = -1;
  double initializer_range = 0.02;
  /// The embedding is the head too, unless the files hold another one.
  bool tied = true;
};

/// What a family calls the modules of a layer.
struct DecoderLayerPaths {
  std::string attention_norm, feed_forward_norm;
  /// Query, key and value; or one module that gives the three side by side.
  std::vector<std::string> qkv;
  std::string output;
  std::vector<std::string> up;  // of a gated block: gate and up
  std::string down;
};

/// What a family brings.
struct DecoderFamily {
  std::string_view name;  // model_type
  /// transformers' classes.
  const char* generator = nullptr;
  const char* classifier = nullptr;
  Result<DecoderConfig> (*read)(const Json& config) = nullptr;
  const char* words = nullptr;
  const char* positions = nullptr;  // null: the family has no table
  const char* final_norm = nullptr;
  DecoderLayerPaths (*layer)(std::int64_t index) = nullptr;
  std::vector<std::string> lora_targets, ia3_targets, ia3_feedforward;
};

/// Family::weights and Family::make of such a family.
Result<std::vector<WeightSpec>> decoder_weights(const DecoderFamily& family, const Json& config);
Result<std::unique_ptr<Model>> make_decoder(const DecoderFamily& family,
                                            std::shared_ptr<const Pretrained> pretrained,
                                            const ModelOptions& options);

/// A model of such a family, with one of two heads.
///
/// Language model: the loss of a token is that of the label behind it, as transformers shifts them; a label whose
/// token before is not under the mask does not count. Classification: as transformers' …ForSequenceClassification,
/// a linear module without bias, `score`, on the last token under the mask; or on the mean of the tokens.
///
/// Tokens stand at position_ids where the batch has them, else at their number within the row's tokens.
class Decoder final : public LanguageModel {
 public:
  /// `family` must outlive it.
  Decoder(const DecoderFamily& family, std::shared_ptr<const Pretrained> pretrained, DecoderConfig config,
          const ModelOptions& options);

  Var logits(const Batch& batch, const Pass& pass) override;
  Var loss(const Batch& batch, const Pass& pass, const Denominator& denominator) override;
  std::optional<BatchInputs> inputs(const Batch& batch, std::int64_t first_row) override;
  std::int64_t counted(const Batch& batch) const override;
  Status check(const Batch& batch) const override;
  std::string_view family() const override { return family_.name; }
  std::vector<LinearModule*> linear_modules() override;
  std::vector<Parameter*> parameters() override { return weights_.parameters(); }
  std::vector<std::string> head_modules() const override;
  std::vector<std::string> default_lora_targets() const override { return family_.lora_targets; }
  std::vector<std::string> default_ia3_targets() const override { return family_.ia3_targets; }
  std::vector<std::string> default_ia3_feedforward() const override { return family_.ia3_feedforward; }
  Json config() const override;
  at::ScalarType compute_type() const override { return compute_type_; }
  c10::Device device() const override { return pretrained_->device; }

  LanguageModel* language_model() override { return classifies_ ? nullptr : this; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::optional<std::int64_t> positions() const override { return config_.positions; }
  TokenOutputs outputs(const Batch& batch, const Pass& pass) override;
  at::Tensor next_logits(const Batch& tokens, Decoding& decoding) override;
  bool steps() const override { return !classifies_; }
  at::Tensor step_logits(const at::Tensor& ids, KeyValueCache& cache) override;

 private:
  struct Layer {
    NormModule attention_norm, feed_forward_norm;
    LinearModule qkv, output, up, down;
    AttentionOptions attention;
    std::uint64_t attention_site = 0, output_site = 0, down_site = 0;
    bool trains() const;
  };
  /// The tokens of a batch that are under its mask.
  struct Tokens {
    Layout layout;
    at::Tensor ids, positions;  // [tokens], on the model's device
  };

  void adopt_weights(const ModelOptions& options);
  Layer make_layer(std::size_t index);
  Tokens tokens_of(const Batch& batch, const Pass& pass);
  /// Makes the rotary table reach these positions, which are on the CPU, or that many.
  void reach(const at::Tensor& positions);
  void rotate_up_to(std::int64_t positions);
  /// The last layer's output: [tokens, width].
  Var run(const Tokens& tokens, const Pass& pass);
  Var run_layer(std::size_t index, const Var& x, const Tokens& tokens, const Pass& pass) const;
  Var final_norm(const Var& x, const Pass& pass) const;
  at::Tensor logits_of_last(const Var& last, const Layout& layout, const Pass& pass) const;
  /// What the classifier sees of each row: [rows, width].
  Var pooled(const Tokens& tokens, const Pass& pass);

  const DecoderFamily& family_;
  std::shared_ptr<const Pretrained> pretrained_;
  DecoderConfig config_;
  bool classifies_;
  std::int64_t labels_;
  Pooling pooling_;
  at::ScalarType compute_type_;
  ModelWeights weights_;
  EmbeddingModule embedding_;
  std::vector<Layer> layers_;
  NormModule final_norm_;
  LinearModule head_;
  RotaryTable rotary_;                 // as far as a batch has needed it
  std::vector<RotaryTable> outgrown_;  // captured steps may read them
};

}  // namespace finesweep::worker
