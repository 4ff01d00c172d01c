#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "worker/models/t5.h"

namespace finesweep::worker {
namespace {

/// Modules inside the blocks have no bias.
constexpr WeightSpecs::Linear kInside{.bias = false};

void add_attention(WeightSpecs& specs, const std::string& path, const T5Config& config, bool of_source) {
  const std::int64_t inner = config.heads * config.head_size;
  if (of_source) {
    specs.linear({path + ".q"}, inner, config.width, kInside);
    specs.linear({path + ".k", path + ".v"}, inner, config.width, kInside);
  } else {
    specs.linear({path + ".q", path + ".k", path + ".v"}, inner, config.width, kInside);
  }
  specs.linear({path + ".o"}, config.width, inner, kInside);
}

void add_feed_forward(WeightSpecs& specs, const std::string& path, const T5Config& config) {
  const std::vector<std::string> up =
      config.gated ? std::vector<std::string>{path + ".wi_0", path + ".wi_1"} : std::vector{path + ".wi"};
  specs.linear(up, config.inner, config.width, kInside);
  specs.linear({path + ".wo"}, config.width, config.inner, {.bias = false, .overflows_fp16 = true});
}

void add_stack(WeightSpecs& specs, const std::string& name, std::int64_t layers, const T5Config& config,
               bool decodes) {
  const auto norm = [&](const std::string& path) { specs.norm(path, config.width, NormKind::root_mean_square); };
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string block = name + ".block." + std::to_string(i);
    add_attention(specs, block + ".layer.0.SelfAttention", config, /*of_source=*/false);
    if (i == 0) {
      // Not a table that few rows of are touched; and decay spares it, as it spares biases.
      specs.add({{block + ".layer.0.SelfAttention.relative_attention_bias.weight"},
                 {config.buckets, config.heads},
                 WeightRole::bias});
    }
    norm(block + ".layer.0.layer_norm");
    if (decodes) {
      add_attention(specs, block + ".layer.1.EncDecAttention", config, /*of_source=*/true);
      norm(block + ".layer.1.layer_norm");
    }
    const std::string last = block + (decodes ? ".layer.2" : ".layer.1");
    add_feed_forward(specs, last + ".DenseReluDense", config);
    norm(last + ".layer_norm");
  }
  norm(name + ".final_layer_norm");
}

Result<std::vector<WeightSpec>> t5_weights(const Json& json) {
  const Result<T5Config> config = read_t5_config(json);
  if (!config) return Error{config.error()};
  WeightSpecs specs;
  specs.table("shared", config->vocabulary, config->width);
  add_stack(specs, "encoder", config->encoder_layers, *config, /*decodes=*/false);
  add_stack(specs, "decoder", config->decoder_layers, *config, /*decodes=*/true);
  specs.linear({"lm_head"}, config->vocabulary, config->width,
               {.bias = false, .quantizable = false, .optional = true});
  return specs.take();
}

/// Published files repeat the embedding for each stack, and hold a bias of the first cross-attention that has no
/// use.
std::string t5_canonical_name(std::string_view file_name, const Json&) {
  std::string_view name = file_name;
  if (name.starts_with("transformer.")) name.remove_prefix(12);
  for (const std::string_view unused : {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
                                        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}) {
    if (name == unused) return "";
  }
  return std::string(name);
}

Result<std::unique_ptr<Model>> make_t5(std::shared_ptr<const Pretrained> pretrained, const ModelOptions& options) {
  const Result<T5Config> config = read_t5_config(pretrained->config);
  if (!config) return Error{config.error()};
  const std::string folder = pretrained->folder.string();
  if (options.head != ModelHead::language_model) {
    return Error{folder + ": a t5 model generates text; classification with it is not supported. Use a bert or " +
                 "roberta model, or have the labels generated as text"};
  }
  if (options.train_all && pretrained->storage != at::kFloat) {
    return Error{folder + ": full fine-tuning needs the weights in fp32"};
  }
  return std::unique_ptr<Model>(std::make_unique<T5Model>(std::move(pretrained), *config, options));
}

/// feed_forward_proj says both in one word ("relu", "gated-gelu"); newer files repeat them in keys of their own,
/// which win.
Status read_feed_forward(const Json& json, T5Config& config) {
  const Json projection = json.value("feed_forward_proj", Json("relu"));
  const std::string word = projection.is_string() ? projection.get<std::string>() : "";
  const bool gated = word.starts_with("gated-");
  std::string activation = gated ? word.substr(6) : word;
  if (activation.empty() || activation.find('-') != std::string::npos) {
    return Error{"\"feed_forward_proj\" " + projection.dump() + " must be an activation, or \"gated-\" and one"};
  }
  if (word == "gated-gelu") activation = "gelu_new";
  const Result<bool> is_gated = config_boolean(json, "is_gated_act", gated);
  if (!is_gated) return Error{is_gated.error()};
  config.gated = *is_gated;
  const Result<Activation> read = config_activation(json, "dense_act_fn", activation.c_str());
  if (!read) return Error{read.error()};
  config.activation = *read;
  return {};
}

}  // namespace

const Family t5_family = {"t5", t5_weights, t5_canonical_name, make_t5};

Result<T5Config> read_t5_config(const Json& json) {
  T5Config config;
  const std::pair<const char*, std::int64_t*> integers[] = {
      {"vocab_size", &config.vocabulary}, {"d_model", &config.width},   {"d_ff", &config.inner},
      {"d_kv", &config.head_size},        {"num_heads", &config.heads}, {"num_layers", &config.encoder_layers},
  };
  for (const auto& [key, value] : integers) {
    const Result<std::int64_t> read = config_integer(json, key);
    if (!read) return Error{read.error()};
    *value = *read;
  }
  const std::tuple<const char*, std::int64_t, std::int64_t*> defaulted[] = {
      {"num_decoder_layers", config.encoder_layers, &config.decoder_layers},
      {"relative_attention_num_buckets", 32, &config.buckets},
      {"relative_attention_max_distance", 128, &config.max_distance},
  };
  for (const auto& [key, otherwise, value] : defaulted) {
    const Result<std::int64_t> read = config_integer(json, key, otherwise);
    if (!read) return Error{read.error()};
    *value = *read;
  }
  if (config.buckets < 4 || config.max_distance <= config.buckets / 2) {
    return Error{"\"relative_attention_num_buckets\" must be at least 4, and \"relative_attention_max_distance\" " +
                 std::string("above half of it")};
  }
  const std::tuple<const char*, double, double*> numbers[] = {
      {"dropout_rate", 0.1, &config.dropout},
      {"layer_norm_epsilon", 1e-6, &config.norm_epsilon},
  };
  for (const auto& [key, otherwise, value] : numbers) {
    const Result<double> read = config_number(json, key, otherwise);
    if (!read) return Error{read.error()};
    *value = *read;
  }
  if (!(config.dropout >= 0 && config.dropout < 1)) {
    return Error{"\"dropout_rate\" must be at least 0 and below 1"};
  }
  if (Status status = read_feed_forward(json, config); !status) return Error{status.error()};

  const Result<bool> tied = config_boolean(json, "tie_word_embeddings", true);
  if (!tied) return Error{tied.error()};
  const Result<bool> scales = config_boolean(json, "scale_decoder_outputs", *tied);
  if (!scales) return Error{scales.error()};
  config.scales_output = *scales;
  const auto id = [&](const char* key, std::int64_t otherwise) {
    const Json value = json.value(key, Json());
    return value.is_number_integer() ? value.get<std::int64_t>() : otherwise;
  };
  config.padding_id = id("pad_token_id", 0);
  config.decoder_start_id = id("decoder_start_token_id", config.padding_id);
  for (const std::int64_t token : {config.padding_id, config.decoder_start_id}) {
    if (token >= 0 && token < config.vocabulary) continue;
    return Error{"\"pad_token_id\" and \"decoder_start_token_id\" must be ids below \"vocab_size\""};
  }
  return config;
}

}  // namespace finesweep::worker
