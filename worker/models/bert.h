#pragma once

#include <memory>
#include <vector>

#include "worker/models/classifier.h"
#include "worker/models/family.h"

namespace finesweep::worker {

/// BERT (https://arxiv.org/abs/1810.04805) and its small relatives (MiniLM, TinyBERT), as transformers'
/// BertForSequenceClassification computes it.
extern const Family bert_family;

/// A BERT with a linear head: over the tanh pooler of the first token, or straight over the mean of the tokens, as
/// users of sentence encoders have it.
class BertClassifier final : public EncoderClassifier {
 public:
  BertClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                 const ModelOptions& options);

 private:
  Status check_inputs(const Batch& batch) const override;
  at::Tensor positions(const Batch& batch) const override;
  at::Tensor types(const Batch& batch) const override;
  Var head(const Var& pooled, const Layout& rows, const Pass& pass) override;
  std::vector<LinearModule*> modules_behind_encoder() override;

  LinearModule pooler_, classifier_;
};

}  // namespace finesweep::worker
