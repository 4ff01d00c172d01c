#include "worker/models/roberta.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/zeros_like.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "worker/data/batch.h"

namespace finesweep::worker {
namespace {

Result<BertConfig> read_roberta_config(const Json& json) {
  Result<BertConfig> config = read_bert_config(json, /*padding_id=*/1);
  if (!config) return config;
  if (config->padding_id < 0 || config->padding_id >= config->vocabulary) {
    return Error{"\"pad_token_id\" must be the id of a token: positions are counted from it"};
  }
  if (config->positions <= config->padding_id + 1) {
    return Error{"\"max_position_embeddings\" " + std::to_string(config->positions) +
                 " leaves no position: they are counted from \"pad_token_id\" + 1 on"};
  }
  config->padding_position = config->padding_id;
  return config;
}

Result<std::vector<WeightSpec>> roberta_weights(const Json& json) {
  const Result<BertConfig> config = read_roberta_config(json);
  if (!config) return Error{config.error()};
  const WeightSpecs::Linear head{.optional = true, .head = true};
  WeightSpecs specs;
  BertEncoder::add_weights(specs, "roberta", *config);
  specs.linear({"classifier.dense"}, config->width, config->width, head);
  specs.linear({"classifier.out_proj"}, -1, config->width, head);
  return specs.take();
}

/// Published files hold the head of pre-training and a pooler that was never trained.
std::string roberta_canonical_name(std::string_view file_name, const Json&) {
  for (const std::string_view other_head : {"lm_head.", "qa_outputs.", "pooler.", "roberta.pooler."}) {
    if (file_name.starts_with(other_head)) return "";
  }
  return BertEncoder::canonical_name(file_name, "roberta");
}

Result<std::unique_ptr<Model>> make_roberta(std::shared_ptr<const Pretrained> pretrained,
                                            const ModelOptions& options) {
  const Result<BertConfig> config = read_roberta_config(pretrained->config);
  if (!config) return Error{config.error()};
  if (Status fits = check_classifier(*pretrained, options, "classifier.out_proj"); !fits)
    return Error{fits.error()};
  return std::unique_ptr<Model>(std::make_unique<RobertaClassifier>(std::move(pretrained), *config, options));
}

}  // namespace

const Family roberta_family = {"roberta", roberta_weights, roberta_canonical_name, make_roberta};

RobertaClassifier::RobertaClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                                     const ModelOptions& options)
    : EncoderClassifier(std::move(pretrained), config, options,
                        {"roberta",
                         "RobertaForSequenceClassification",
                         {{"classifier.dense", config.width}, {"classifier.out_proj", options.labels}},
                         ""}) {
  dense_ = weights().linear({"classifier.dense"});
  out_proj_ = weights().linear({"classifier.out_proj"});
}

Status RobertaClassifier::check_inputs(const Batch& batch) const {
  const std::int64_t limit = bert_config().positions, least = bert_config().padding_id + 1;
  if (batch.position_ids.defined()) return check_within(batch.position_ids, limit, "position");
  const std::int64_t longest = batch.input_ids.ne(bert_config().padding_id).sum(1).max().item<std::int64_t>();
  if (longest <= limit - least) return {};
  return Error{"a row of " + std::to_string(longest) + " tokens is longer than the model's " +
               std::to_string(limit - least) + " positions; lower sequence_length"};
}

at::Tensor RobertaClassifier::positions(const Batch& batch) const {
  if (batch.position_ids.defined()) return batch.position_ids;
  const at::Tensor real = batch.input_ids.ne(bert_config().padding_id).to(at::kLong);
  return at::cumsum(real, 1) * real + bert_config().padding_id;
}

at::Tensor RobertaClassifier::types(const Batch& batch) const {
  return at::zeros_like(batch.input_ids);
}

Var RobertaClassifier::head(const Var& pooled, const Layout& rows, const Pass& pass) {
  Tape* tape = pass.tape;
  const auto site = [&](const char* name) {
    return make_dropout(bert_config().head_dropout, pass.dropout, dropout_site(name));
  };
  const Var input = dropout(tape, to_float(tape, pooled), rows, site("classifier.dense"));
  const Var hidden = linear(tape, input, dense_, rows, pass.dropout, Activation::tanh);
  return head_linear(tape, hidden, out_proj_, rows, site("classifier.out_proj"), pass.dropout);
}

}  // namespace finesweep::worker
