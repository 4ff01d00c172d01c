#include "worker/models/bert_encoder.h"

#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "worker/models/family.h"

namespace finesweep::worker {
namespace {

std::string layer_name(const std::string& encoder, std::int64_t layer) {
  return encoder + ".encoder.layer." + std::to_string(layer);
}

std::vector<std::string> attention_parts(const std::string& layer) {
  return {layer + ".attention.self.query", layer + ".attention.self.key", layer + ".attention.self.value"};
}

}  // namespace

Result<BertConfig> read_bert_config(const Json& json, std::int64_t padding_id) {
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
  const Json padding = json.value("pad_token_id", Json(padding_id));
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

void BertEncoder::add_weights(WeightSpecs& specs, const std::string& name, const BertConfig& config) {
  const std::int64_t width = config.width;
  specs.table(name + ".embeddings.word_embeddings", config.vocabulary, width);
  specs.table(name + ".embeddings.position_embeddings", config.positions, width);
  specs.table(name + ".embeddings.token_type_embeddings", config.types, width);
  specs.norm(name + ".embeddings.LayerNorm", width);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = layer_name(name, i);
    specs.linear(attention_parts(layer), width, width);
    specs.linear({layer + ".attention.output.dense"}, width, width);
    specs.norm(layer + ".attention.output.LayerNorm", width);
    specs.linear({layer + ".intermediate.dense"}, config.inner, width);
    specs.linear({layer + ".output.dense"}, width, config.inner);
    specs.norm(layer + ".output.LayerNorm", width);
  }
}

std::string BertEncoder::canonical_name(std::string_view file_name, std::string_view encoder) {
  std::string name(file_name);
  for (const std::string_view buffer : {"embeddings.position_ids", "embeddings.token_type_ids"}) {
    if (file_name.ends_with(buffer)) return "";
  }
  for (const std::string_view part : {"embeddings.", "encoder.", "pooler."}) {
    if (file_name.starts_with(part)) name = std::string(encoder) + "." + name;
  }
  if (name.ends_with("LayerNorm.gamma")) name.replace(name.size() - 5, 5, "weight");
  if (name.ends_with("LayerNorm.beta")) name.replace(name.size() - 4, 4, "bias");
  return name;
}

BertEncoder::BertEncoder(ModelWeights& weights, const std::string& name, const BertConfig& config,
                         at::ScalarType compute_type)
    : config_(config), compute_type_(compute_type), embedding_site_(dropout_site(name + ".embeddings")) {
  const auto norm = [&](const std::string& path) { return weights.norm(path, config.norm_epsilon); };
  embedding_.words = weights.table(name + ".embeddings.word_embeddings");
  embedding_.positions = weights.table(name + ".embeddings.position_embeddings");
  embedding_.types = weights.table(name + ".embeddings.token_type_embeddings");
  embedding_.padding_id = config.padding_id;
  embedding_.padding_position = config.padding_position;
  embedding_.norm = norm(name + ".embeddings.LayerNorm");
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string path = layer_name(name, i);
    Layer layer;
    layer.qkv = weights.linear(attention_parts(path));
    layer.output = weights.linear({path + ".attention.output.dense"});
    layer.attention_norm = norm(path + ".attention.output.LayerNorm");
    layer.up = weights.linear({path + ".intermediate.dense"});
    layer.down = weights.linear({path + ".output.dense"});
    layer.output_norm = norm(path + ".output.LayerNorm");
    layer.attention_site = dropout_site(path + ".attention.self");
    layer.output_site = dropout_site(path + ".attention.output");
    layer.down_site = dropout_site(path + ".output");
    layers_.push_back(std::move(layer));
  }
  for (std::size_t i = 1; i < layers_.size(); ++i) layers_[i - 1].next = &layers_[i].qkv;
}

std::vector<LinearModule*> BertEncoder::linear_modules() {
  std::vector<LinearModule*> modules;
  for (Layer& layer : layers_) {
    for (LinearModule* module : {&layer.qkv, &layer.output, &layer.up, &layer.down}) modules.push_back(module);
  }
  return modules;
}

bool BertEncoder::Layer::trains() const {
  return qkv.trains() || output.trains() || up.trains() || down.trains();
}

AttentionOptions BertEncoder::attention_options() const {
  AttentionOptions options;
  options.heads = config_.heads;
  options.size = config_.width / config_.heads;
  return options;
}

Var BertEncoder::after_attention(const Layer& layer, const Var& context, const Var& residual, const Layout& layout,
                                 const Pass& pass) {
  Tape* tape = pass.tape;
  const Dropout first = make_dropout(config_.hidden_dropout, pass.dropout, layer.output_site);
  const Dropout second = make_dropout(config_.hidden_dropout, pass.dropout, layer.down_site);
  const Var mixed = linear(tape, context, layer.output, layout, pass.dropout);
  const Var attended = add_norm(tape, mixed, residual, layer.attention_norm, layout, first, &layer.up);
  const Var inner = linear(tape, attended, layer.up, layout, pass.dropout, config_.activation, 0, -1, &layer.down);
  const Var outer = linear(tape, inner, layer.down, layout, pass.dropout);
  return add_norm(tape, outer, attended, layer.output_norm, layout, second, layer.next);
}

Var BertEncoder::run_layer(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass) {
  const Dropout dropout = make_dropout(config_.attention_dropout, pass.dropout, layer.attention_site);
  const std::int64_t width = config_.width;
  const Var qkv = linear(pass.tape, x, layer.qkv, layout, pass.dropout);
  const Var context =
      attention(pass.tape, {qkv, 0, qkv, width, 2 * width}, layout, layout->spans(), attention_options(), dropout);
  return after_attention(layer, context, x, layout, pass);
}

Var BertEncoder::run_layer_for_first(const Layer& layer, const Var& x, const Layout& layout, const Pass& pass) {
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

Var BertEncoder::run_all(const Inputs& inputs, const Layout& layout, const Pass& pass,
                         std::size_t layers_for_first) {
  const Dropout dropout = make_dropout(config_.hidden_dropout, pass.dropout, embedding_site_);
  Var x = embed(pass.tape, embedding_, inputs.ids, inputs.positions, inputs.types, layout, dropout, compute_type_);
  if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const bool for_first = i + layers_for_first >= layers_.size();
    const auto run = [this, &layer, for_first, layout, pass](Tape* tape, const Var& input) {
      Pass mine = pass;
      mine.tape = tape;
      return for_first ? run_layer_for_first(layer, input, layout, mine) : run_layer(layer, input, layout, mine);
    };
    const bool recompute = pass.recompute_layers && pass.tape != nullptr && (x.needs_grad() || layer.trains());
    x = recompute ? recomputed(*pass.tape, x, run) : run(pass.tape, x);
    if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
  }
  return x;
}

Var BertEncoder::run(const Inputs& inputs, const Layout& layout, const Pass& pass) {
  return run_all(inputs, layout, pass, 0);
}

Var BertEncoder::run_for_first(const Inputs& inputs, const Layout& layout, const Pass& pass) {
  if (pass.hidden_states == nullptr) return run_all(inputs, layout, pass, 1);
  return first_tokens(pass.tape, run(inputs, layout, pass), layout);
}

}  // namespace finesweep::worker
