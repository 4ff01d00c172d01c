#include "worker/models/gpt_neo.h"

#include <nlohmann/json.hpp>

#include "worker/models/config_reader.h"

namespace finesweep::worker {
namespace {

DecoderLayerPaths gpt_neo_layer_paths(std::int64_t index) {
  const std::string layer = "transformer.h." + std::to_string(index), attention = layer + ".attn.attention";
  return {.attention_norm = layer + ".ln_1",
          .feed_forward_norm = layer + ".ln_2",
          .qkv = {attention + ".q_proj", attention + ".k_proj", attention + ".v_proj"},
          .output = attention + ".out_proj",
          .up = {layer + ".mlp.c_fc"},
          .down = layer + ".mlp.c_proj"};
}

const DecoderFamily kGptNeoFamily = {.name = "gpt_neo",
                                     .generator = "GPTNeoForCausalLM",
                                     .classifier = "GPTNeoForSequenceClassification",
                                     .read = read_gpt_neo_config,
                                     .words = "transformer.wte",
                                     .positions = "transformer.wpe",
                                     .final_norm = "transformer.ln_f",
                                     .layer = gpt_neo_layer_paths,
                                     .lora_targets = {"q_proj", "v_proj"},
                                     .ia3_targets = {"q_proj", "v_proj", "c_proj"},
                                     .ia3_feedforward = {"c_proj"}};

/// Published files hold the causal mask of each layer.
std::string gpt_neo_canonical_name(std::string_view file_name, const Json&) {
  for (const std::string_view buffer : {".attn.attention.bias", ".attn.attention.masked_bias"}) {
    if (file_name.ends_with(buffer)) return "";
  }
  for (const std::string_view part : {"wte.", "wpe.", "h.", "ln_f."}) {
    if (file_name.starts_with(part)) return "transformer." + std::string(file_name);
  }
  return std::string(file_name);
}

/// "global" or "local" for each layer, from [[["global", "local"], 12]] or from the same written out.
Result<std::vector<Json>> attention_layers(const Json& config, std::size_t layers) {
  const Json types = config.value("attention_types", Json()),
             written_out = config.value("attention_layers", Json());
  std::vector<Json> kinds;
  if (types.is_null() && written_out.is_array()) {
    kinds.assign(written_out.begin(), written_out.end());
  } else if (types.is_null()) {
    for (std::size_t i = 0; i < layers; ++i) kinds.push_back(i % 2 == 0 ? "global" : "local");
  } else {
    const Error wrong{"\"attention_types\" must be a list like [[[\"global\", \"local\"], 12]], and is " +
                      types.dump()};
    if (!types.is_array()) return wrong;
    for (const Json& item : types) {
      const bool fits = item.is_array() && item.size() == 2 && item[0].is_array() && item[1].is_number_unsigned();
      if (!fits) return wrong;
      for (std::uint64_t i = 0; i < item[1].get<std::uint64_t>() && kinds.size() <= layers; ++i) {
        kinds.insert(kinds.end(), item[0].begin(), item[0].end());
        if (item[0].empty()) break;
      }
    }
  }
  if (kinds.size() != layers) {
    return Error{"\"attention_types\" are not one for each of the \"num_layers\" " + std::to_string(layers)};
  }
  for (const Json& kind : kinds) {
    if (kind != "global" && kind != "local") {
      return Error{"\"attention_types\": " + kind.dump() + " is not supported; global and local are"};
    }
  }
  if (written_out.is_array() && written_out != Json(kinds)) {
    return Error{"\"attention_types\" and \"attention_layers\" contradict each other; leave one of them out"};
  }
  return kinds;
}

}  // namespace

const Family gpt_neo_family = {"gpt_neo", [](const Json& config) { return decoder_weights(kGptNeoFamily, config); },
                               gpt_neo_canonical_name,
                               [](std::shared_ptr<const Pretrained> pretrained, const ModelOptions& options) {
                                 return make_decoder(kGptNeoFamily, std::move(pretrained), options);
                               },
                               /*pools_last_token=*/true};

Result<DecoderConfig> read_gpt_neo_config(const Json& json) {
  ConfigReader reader(json);
  DecoderConfig config;
  config.vocabulary = reader.size({"vocab_size"});
  config.positions = reader.size({"max_position_embeddings"});
  config.width = reader.size({"hidden_size"});
  config.heads = config.key_heads = reader.size({"num_heads", "num_attention_heads"});
  config.inner = reader.size({"intermediate_size"}, 4 * config.width);
  config.layers.resize(static_cast<std::size_t>(reader.size({"num_layers", "num_hidden_layers"})));
  config.head_size = config.width / config.heads;
  const std::int64_t window = reader.size({"window_size"}, 256);
  const Result<std::vector<Json>> kinds = attention_layers(json, config.layers.size());
  if (!kinds) reader.fail(kinds.error().message);
  for (std::size_t i = 0; kinds && i < config.layers.size(); ++i) {
    config.layers[i].window = (*kinds)[i] == "local" ? window : 0;
  }
  config.norm_epsilon = reader.number("layer_norm_epsilon", 1e-5);
  config.activation = reader.activation("activation_function", "gelu_new");
  config.output_bias = config.feed_forward_bias = true;
  config.embedding_dropout = reader.probability("embed_dropout", 0);
  config.attention_dropout = reader.probability("attention_dropout", 0);
  config.residual_dropout = reader.probability("resid_dropout", 0);
  config.initializer_range = reader.number("initializer_range", 0.02);
  config.tied = reader.flag("tie_word_embeddings", true);
  if (config.width % config.heads != 0) {
    reader.fail("\"hidden_size\" " + std::to_string(config.width) + " is not a multiple of \"num_heads\" " +
                std::to_string(config.heads));
  }
  if (!reader.status()) return Error{reader.status().error()};
  return config;
}

}  // namespace finesweep::worker
