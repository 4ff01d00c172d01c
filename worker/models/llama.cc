#include "worker/models/llama.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "worker/models/config_reader.h"

namespace finesweep::worker {
namespace {

DecoderLayerPaths layer_paths(std::int64_t index) {
  const std::string layer = "model.layers." + std::to_string(index);
  const std::string attention = layer + ".self_attn", mlp = layer + ".mlp";
  return {.attention_norm = layer + ".input_layernorm",
          .feed_forward_norm = layer + ".post_attention_layernorm",
          .qkv = {attention + ".q_proj", attention + ".k_proj", attention + ".v_proj"},
          .output = attention + ".o_proj",
          .up = {mlp + ".gate_proj", mlp + ".up_proj"},
          .down = mlp + ".down_proj"};
}

const DecoderFamily kFamily = {.name = "llama",
                               .generator = "LlamaForCausalLM",
                               .classifier = "LlamaForSequenceClassification",
                               .read = read_llama_config,
                               .words = "model.embed_tokens",
                               .final_norm = "model.norm",
                               .layer = layer_paths,
                               .lora_targets = {"q_proj", "v_proj"},
                               .ia3_targets = {"k_proj", "v_proj", "down_proj"},
                               .ia3_feedforward = {"down_proj"}};

/// Older files hold the rotary frequencies of each layer; those of a bare LlamaModel leave out "model.".
std::string canonical_name(std::string_view file_name, const Json&) {
  if (file_name.ends_with(".rotary_emb.inv_freq")) return "";
  for (const std::string_view part : {"embed_tokens.", "layers.", "norm."}) {
    if (file_name.starts_with(part)) return "model." + std::string(file_name);
  }
  return std::string(file_name);
}

/// PyTorch counts a negative padding index from the end.
std::int64_t padding_id(const Json& config, std::int64_t vocabulary) {
  const Json id = config.value("pad_token_id", Json());
  if (!id.is_number_integer()) return -1;
  return id.get<std::int64_t>() < 0 ? vocabulary + id.get<std::int64_t>() : id.get<std::int64_t>();
}

}  // namespace

const Family llama_family = {"llama", [](const Json& config) { return decoder_weights(kFamily, config); },
                             canonical_name,
                             [](std::shared_ptr<const Pretrained> pretrained, const ModelOptions& options) {
                               return make_decoder(kFamily, std::move(pretrained), options);
                             },
                             /*pools_last_token=*/true};

Result<DecoderConfig> read_llama_config(const Json& json) {
  ConfigReader reader(json);
  DecoderConfig config;
  config.vocabulary = reader.size({"vocab_size"});
  config.positions = reader.size({"max_position_embeddings", "max_sequence_length"}, 2048);
  config.width = reader.size({"hidden_size"});
  config.inner = reader.size({"intermediate_size"});
  config.heads = reader.size({"num_attention_heads"});
  config.key_heads = reader.size({"num_key_value_heads"}, config.heads);
  config.head_size = reader.size({"head_dim"}, std::max<std::int64_t>(config.width / config.heads, 1));
  config.layers.resize(static_cast<std::size_t>(reader.size({"num_hidden_layers"})));
  for (DecoderConfig::Layer& layer : config.layers) {
    layer.attention_scale = 1 / std::sqrt(static_cast<double>(config.head_size));
  }
  config.norm = NormKind::root_mean_square;
  config.norm_epsilon = reader.number("rms_norm_eps", 1e-6);
  config.activation = reader.activation("hidden_act", "silu");
  config.gated = true;
  config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
  config.feed_forward_bias = reader.flag("mlp_bias", false);
  config.attention_dropout = reader.probability("attention_dropout", 0);
  config.padding_id = padding_id(json, config.vocabulary);
  config.initializer_range = reader.number("initializer_range", 0.02);
  config.tied = reader.flag("tie_word_embeddings", false);
  if (config.heads % config.key_heads != 0) {
    reader.fail("\"num_attention_heads\" " + std::to_string(config.heads) +
                " is not a multiple of \"num_key_value_heads\" " + std::to_string(config.key_heads));
  }
  if (!json.contains("head_dim") && config.width % config.heads != 0) {
    reader.fail("\"hidden_size\" " + std::to_string(config.width) +
                " is not a multiple of \"num_attention_heads\" " + std::to_string(config.heads));
  }
  if (!reader.status()) return Error{reader.status().error()};
  Result<RotaryFrequencies> rotary = read_rotary(json, config.head_size, config.positions);
  if (!rotary) return Error{rotary.error()};
  config.rotary = std::move(*rotary);
  return config;
}

}  // namespace finesweep::worker
