#include "worker/models/bert.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "worker/data/batch.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

std::string layer_name(std::int64_t layer) {
  return "bert.encoder.layer." + std::to_string(layer);
}

std::vector<std::string> attention_parts(const std::string& layer) {
  return {layer + ".attention.self.query", layer + ".attention.self.key", layer + ".attention.self.value"};
}

Result<std::vector<WeightSpec>> bert_weights(const Json& json) {
  const Result<BertConfig> read = read_bert_config(json);
  if (!read) return Error{read.error()};
  const BertConfig& config = *read;
  const std::int64_t width = config.width;
  WeightSpecs specs;
  specs.table("bert.embeddings.word_embeddings", config.vocabulary, width);
  specs.table("bert.embeddings.position_embeddings", config.positions, width);
  specs.table("bert.embeddings.token_type_embeddings", config.types, width);
  specs.norm("bert.embeddings.LayerNorm", width);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string name = layer_name(i);
    specs.linear(attention_parts(name), width, width);
    specs.linear({name + ".attention.output.dense"}, width, width);
    specs.norm(name + ".attention.output.LayerNorm", width);
    specs.linear({name + ".intermediate.dense"}, config.inner, width);
    specs.linear({name + ".output.dense"}, width, config.inner);
    specs.norm(name + ".output.LayerNorm", width);
  }
  specs.linear({"bert.pooler.dense"}, width, width, {.quantizable = false, .optional = true});
  specs.linear({"classifier"}, -1, width, {.optional = true, .head = true});
  return specs.take();
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.ends_with(end);
}

/// Published files name things in three ways: with or without "bert.", norms with gamma and beta, and with the
/// heads of pre-training and of distillation beside the model.
std::string bert_canonical_name(std::string_view file_name, const Json&) {
  std::string name(file_name);
  for (const std::string_view other_head : {"cls.", "fit_dense", "qa_outputs."}) {
    if (name.starts_with(other_head)) return "";
  }
  if (ends_with(name, "embeddings.position_ids")) return "";
  for (const std::string_view part : {"embeddings.", "encoder.", "pooler."}) {
    if (name.starts_with(part)) name = "bert." + name;
  }
  if (ends_with(name, "LayerNorm.gamma")) name.replace(name.size() - 5, 5, "weight");
  if (ends_with(name, "LayerNorm.beta")) name.replace(name.size() - 4, 4, "bias");
  return name;
}

Result<std::unique_ptr<Model>> make_bert(std::shared_ptr<const Pretrained> pretrained,
                                                    const ModelOptions& options) {
  const Result<BertConfig> config = read_bert_config(pretrained->config);
  if (!config) return Error{config.error()};
  const std::string folder = pretrained->folder.string();
  if (options.head != ModelHead::classification) return Error{folder + ": a BERT classifies; it does not generate text"};
  if (options.train_all && pretrained->storage != at::kFloat) {
    return Error{folder + ": full fine-tuning needs the weights in fp32"};
  }
  const std::vector<Parameter>& weights = pretrained->weights;
  if (options.pooling == Pooling::cls && !weights[weights.size() - 4].value.defined()) {
    return Error{folder +
                 ": has no pooler (bert.pooler.dense.weight), which pooling: cls needs; use pooling: mean"};
  }
  const Parameter& head = weights[weights.size() - 2];
  if (head.value.defined() && head.value.size(0) != options.labels) {
    return Error{folder + ": tensor \"classifier.weight\" is a head of " + std::to_string(head.value.size(0)) +
                 " labels and the data has " + std::to_string(options.labels) +
                 "; remove classifier.weight and classifier.bias from the files to start from a new head"};
  }
  return std::unique_ptr<Model>(std::make_unique<BertClassifier>(std::move(pretrained), *config, options));
}

}  // namespace

const Family bert_family = {"bert", bert_weights, bert_canonical_name, make_bert};

Result<BertConfig> read_bert_config(const Json& json) {
  BertConfig config;
  const std::pair<const char*, std::int64_t*> integers[] = {
      {"vocab_size", &config.vocabulary},    {"max_position_embeddings", &config.positions},
      {"type_vocab_size", &config.types},    {"hidden_size", &config.width},
      {"num_hidden_layers", &config.layers}, {"num_attention_heads", &config.heads},
      {"intermediate_size", &config.inner},
  };
  for (const auto& [key, value] : integers) {
    const Result<std::int64_t> read = config_integer(json, key);
    if (!read) return Error{read.error()};
    *value = *read;
  }
  if (config.width % config.heads != 0) {
    return Error{"\"hidden_size\" " + std::to_string(config.width) +
                 " is not a multiple of \"num_attention_heads\" " + std::to_string(config.heads)};
  }
  const std::tuple<const char*, double, double*> numbers[] = {
      {"hidden_dropout_prob", 0.1, &config.hidden_dropout},
      {"attention_probs_dropout_prob", 0.1, &config.attention_dropout},
      {"layer_norm_eps", 1e-12, &config.norm_epsilon},
      {"initializer_range", 0.02, &config.initializer_range},
  };
  for (const auto& [key, otherwise, value] : numbers) {
    const Result<double> read = config_number(json, key, otherwise);
    if (!read) return Error{read.error()};
    *value = *read;
  }
  const Result<double> head_dropout = config_number(json, "classifier_dropout", config.hidden_dropout);
  if (!head_dropout) return Error{head_dropout.error()};
  config.head_dropout = *head_dropout;
  for (const double rate : {config.hidden_dropout, config.attention_dropout, config.head_dropout}) {
    if (!(rate >= 0 && rate < 1)) return Error{"a dropout probability must be at least 0 and below 1"};
  }
  const Json padding = json.value("pad_token_id", Json(0));
  config.padding_id = padding.is_number_integer() ? padding.get<std::int64_t>() : -1;

  const Result<Activation> activation = config_activation(json, "hidden_act", "gelu");
  if (!activation) return Error{activation.error()};
  config.activation = *activation;
  const Json kind = json.value("position_embedding_type", Json("absolute"));
  if (kind != "absolute") {
    return Error{"\"position_embedding_type\" " + kind.dump() + " is not supported; \"absolute\" is"};
  }
  for (const char* decoder : {"is_decoder", "add_cross_attention"}) {
    if (json.value(decoder, Json(false)) == true) return Error{std::string("\"") + decoder + "\" is not supported"};
  }
  return config;
}

BertClassifier::BertClassifier(std::shared_ptr<const Pretrained> pretrained, const BertConfig& config,
                               const ModelOptions& options)
    : pretrained_(std::move(pretrained)),
      config_(config),
      labels_(options.labels),
      pooling_(options.pooling),
      compute_type_(scalar_type_of(options.precision)),
      weights_(*pretrained_, compute_type_) {
  if (options.model_dropout) {
    config_.hidden_dropout = config_.attention_dropout = config_.head_dropout = *options.model_dropout;
  }
  weights_.make_head("classifier.weight", {labels_, config_.width}, config_.initializer_range, options.seed);
  weights_.make_head("classifier.bias", {labels_}, 0, options.seed);
  weights_.adopt(options, [this](std::string_view name) {
    return pooling_ != Pooling::cls && name.starts_with("bert.pooler.");
  });

  const auto norm = [&](const std::string& path) { return weights_.norm(path, config_.norm_epsilon); };
  embedding_.words = weights_.table("bert.embeddings.word_embeddings");
  embedding_.positions = weights_.table("bert.embeddings.position_embeddings");
  embedding_.types = weights_.table("bert.embeddings.token_type_embeddings");
  embedding_.padding_id = config_.padding_id;
  embedding_.norm = norm("bert.embeddings.LayerNorm");
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    Layer layer;
    layer.name = layer_name(i);
    layer.qkv = weights_.linear(attention_parts(layer.name));
    layer.output = weights_.linear({layer.name + ".attention.output.dense"});
    layer.attention_norm = norm(layer.name + ".attention.output.LayerNorm");
    layer.up = weights_.linear({layer.name + ".intermediate.dense"});
    layer.down = weights_.linear({layer.name + ".output.dense"});
    layer.output_norm = norm(layer.name + ".output.LayerNorm");
    layer.attention_site = dropout_site(layer.name + ".attention.self");
    layer.output_site = dropout_site(layer.name + ".attention.output");
    layer.down_site = dropout_site(layer.name + ".output");
    layers_.push_back(std::move(layer));
  }
  if (pooling_ == Pooling::cls) pooler_ = weights_.linear({"bert.pooler.dense"});
  classifier_ = weights_.linear({"classifier"});
}

std::vector<LinearModule*> BertClassifier::linear_modules() {
  std::vector<LinearModule*> modules;
  for (Layer& layer : layers_) {
    for (LinearModule* module : {&layer.qkv, &layer.output, &layer.up, &layer.down}) modules.push_back(module);
  }
  if (pooling_ == Pooling::cls) modules.push_back(&pooler_);
  modules.push_back(&classifier_);
  return modules;
}

std::vector<Parameter*> BertClassifier::parameters() {
  return weights_.parameters();
}

std::int64_t BertClassifier::counted(const Batch& batch) const {
  return batch.input_ids.size(0);
}

Json BertClassifier::config() const {
  Json config = pretrained_->config;
  for (const char* stale : {"_name_or_path", "torch_dtype", "num_labels", "problem_type"}) config.erase(stale);
  config["architectures"] = {"BertForSequenceClassification"};
  config["dtype"] = "float32";
  Json id2label = Json::object(), label2id = Json::object();
  for (std::int64_t i = 0; i < labels_; ++i) {
    const std::string name =
        i < static_cast<std::int64_t>(label_names.size()) ? label_names[i] : "LABEL_" + std::to_string(i);
    id2label[std::to_string(i)] = name;
    label2id[name] = i;
  }
  config["id2label"] = id2label;
  config["label2id"] = label2id;
  config["problem_type"] = labels_ == 1 ? "regression" : "single_label_classification";
  if (pooling_ == Pooling::mean) {
    config["finesweep_pooling"] = "mean";  // transformers has no such head: its class would pool otherwise
  } else {
    config.erase("finesweep_pooling");
  }
  return config;
}

Status BertClassifier::check(const Batch& batch) const {
  const auto within = [](const at::Tensor& values, std::int64_t limit, const char* what) -> Status {
    if (!values.defined() || values.numel() == 0) return {};
    const std::int64_t least = values.min().item<std::int64_t>(), most = values.max().item<std::int64_t>();
    if (least >= 0 && most < limit) return {};
    return Error{std::string(what) + " " + std::to_string(least < 0 ? least : most) +
                 " is outside of the model's 0 … " + std::to_string(limit - 1)};
  };
  if (batch.input_ids.size(1) > config_.positions) {
    return Error{"a row of " + std::to_string(batch.input_ids.size(1)) + " tokens is longer than the model's " +
                 std::to_string(config_.positions) + " positions; lower sequence_length"};
  }
  if (Status status = within(batch.input_ids, config_.vocabulary, "token id"); !status) return status;
  if (Status status = within(batch.token_type_ids, config_.types, "token type"); !status) return status;
  if (labels_ > 1 && batch.labels.defined()) {
    if (at::isFloatingType(batch.labels.scalar_type())) return Error{"labels of a classification must be integers"};
    return within(batch.labels.masked_select(batch.labels.ne(-100)), labels_, "label");
  }
  return {};
}

Var BertClassifier::embed(const Batch& batch, const Layout& layout, const Pass& pass) {
  const c10::Device device = pretrained_->device;
  const at::Tensor& index = layout->padded_index;
  const at::Tensor ids = at::index_select(batch.input_ids.view({-1}), 0, index);
  const at::Tensor types = batch.token_type_ids.defined()
                               ? at::index_select(batch.token_type_ids.view({-1}), 0, index)
                               : at::zeros_like(ids);
  const at::Tensor positions = at::remainder(index, batch.input_ids.size(1));
  const Dropout dropout = make_dropout(config_.hidden_dropout, pass.dropout, dropout_site("bert.embeddings"));
  return worker::embed(pass.tape, embedding_, ids.to(device), positions.to(device), types.to(device), layout,
                       dropout, compute_type_);
}

Var BertClassifier::after_attention(const Layer& layer, const Var& context, const Var& residual,
                                    const Layout& layout, const Pass& pass) {
  Tape* tape = pass.tape;
  const Dropout first = make_dropout(config_.hidden_dropout, pass.dropout, layer.output_site);
  const Dropout second = make_dropout(config_.hidden_dropout, pass.dropout, layer.down_site);
  const Var mixed = linear(tape, context, layer.output, layout, pass.dropout);
  const Var attended = add_norm(tape, mixed, residual, layer.attention_norm, layout, first);
  const Var inner = linear(tape, attended, layer.up, layout, pass.dropout, config_.activation);
  const Var outer = linear(tape, inner, layer.down, layout, pass.dropout);
  return add_norm(tape, outer, attended, layer.output_norm, layout, second);
}

Var BertClassifier::run_layer(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass) {
  const Dropout dropout = make_dropout(config_.attention_dropout, pass.dropout, layer.attention_site);
  const std::int64_t width = config_.width;
  const Var qkv = linear(pass.tape, x, layer.qkv, layout, pass.dropout);
  const Var context =
      attention(pass.tape, {qkv, 0, qkv, width, 2 * width}, layout, layout->spans(), attention_options(), dropout);
  return after_attention(layer, context, x, layout, pass);
}

Var BertClassifier::run_layer_for_first(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass) {
  const Dropout dropout = make_dropout(config_.attention_dropout, pass.dropout, layer.attention_site);
  const Layout first = layout->first_tokens();
  const std::int64_t width = config_.width;
  const Var key_value = linear(pass.tape, x, layer.qkv, layout, pass.dropout, Activation::none, width, 2 * width);
  const Var x_first = first_tokens(pass.tape, x, layout);
  const Var query = linear(pass.tape, x_first, layer.qkv, first, pass.dropout, Activation::none, 0, width);
  const Var context =
      attention(pass.tape, {query, 0, key_value, 0, width}, first, layout->spans(), attention_options(), dropout);
  return after_attention(layer, context, x_first, first, pass);
}

bool BertClassifier::trains(const Layer& layer) const {
  return layer.qkv.trains() || layer.output.trains() || layer.up.trains() || layer.down.trains();
}

AttentionOptions BertClassifier::attention_options() const {
  AttentionOptions options;
  options.heads = config_.heads;
  options.size = config_.width / config_.heads;
  return options;
}

Var BertClassifier::logits(const Batch& batch, const Pass& pass) {
  const Layout layout = TokenLayout::of_mask(batch.attention_mask, pass.first_row);
  const Layout rows = layout->first_tokens();  // one "token" a row
  const bool all_tokens = pooling_ == Pooling::mean || pass.hidden_states != nullptr;
  Var x = embed(batch, layout, pass);
  if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const bool for_first = i + 1 == layers_.size() && !all_tokens;
    const auto run = [this, i, for_first, layout, pass](Tape* tape, const Var& input) {
      Pass mine = pass;
      mine.tape = tape;
      return for_first ? run_layer_for_first(layers_[i], input, layout, mine)
                       : run_layer(layers_[i], input, layout, mine);
    };
    const bool recompute = pass.recompute_layers && pass.tape != nullptr && (x.needs_grad() || trains(layers_[i]));
    x = recompute ? recomputed(*pass.tape, x, run) : run(pass.tape, x);
    if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
  }
  Var pooled;
  if (pooling_ == Pooling::mean) {
    pooled = mean_tokens(pass.tape, x, layout);
  } else {
    if (all_tokens) x = first_tokens(pass.tape, x, layout);
    pooled = linear(pass.tape, x, pooler_, rows, pass.dropout, Activation::tanh);
  }
  // The mean goes straight into the classifier, as users of sentence encoders have it; [CLS] as BERT's class does.
  const double rate = pooling_ == Pooling::cls ? config_.head_dropout : 0.0;
  const Dropout head = make_dropout(rate, pass.dropout, dropout_site("classifier"));
  const Var input = dropout(pass.tape, to_float(pass.tape, pooled), rows, head);
  return linear(pass.tape, input, classifier_, rows, pass.dropout);
}

Var BertClassifier::loss(const Batch& batch, const Pass& pass, double denominator) {
  const Var values = logits(batch, pass);
  const at::Tensor labels = batch.labels.to(pretrained_->device);
  return labels_ == 1 ? squared_error(pass.tape, values, labels, denominator)
                      : cross_entropy(pass.tape, values, labels, denominator);
}

}  // namespace finesweep::worker
