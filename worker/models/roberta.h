#pragma once

#include <memory>
#include <vector>

#include "worker/models/classifier.h"
#include "worker/models/family.h"

namespace finesweep::worker {

/// RoBERTa (https://arxiv.org/abs/1907.11692), as transformers' RobertaForSequenceClassification computes it.
extern const Family roberta_family;

/// BERT's encoder with two differences: a token's position follows from the ids (it counts those that are no
/// padding, from padding_id + 1 on; padding is at padding_id), and its type is always 0, whatever the tokenizer
/// says: RoBERTa has no second segment.
///
/// The head, classifier.dense and classifier.out_proj with tanh between them, reads the first token or, with
/// pooling: mean, the mean of the tokens in its place.
class RobertaClassifier final : public EncoderClassifier {
 public:
  RobertaClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                    const ModelOptions& options);

 private:
  Status check_inputs(const Batch& batch) const override;
  at::Tensor positions(const Batch& batch) const override;
  at::Tensor types(const Batch& batch) const override;
  Var head(const Var& pooled, const Layout& rows, const Pass& pass) override;
  std::vector<LinearModule*> modules_behind_encoder() override { return {&dense_, &out_proj_}; }

  LinearModule dense_, out_proj_;
};

}  // namespace finesweep::worker
