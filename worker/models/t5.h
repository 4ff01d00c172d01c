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
#include "worker/models/weights.h"

namespace finesweep::worker {

/// T5 (https://arxiv.org/abs/1910.10683) and T5 v1.1 (https://arxiv.org/abs/2002.05202; Flan-T5), as transformers'
/// T5ForConditionalGeneration computes them.
extern const Family t5_family;

struct T5Config {
  std::int64_t vocabulary = 0, width = 0, inner = 0;
  std::int64_t encoder_layers = 0, decoder_layers = 0;
  std::int64_t heads = 0, head_size = 0;  // heads × head_size may differ from the width
  std::int64_t buckets = 32, max_distance = 128;
  /// The feed-forward block is wo(activation(wi_0 x) · wi_1 x) in place of wo(activation(wi x)).
  bool gated = false;
  Activation activation = Activation::relu;
  double dropout = 0.1;
  double norm_epsilon = 1e-6;
  /// The decoder's output is multiplied by width^-½ before the head.
  bool scales_output = true;
  std::int64_t padding_id = 0, decoder_start_id = 0;
};

/// The Error names the key.
Result<T5Config> read_t5_config(const Json& config);

/// Encoder and decoder over one embedding, which is the head too where the files have no lm_head.
///
/// The decoder's tokens are decoder_input_ids, every one of them, or else the labels shifted right, up to each
/// row's last counted label. In fp16 the sums that layers add to, and the products of wo, which leave fp16's range,
/// are fp32.
class T5Model final : public LanguageModel {
 public:
  T5Model(std::shared_ptr<const Pretrained> pretrained, const T5Config& config, const ModelOptions& options);

  Var logits(const Batch& batch, const Pass& pass) override;
  Var loss(const Batch& batch, const Pass& pass, const Denominator& denominator) override;
  std::optional<BatchInputs> inputs(const Batch& batch, std::int64_t first_row) override;
  std::int64_t counted(const Batch& batch) const override;
  Status check(const Batch& batch) const override;
  std::string_view family() const override { return "t5"; }
  std::vector<LinearModule*> linear_modules() override;
  std::vector<Parameter*> parameters() override { return weights_.parameters(); }
  std::vector<std::string> head_modules() const override { return {}; }
  std::vector<std::string> default_lora_targets() const override { return {"q", "v"}; }
  std::vector<std::string> default_ia3_targets() const override { return {"k", "v", "wo"}; }
  std::vector<std::string> default_ia3_feedforward() const override { return {"wo"}; }
  Json config() const override;
  at::ScalarType compute_type() const override { return compute_type_; }
  c10::Device device() const override { return pretrained_->device; }

  bool is_encoder_decoder() const override { return true; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::optional<std::int64_t> positions() const override { return {}; }
  TokenOutputs outputs(const Batch& batch, const Pass& pass) override;
  EncodedSource encode(const Batch& source) override;
  at::Tensor next_logits(const Batch& tokens, Decoding& decoding) override;

 private:
  struct Block {
    NormModule attention_norm, cross_norm, feed_forward_norm;
    LinearModule qkv, output;
    LinearModule query, key_value, cross_output;  // of a decoder
    LinearModule up, down;
    std::uint64_t attention_site = 0, output_site = 0, cross_site = 0, cross_output_site = 0;
    std::uint64_t inner_site = 0, down_site = 0;
  };
  struct Stack {
    bool decodes = false;
    std::vector<Block> blocks;
    RelativeBias bias;
    NormModule final_norm;
    std::uint64_t embedding_site = 0, final_site = 0;
  };
  /// What a decoder reads of the encoder.
  struct Source {
    Var hidden;
    Layout layout;
    RowSpans keys;  // of each row of the decoder
  };
  using SharedSource = std::shared_ptr<const Source>;
  struct Tokens {
    at::Tensor ids;  // [tokens]
    Layout layout;
  };

  Block make_block(const std::string& path, bool decodes);
  Stack make_stack(const std::string& name, std::int64_t layers, bool decodes);
  bool trains(const Stack& stack, const Block& block) const;

  Tokens source_tokens(const Batch& batch, const Pass& pass) const;
  Tokens decoder_tokens(const Batch& batch, const Pass& pass) const;
  /// The same on the CPU.
  Tokens padded_source(const Batch& batch, std::int64_t first_row) const;
  Tokens padded_target(const Batch& batch, std::int64_t first_row) const;
  /// The decoder's output for `target`, the tokens of the batch.
  Var run(const Batch& batch, const Tokens& target, const Pass& pass);
  /// `source` is null for the encoder.
  Var run_stack(const Stack& stack, const Tokens& tokens, const SharedSource& source, const Pass& pass);
  Var run_block(const Stack& stack, std::size_t layer, const Var& x, const Layout& layout, const Source* source,
                const Pass& pass);
  Var add_cross_attention(const Block& block, std::size_t layer, const Var& x, const Layout& layout,
                          const Source& source, const Pass& pass);
  Var add_feed_forward(const Block& block, const Var& x, const Layout& layout, const Pass& pass);
  /// norm(x) in the compute type.
  Var normed(const Var& x, const NormModule& module, const Pass& pass) const;
  Dropout dropout_at(std::uint64_t site, const Pass& pass) const;
  AttentionOptions attention_options() const;
  Var head_logits(const Var& hidden, const Layout& layout, const Pass& pass);
  double output_scale() const;

  std::shared_ptr<const Pretrained> pretrained_;
  T5Config config_;
  at::ScalarType compute_type_;
  at::ScalarType sum_type_;  // of what the layers add to
  ModelWeights weights_;
  EmbeddingModule embedding_;
  Stack encoder_, decoder_;
  LinearModule head_;
};

}  // namespace finesweep::worker
