#include "worker/models/bert.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros_like.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "worker/data/batch.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kPaddingId = 0;

Result<std::vector<WeightSpec>> bert_weights(const Json& json) {
  const Result<BertConfig> config = read_bert_config(json, kPaddingId);
  if (!config) return Error{config.error()};
  WeightSpecs specs;
  BertEncoder::add_weights(specs, "bert", *config);
  specs.linear({"bert.pooler.dense"}, config->width, config->width, {.quantizable = false, .optional = true});
  specs.linear({"classifier"}, -1, config->width, {.optional = true, .head = true});
  return specs.take();
}

/// Published files also hold the heads of pre-training and of distillation.
std::string bert_canonical_name(std::string_view file_name, const Json&) {
  for (const std::string_view other_head : {"cls.", "fit_dense", "qa_outputs."}) {
    if (file_name.starts_with(other_head)) return "";
  }
  return BertEncoder::canonical_name(file_name, "bert");
}

Result<std::unique_ptr<Model>> make_bert(std::shared_ptr<const Pretrained> pretrained,
                                         const ModelOptions& options) {
  const Result<BertConfig> config = read_bert_config(pretrained->config, kPaddingId);
  if (!config) return Error{config.error()};
  if (Status fits = check_classifier(*pretrained, options, "classifier"); !fits) return Error{fits.error()};
  if (options.pooling == Pooling::cls && pretrained->find("bert.pooler.dense.weight") == nullptr) {
    return Error{pretrained->folder.string() +
                 ": has no pooler (bert.pooler.dense.weight), which pooling: cls needs; use pooling: mean"};
  }
  return std::unique_ptr<Model>(std::make_unique<BertClassifier>(std::move(pretrained), *config, options));
}

}  // namespace

const Family bert_family = {"bert", bert_weights, bert_canonical_name, make_bert};

BertClassifier::BertClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                               const ModelOptions& options)
    : EncoderClassifier(std::move(pretrained), config, options,
                        {"bert",
                         "BertForSequenceClassification",
                         {{"classifier", options.labels}},
                         options.pooling == Pooling::cls ? "" : "bert.pooler."}) {
  if (pooling() == Pooling::cls) pooler_ = weights().linear({"bert.pooler.dense"});
  classifier_ = weights().linear({"classifier"});
}

std::vector<LinearModule*> BertClassifier::modules_behind_encoder() {
  if (pooling() == Pooling::mean) return {&classifier_};
  return {&pooler_, &classifier_};
}

Status BertClassifier::check_inputs(const Batch& batch) const {
  const std::int64_t most = bert_config().positions, length = batch.input_ids.size(1);
  if (!batch.position_ids.defined() && length > most) {
    return Error{"a row of " + std::to_string(length) + " tokens is longer than the model's " +
                 std::to_string(most) + " positions; lower sequence_length"};
  }
  if (Status status = check_within(batch.position_ids, most, "position"); !status) return status;
  return check_within(batch.token_type_ids, bert_config().types, "token type");
}

at::Tensor BertClassifier::positions(const Batch& batch) const {
  if (batch.position_ids.defined()) return batch.position_ids;
  return at::arange(batch.input_ids.size(1), at::kLong).expand(batch.input_ids.sizes());
}

at::Tensor BertClassifier::types(const Batch& batch) const {
  return batch.token_type_ids.defined() ? batch.token_type_ids : at::zeros_like(batch.input_ids);
}

Var BertClassifier::head(const Var& pooled, const Layout& rows, const Pass& pass) {
  Var x = pooled;
  double rate = 0;
  if (pooling() == Pooling::cls) {
    x = linear(pass.tape, x, pooler_, rows, pass.dropout, Activation::tanh);
    rate = bert_config().head_dropout;
  }
  const Dropout before = make_dropout(rate, pass.dropout, dropout_site("classifier"));
  return head_linear(pass.tape, x, classifier_, rows, before, pass.dropout);
}

}  // namespace finesweep::worker
