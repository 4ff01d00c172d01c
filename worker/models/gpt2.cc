#include "worker/models/gpt2.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "worker/models/config_reader.h"

namespace finesweep::worker {
namespace {

DecoderLayerPaths gpt2_layer_paths(std::int64_t index) {
  const std::string layer = "transformer.h." + std::to_string(index);
  return {.attention_norm = layer + ".ln_1",
          .feed_forward_norm = layer + ".ln_2",
          .qkv = {layer + ".attn.c_attn"},
          .output = layer + ".attn.c_proj",
          .up = {layer + ".mlp.c_fc"},
          .down = layer + ".mlp.c_proj"};
}

const DecoderFamily kGpt2Family = {.name = "gpt2",
                                   .generator = "GPT2LMHeadModel",
                                   .classifier = "GPT2ForSequenceClassification",
                                   .read = read_gpt2_config,
                                   .words = "transformer.wte",
                                   .positions = "transformer.wpe",
                                   .final_norm = "transformer.ln_f",
                                   .layer = gpt2_layer_paths,
                                   .lora_targets = {"c_attn"},
                                   .ia3_targets = {"c_attn", "mlp.c_proj"},
                                   .ia3_feedforward = {"mlp.c_proj"}};

/// Published files leave out "transformer.", and hold the causal mask of each layer and heads for other tasks.
std::string gpt2_canonical_name(std::string_view file_name, const Json&) {
  if (file_name.ends_with(".attn.bias") || file_name.ends_with(".attn.masked_bias")) return "";
  if (file_name.starts_with("multiple_choice_head.")) return "";
  for (const std::string_view part : {"wte.", "wpe.", "h.", "ln_f."}) {
    if (file_name.starts_with(part)) return "transformer." + std::string(file_name);
  }
  return std::string(file_name);
}

}  // namespace

const Family gpt2_family = {"gpt2", [](const Json& config) { return decoder_weights(kGpt2Family, config); },
                            gpt2_canonical_name,
                            [](std::shared_ptr<const Pretrained> pretrained, const ModelOptions& options) {
                              return make_decoder(kGpt2Family, std::move(pretrained), options);
                            },
                            /*pools_last_token=*/true};

Result<DecoderConfig> read_gpt2_config(const Json& json) {
  ConfigReader reader(json);
  DecoderConfig config;
  config.vocabulary = reader.size({"vocab_size"});
  config.positions = reader.size({"n_positions", "max_position_embeddings"});
  config.width = reader.size({"n_embd", "hidden_size"});
  config.heads = config.key_heads = reader.size({"n_head", "num_attention_heads"});
  config.inner = reader.size({"n_inner"}, 4 * config.width);
  config.layers.resize(static_cast<std::size_t>(reader.size({"n_layer", "num_hidden_layers"})));
  config.head_size = config.width / config.heads;
  const bool scales = reader.flag("scale_attn_weights", true);
  const bool by_layer = reader.flag("scale_attn_by_inverse_layer_idx", false);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const double scale = scales ? 1 / std::sqrt(static_cast<double>(config.head_size)) : 1;
    config.layers[i].attention_scale = by_layer ? scale / static_cast<double>(i + 1) : scale;
  }
  config.norm_epsilon = reader.number("layer_norm_epsilon", 1e-5);
  config.activation = reader.activation("activation_function", "gelu_new");
  config.qkv_bias = config.output_bias = config.feed_forward_bias = true;
  config.transposed = true;
  config.embedding_dropout = reader.probability("embd_pdrop", 0.1);
  config.attention_dropout = reader.probability("attn_pdrop", 0.1);
  config.residual_dropout = reader.probability("resid_pdrop", 0.1);
  config.initializer_range = reader.number("initializer_range", 0.02);
  config.tied = reader.flag("tie_word_embeddings", true);
  reader.refuse_if(reader.flag("add_cross_attention", false), "add_cross_attention");
  if (config.width % config.heads != 0) {
    reader.fail("\"n_embd\" " + std::to_string(config.width) + " is not a multiple of \"n_head\" " +
                std::to_string(config.heads));
  }
  if (!reader.status()) return Error{reader.status().error()};
  return config;
}

}  // namespace finesweep::worker
