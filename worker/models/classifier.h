#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/models/bert_encoder.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"
#include "worker/models/weights.h"

namespace finesweep::worker {

/// Classification, or regression where there is one label, over a BERT encoder: everything but what a family does
/// before the encoder (numbers of positions and types) and behind it (its head).
class EncoderClassifier : public Model {
 public:
  Var logits(const Batch& batch, const Pass& pass) final;
  Var loss(const Batch& batch, const Pass& pass, const Denominator& denominator) final;
  std::optional<BatchInputs> inputs(const Batch& batch, std::int64_t first_row) final;
  std::int64_t counted(const Batch& batch) const final;
  Status check(const Batch& batch) const final;
  std::string_view family() const final { return parts_.family; }
  std::vector<LinearModule*> linear_modules() final;
  std::vector<Parameter*> parameters() final { return weights_.parameters(); }
  std::vector<std::string> head_modules() const final { return {"classifier"}; }
  std::vector<std::string> default_lora_targets() const final { return {"query", "value"}; }
  std::vector<std::string> default_ia3_targets() const final { return {"key", "value", "output.dense"}; }
  std::vector<std::string> default_ia3_feedforward() const final { return {"output.dense"}; }
  Json config() const final;
  at::ScalarType compute_type() const final { return compute_type_; }
  c10::Device device() const final { return pretrained_->device; }

 protected:
  /// A linear module of the head. The files may lack it; then it is initialised.
  struct HeadModule {
    std::string path;
    std::int64_t out = 0;
  };
  struct Parts {
    std::string family;        // "bert": its encoder's modules are called the same
    std::string architecture;  // transformers' class
    std::vector<HeadModule> head;
    /// Modules that no output depends on begin with this; empty: there are none.
    std::string unused;
  };

  EncoderClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                    const ModelOptions& options, Parts parts);

  /// That types and positions are ones that the model has; ids are.
  virtual Status check_inputs(const Batch& batch) const = 0;
  /// Numbers of the positions and of the types: [rows, length] int64, on the CPU.
  virtual at::Tensor positions(const Batch& batch) const = 0;
  virtual at::Tensor types(const Batch& batch) const = 0;
  /// From what was pooled, [rows, width], to the logits. `rows`: a token for each row.
  virtual Var head(const Var& pooled, const Layout& rows, const Pass& pass) = 0;
  /// The linear modules behind the encoder, in the order of the model.
  virtual std::vector<LinearModule*> modules_behind_encoder() = 0;

  const BertConfig& bert_config() const { return config_; }
  Pooling pooling() const { return pooling_; }
  ModelWeights& weights() { return weights_; }

 private:
  std::shared_ptr<const Pretrained> pretrained_;
  BertConfig config_;
  Parts parts_;
  std::int64_t labels_;
  Pooling pooling_;
  at::ScalarType compute_type_;
  ModelWeights weights_;
  std::unique_ptr<BertEncoder> encoder_;
};

/// What the options ask of such a model and the files cannot give: text generation, full fine-tuning of weights in
/// few bits, another number of labels than the linear module `output` of the files has.
Status check_classifier(const Pretrained& pretrained, const ModelOptions& options, const std::string& output);

}  // namespace finesweep::worker
