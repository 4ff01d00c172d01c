#include "worker/formats/gguf_llama.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "worker/formats/gguf_rope_scaling.h"

namespace finesweep::worker {
namespace {

// ggml's names, as llama.cpp's converters write them, and Hugging Face's. Each may end in ".weight" or ".bias".
struct Name {
  std::string_view ggml, hugging_face;
  bool has_bias_sometimes = false;
};
constexpr std::array<Name, 9> kLayerNames{{{"attn_norm", "input_layernorm"},
                                           {"attn_q", "self_attn.q_proj", true},
                                           {"attn_k", "self_attn.k_proj", true},
                                           {"attn_v", "self_attn.v_proj", true},
                                           {"attn_output", "self_attn.o_proj", true},
                                           {"ffn_norm", "post_attention_layernorm"},
                                           {"ffn_gate", "mlp.gate_proj", true},
                                           {"ffn_up", "mlp.up_proj", true},
                                           {"ffn_down", "mlp.down_proj", true}}};
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kOtherNames{
    {{"token_embd.weight", "model.embed_tokens.weight"},
     {"output_norm.weight", "model.norm.weight"},
     {"output.weight", "lm_head.weight"}}};

struct LayerTensor {
  std::int64_t layer = 0;
  std::string_view rest;  // "attn_q.weight"
};

std::optional<LayerTensor> layer_tensor(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  LayerTensor parsed;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + 4, end, parsed.layer);
  if (error != std::errc() || stopped == end || *stopped != '.' || parsed.layer < 0) return std::nullopt;
  parsed.rest = name.substr(static_cast<std::size_t>(stopped + 1 - name.data()));
  return parsed;
}

/// A number of fp32 as a person writes it: 1e-05 and not 9.99999974e-06.
double shortest(double value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof(text) - 1, static_cast<float>(value));
  if (error != std::errc()) return value;
  *end = '\0';
  return std::strtod(text, nullptr);
}

Error cannot_load(const GgufFile& file, const std::string& reason) {
  return {"Cannot load a model from " + file.path().string() + ": " + reason + "."};
}

}  // namespace

at::Tensor undo_rotary_permutation(const at::Tensor& w, std::int64_t heads) {
  const std::int64_t half = w.size(0) / heads / 2;
  return w.reshape({heads, half, 2, -1}).transpose(1, 2).reshape(w.sizes());
}

Result<GgufLlama> GgufLlama::open(const std::filesystem::path& path) {
  auto file = GgufFile::open(path);
  if (!file) return file.error();
  GgufLlama model;
  model.file_ = std::move(*file);
  auto architecture = model.file_.value<std::string>("general.architecture");
  if (!architecture) return architecture.error();
  if (*architecture != "llama") {
    return cannot_load(
        model.file_, "its architecture is '" + printable(*architecture) + "', and only llama is supported in GGUF");
  }
  auto parts = model.file_.value_if_present<std::int64_t>("split.count");
  if (!parts) return parts.error();
  if (parts->value_or(1) > 1) {
    return cannot_load(
        model.file_, "it is one of " + std::to_string(**parts) + " parts; merge them with llama-gguf-split first");
  }
  if (auto status = model.make_config(); !status) return status.error();
  if (auto status = model.map_names(); !status) return status.error();
  return model;
}

Status GgufLlama::make_config() {
  std::optional<Error> problem;
  const auto integer = [&](const std::string& key, std::int64_t most) {
    auto value = file_.value<std::int64_t>(key);
    if (!value) return problem = problem ? problem : value.error(), std::int64_t{1};
    if (*value < 1 || *value > most) {
      if (!problem) problem = cannot_load(file_, "metadata key '" + key + "' is " + std::to_string(*value));
      return std::int64_t{1};
    }
    return *value;
  };
  const auto optional = [&]<typename T>(const std::string& key, T fallback) {
    auto value = file_.value_if_present<T>(key);
    if (!value) return problem = problem ? problem : value.error(), fallback;
    return value->value_or(fallback);
  };
  const std::int64_t hidden = integer("llama.embedding_length", 1 << 24);
  const std::int64_t heads = integer("llama.attention.head_count", 1 << 16);
  const std::int64_t layers = integer("llama.block_count", 1 << 16);
  const std::int64_t inner = integer("llama.feed_forward_length", 1 << 26);
  const std::int64_t context = integer("llama.context_length", INT32_MAX);
  const std::int64_t kv_heads =
      file_.has_value("llama.attention.head_count_kv") ? integer("llama.attention.head_count_kv", heads) : heads;
  const auto head_dim = optional("llama.attention.key_length", hidden / heads);
  const auto value_dim = optional("llama.attention.value_length", head_dim);
  const auto rotated = optional("llama.rope.dimension_count", head_dim);
  const auto experts = optional("llama.expert_count", std::int64_t{0});
  const double theta = optional("llama.rope.freq_base", 10000.0);
  auto epsilon = file_.value<double>("llama.attention.layer_norm_rms_epsilon");
  if (!epsilon && !problem) problem = epsilon.error();
  if (problem) return *problem;

  if (heads % kv_heads != 0)
    return cannot_load(
        file_, std::to_string(heads) + " query heads cannot share " + std::to_string(kv_heads) + " key heads");
  if (head_dim < 2 || head_dim > 1 << 16 || head_dim % 2 != 0)
    return cannot_load(file_, "its heads have " + std::to_string(head_dim) + " elements, no even number");
  if (value_dim != head_dim)
    return cannot_load(file_, "its keys have " + std::to_string(head_dim) + " elements and its values " +
                                  std::to_string(value_dim));
  if (rotated != head_dim) {
    return cannot_load(file_, "it rotates " + std::to_string(rotated) + " of " + std::to_string(head_dim) +
                                  " elements of a head, and only whole heads are supported");
  }
  if (experts > 0)
    return cannot_load(file_, "it is a mixture of " + std::to_string(experts) + " experts, which is not supported");
  if (!(theta > 1) || !(*epsilon >= 0))
    return cannot_load(file_, "its rotary base or its norm epsilon is not possible");
  const GgufTensorEntry* embedding = file_.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    return cannot_load(file_, "it has no tensor 'token_embd.weight' [vocabulary, width]");
  auto scaling = rope_scaling_of(file_, head_dim, theta, context);
  if (!scaling) return scaling.error();

  config_ = {{"architectures", {"LlamaForCausalLM"}},
             {"model_type", "llama"},
             {"hidden_act", "silu"},
             {"hidden_size", hidden},
             {"intermediate_size", inner},
             {"num_hidden_layers", layers},
             {"num_attention_heads", heads},
             {"num_key_value_heads", kv_heads},
             {"head_dim", head_dim},
             {"max_position_embeddings", context},
             {"vocab_size", embedding->shape[0]},
             {"rms_norm_eps", shortest(*epsilon)},
             {"rope_theta", shortest(theta)},
             {"rope_scaling", *scaling},
             {"attention_bias", file_.contains("blk.0.attn_q.bias")},
             {"mlp_bias", file_.contains("blk.0.ffn_gate.bias")},
             {"tie_word_embeddings", !file_.contains("output.weight")}};
  for (const auto& [key, name] : {std::pair("bos_token_id", "bos_token_id"),
                                  {"eos_token_id", "eos_token_id"},
                                  {"padding_token_id", "pad_token_id"}}) {
    auto id = file_.value_if_present<std::int64_t>(std::string("tokenizer.ggml.") + key);
    if (!id) return id.error();
    config_[name] = *id ? Json(**id) : Json(nullptr);
  }
  return {};
}

Status GgufLlama::map_names() {
  const auto layers = config_["num_hidden_layers"].get<std::int64_t>();
  const auto heads = config_["num_attention_heads"].get<std::int64_t>();
  const auto kv_heads = config_["num_key_value_heads"].get<std::int64_t>();
  const auto head_dim = config_["head_dim"].get<std::int64_t>();
  for (const std::string& name : file_.names()) {
    // Its factors stand in the config.
    if (name == "rope_freqs.weight") continue;
    bool known = false;
    for (const auto& [ggml, hugging_face] : kOtherNames) {
      if (name != ggml) continue;
      sources_[std::string(hugging_face)] = {name, 0};
      known = true;
    }
    const auto in_layer = layer_tensor(name);
    if (in_layer && in_layer->layer < layers) {
      const std::string begin = "model.layers." + std::to_string(in_layer->layer) + ".";
      for (const auto& [ggml, hugging_face, has_bias] : kLayerNames) {
        if (!in_layer->rest.starts_with(ggml)) continue;
        const std::string_view kind = in_layer->rest.substr(ggml.size());
        if (kind != ".weight" && !(kind == ".bias" && has_bias)) continue;
        const std::int64_t permuted = ggml == "attn_q" ? heads : ggml == "attn_k" ? kv_heads : 0;
        const GgufTensorEntry& entry = *file_.find(name);
        if (permuted > 0 && (entry.shape.empty() || entry.shape[0] != permuted * head_dim)) {
          return cannot_load(file_, "tensor '" + name + "' has not the " + std::to_string(permuted * head_dim) +
                                        " rows of " + std::to_string(permuted) + " heads");
        }
        sources_[begin + std::string(hugging_face) + std::string(kind)] = {name, permuted};
        known = true;
      }
    }
    if (!known)
      return cannot_load(file_, "tensor '" + printable(name) + "' is not known in a llama model of " +
                                    std::to_string(layers) + " layers");
  }
  for (const std::string_view needed : {"model.embed_tokens.weight", "model.norm.weight"}) {
    if (!sources_.contains(needed))
      return cannot_load(file_,
                         "the tensor that is " + std::string(needed) + " in Hugging Face's naming is missing");
  }
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (const Name& name : kLayerNames) {
      const std::string ggml = "blk." + std::to_string(layer) + "." + std::string(name.ggml) + ".weight";
      if (!file_.contains(ggml)) return cannot_load(file_, "tensor '" + ggml + "' is missing");
    }
  }
  return {};
}

std::vector<std::string> GgufLlama::names() const {
  std::vector<std::string> names;
  for (const auto& [name, source] : sources_) names.push_back(name);
  return names;
}

const GgufTensorEntry* GgufLlama::find(std::string_view name) const {
  const auto found = sources_.find(name);
  return found == sources_.end() ? nullptr : file_.find(found->second.name);
}

Result<at::Tensor> GgufLlama::tensor(std::string_view name, at::ScalarType type) const {
  const auto found = sources_.find(name);
  if (found == sources_.end())
    return Error{"The model in " + file_.path().string() + " has no tensor '" + printable(name) + "'."};
  auto tensor = file_.tensor(found->second.name, type);
  if (!tensor || found->second.heads == 0) return tensor;
  return undo_rotary_permutation(*tensor, found->second.heads);
}

Result<GgufTokenizer> GgufLlama::tokenizer() const {
  GgufTokenizer tokenizer;
  std::optional<Error> problem;
  const auto keep = [&]<typename T>(T& into, Result<T> value) {
    if (value) {
      into = std::move(*value);
    } else if (!problem) {
      problem = value.error();
    }
  };
  const auto keep_if_present = [&]<typename T>(T& into, Result<std::optional<T>> value) {
    if (!value) {
      if (!problem) problem = value.error();
    } else if (*value) {
      into = std::move(**value);
    }
  };
  using Strings = std::vector<std::string>;
  const std::string ggml = "tokenizer.ggml.";
  keep(tokenizer.model, file_.value<std::string>(ggml + "model"));
  keep(tokenizer.tokens, file_.value<Strings>(ggml + "tokens"));
  keep_if_present(tokenizer.pre_tokenizer, file_.value_if_present<std::string>(ggml + "pre"));
  keep_if_present(tokenizer.merges, file_.value_if_present<Strings>(ggml + "merges"));
  keep_if_present(tokenizer.token_types, file_.value_if_present<std::vector<std::int64_t>>(ggml + "token_type"));
  keep_if_present(tokenizer.scores, file_.value_if_present<std::vector<double>>(ggml + "scores"));
  keep(tokenizer.bos_id, file_.value_if_present<std::int64_t>(ggml + "bos_token_id"));
  keep(tokenizer.eos_id, file_.value_if_present<std::int64_t>(ggml + "eos_token_id"));
  keep(tokenizer.unknown_id, file_.value_if_present<std::int64_t>(ggml + "unknown_token_id"));
  keep(tokenizer.padding_id, file_.value_if_present<std::int64_t>(ggml + "padding_token_id"));
  keep(tokenizer.add_bos, file_.value_if_present<bool>(ggml + "add_bos_token"));
  keep(tokenizer.add_eos, file_.value_if_present<bool>(ggml + "add_eos_token"));
  keep(tokenizer.add_space_prefix, file_.value_if_present<bool>(ggml + "add_space_prefix"));
  keep(tokenizer.chat_template, file_.value_if_present<std::string>("tokenizer.chat_template"));
  if (problem) return *problem;

  const auto tokens = static_cast<std::int64_t>(tokenizer.tokens.size());
  const auto fits = [&](std::size_t size) { return size == 0 || static_cast<std::int64_t>(size) == tokens; };
  if (!fits(tokenizer.token_types.size()) || !fits(tokenizer.scores.size())) {
    return cannot_load(
        file_, "its tokenizer has " + std::to_string(tokens) + " tokens, but another number of types or scores");
  }
  for (const auto& id : {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unknown_id, tokenizer.padding_id}) {
    if (id && (*id < 0 || *id >= tokens)) {
      return cannot_load(file_, "its tokenizer names the special token " + std::to_string(*id) + ", but has " +
                                    std::to_string(tokens) + " tokens");
    }
  }
  return tokenizer;
}

}  // namespace finesweep::worker
