#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/models/family.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"
#include "worker/models/weights.h"

namespace finesweep::worker {

/// BERT (https://arxiv.org/abs/1810.04805) and its small relatives (MiniLM, TinyBERT), as transformers'
/// BertForSequenceClassification computes it.
extern const Family bert_family;

struct BertConfig {
  std::int64_t vocabulary = 0, positions = 0, types = 0;
  std::int64_t width = 0, layers = 0, heads = 0, inner = 0;
  Activation activation = Activation::gelu;
  double hidden_dropout = 0, attention_dropout = 0, head_dropout = 0;
  double norm_epsilon = 1e-12;
  double initializer_range = 0.02;
  std::int64_t padding_id = 0;
};

/// The Error names the key.
Result<BertConfig> read_bert_config(const Json& config);

/// A BERT with a linear head: over the tanh pooler of the first token, or straight over the mean of the tokens.
///
/// With the first token as what is pooled, the last layer runs for that token alone: no other output of it is read.
class BertClassifier final : public Model {
 public:
  BertClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                 const ModelOptions& options);

  Var logits(const Batch& batch, const Pass& pass) override;
  Var loss(const Batch& batch, const Pass& pass, double denominator) override;
  std::int64_t counted(const Batch& batch) const override;
  Status check(const Batch& batch) const override;
  std::string_view family() const override { return "bert"; }
  std::vector<LinearModule*> linear_modules() override;
  std::vector<Parameter*> parameters() override;
  std::vector<std::string> head_modules() const override { return {"classifier"}; }
  std::vector<std::string> default_lora_targets() const override { return {"query", "value"}; }
  std::vector<std::string> default_ia3_targets() const override { return {"key", "value", "output.dense"}; }
  std::vector<std::string> default_ia3_feedforward() const override { return {"output.dense"}; }
  Json config() const override;
  at::ScalarType compute_type() const override { return compute_type_; }
  c10::Device device() const override { return pretrained_->device; }

 private:
  struct Layer {
    std::string name;
    LinearModule qkv, output, up, down;
    NormModule attention_norm, output_norm;
    std::uint64_t attention_site = 0, output_site = 0, down_site = 0;
  };

  bool trains(const Layer& layer) const;
  AttentionOptions attention_options() const;
  Var embed(const Batch& batch, const Layout& layout, const Pass& pass);
  Var run_layer(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass);
  /// The layer's output for the first token of each row alone.
  Var run_layer_for_first(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass);
  Var after_attention(const Layer& layer, const Var& context, const Var& residual, const Layout& layout,
                      const Pass& pass);

  std::shared_ptr<const Pretrained> pretrained_;
  BertConfig config_;
  std::int64_t labels_;
  Pooling pooling_;
  at::ScalarType compute_type_;
  ModelWeights weights_;
  EmbeddingModule embedding_;
  std::vector<Layer> layers_;
  LinearModule pooler_, classifier_;
};

}  // namespace finesweep::worker
