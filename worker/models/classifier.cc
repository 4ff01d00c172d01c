#include "worker/models/classifier.h"

#include <ATen/ops/index_select.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "worker/data/batch.h"

namespace finesweep::worker {

EncoderClassifier::EncoderClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                                     const ModelOptions& options, Parts parts)
    : pretrained_(std::move(pretrained)),
      config_(config),
      parts_(std::move(parts)),
      labels_(options.labels),
      pooling_(options.pooling),
      compute_type_(scalar_type_of(options.precision)),
      weights_(*pretrained_, compute_type_) {
  if (options.model_dropout) {
    config_.hidden_dropout = config_.attention_dropout = config_.head_dropout = *options.model_dropout;
  }
  for (const HeadModule& module : parts_.head) {
    weights_.make_head(module.path + ".weight", {module.out, config_.width}, config_.initializer_range,
                       options.seed);
    weights_.make_head(module.path + ".bias", {module.out}, 0, options.seed);
  }
  weights_.adopt(
      options, [this](std::string_view name) { return !parts_.unused.empty() && name.starts_with(parts_.unused); });
  encoder_ = std::make_unique<BertEncoder>(weights_, parts_.family, config_, compute_type_);
}

std::vector<LinearModule*> EncoderClassifier::linear_modules() {
  std::vector<LinearModule*> modules = encoder_->linear_modules();
  for (LinearModule* module : modules_behind_encoder()) modules.push_back(module);
  return modules;
}

std::int64_t EncoderClassifier::counted(const Batch& batch) const {
  return batch.input_ids.size(0);
}

Json EncoderClassifier::config() const {
  Json config = pretrained_->config;
  for (const char* stale : {"_name_or_path", "torch_dtype"}) config.erase(stale);
  config["architectures"] = {parts_.architecture};
  config["dtype"] = "float32";
  describe_labels(*this, labels_, pooling_, config);
  return config;
}

Status EncoderClassifier::check(const Batch& batch) const {
  if (Status status = check_within(batch.input_ids, config_.vocabulary, "token id"); !status) return status;
  if (Status status = check_inputs(batch); !status) return status;
  if (labels_ > 1 && batch.labels.defined()) {
    if (at::isFloatingType(batch.labels.scalar_type())) return Error{"labels of a classification must be integers"};
    return check_within(batch.labels.masked_select(batch.labels.ne(-100)), labels_, "label");
  }
  return {};
}

std::optional<BatchInputs> EncoderClassifier::inputs(const Batch& batch, std::int64_t first_row) {
  BatchInputs inputs;
  const Layout layout = TokenLayout::of_mask(batch.attention_mask, first_row);
  const auto of_tokens = [&](const at::Tensor& padded) {
    return at::index_select(padded.reshape({-1}), 0, layout->padded_index);
  };
  inputs.tokens = {layout, of_tokens(batch.input_ids), of_tokens(positions(batch)), of_tokens(types(batch))};
  inputs.labels = batch.labels;
  return inputs;
}

Var EncoderClassifier::logits(const Batch& batch, const Pass& pass) {
  BatchInputs::Tokens tokens;
  if (pass.inputs != nullptr) {
    tokens = pass.inputs->tokens;
  } else {
    tokens = inputs(batch, pass.first_row)->tokens;
    for (at::Tensor* numbers : {&tokens.ids, &tokens.positions, &tokens.types}) *numbers = numbers->to(device());
  }
  const Layout& layout = tokens.layout;
  const BertEncoder::Inputs inputs{tokens.ids, tokens.positions, tokens.types};
  const Var pooled = pooling_ == Pooling::mean ? mean_tokens(pass.tape, encoder_->run(inputs, layout, pass), layout)
                                               : encoder_->run_for_first(inputs, layout, pass);
  return head(pooled, layout->first_tokens(), pass);
}

Var EncoderClassifier::loss(const Batch& batch, const Pass& pass, const Denominator& denominator) {
  const Var values = logits(batch, pass);
  const at::Tensor labels = pass.inputs != nullptr ? pass.inputs->labels : batch.labels.to(device());
  return label_loss(pass.tape, values, labels, denominator,
                    pass.inputs != nullptr ? pass.inputs->tokens.layout : nullptr);
}

Status check_classifier(const Pretrained& pretrained, const ModelOptions& options, const std::string& output) {
  const std::string folder = pretrained.folder.string();
  if (options.head != ModelHead::classification) {
    return Error{folder + ": a " + pretrained.family + " model classifies; it does not generate text"};
  }
  if (options.train_all && pretrained.storage != at::kFloat) {
    return Error{folder + ": full fine-tuning needs the weights in fp32"};
  }
  const Parameter* weight = pretrained.find(output + ".weight");
  if (weight != nullptr && weight->value.size(0) != options.labels) {
    return Error{folder + ": tensor \"" + output + ".weight\" is a head of " +
                 std::to_string(weight->value.size(0)) + " labels and the data has " +
                 std::to_string(options.labels) + "; remove " + output + ".weight and " + output +
                 ".bias from the files to start from a new head"};
  }
  return {};
}

}  // namespace finesweep::worker
