#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker/kernels/spare_rows.h"
#include "worker/models/family.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// A model of this config's shapes with random weights, made in memory: what a step costs does not depend on their
/// values.
inline std::shared_ptr<const Pretrained> random_pretrained(const Json& config, at::ScalarType storage,
                                                           c10::Device device) {
  auto model = std::make_shared<Pretrained>();
  model->folder = "random";
  model->family = config.at("model_type").get<std::string>();
  model->config = config;
  model->storage = storage;
  model->device = device;
  const Family* family = find_family(model->family);
  auto specs =
      family == nullptr ? Result<std::vector<WeightSpec>>(Error{"unknown family"}) : family->weights(config);
  if (!specs) throw std::invalid_argument(specs.error().message);
  for (const WeightSpec& spec : *specs) {
    Parameter weight;
    weight.is_table = spec.role == WeightRole::table;
    weight.decays = spec.role == WeightRole::table || spec.role == WeightRole::matrix;
    weight.transposed_in_files = spec.transposed;
    if (!spec.optional && !spec.head) {
      std::vector<std::int64_t> shape = spec.shape;
      shape[0] = 0;
      for (std::size_t i = 0; i < spec.names.size(); ++i) {
        const std::int64_t rows = spec.shape_of(i)[0];
        weight.parts.push_back({spec.names[i], rows});
        shape[0] += rows;
      }
      weight.value = empty_with_spare_rows(shape, at::TensorOptions(spec.type_for(storage)).device(device));
      weight.value.normal_(0, 0.02);
      if (spec.role == WeightRole::norm && spec.names[0].ends_with("weight")) weight.value.add_(1);
    }
    model->weights.push_back(std::move(weight));
  }
  model->specs = std::move(*specs);
  return model;
}

/// Configs of published models.
inline Json published_config(const std::string& name) {
  if (name == "gpt2" || name == "gpt2-medium") {
    const bool medium = name == "gpt2-medium";
    return {{"model_type", "gpt2"},          {"vocab_size", 50257},
            {"n_positions", 1024},           {"n_ctx", 1024},
            {"n_embd", medium ? 1024 : 768}, {"n_layer", medium ? 24 : 12},
            {"n_head", medium ? 16 : 12},    {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", 1e-5}};
  }
  if (name == "roberta-base") {
    return {{"model_type", "roberta"},   {"vocab_size", 50265},       {"max_position_embeddings", 514},
            {"type_vocab_size", 1},      {"hidden_size", 768},        {"num_hidden_layers", 12},
            {"num_attention_heads", 12}, {"intermediate_size", 3072}, {"layer_norm_eps", 1e-5},
            {"pad_token_id", 1},         {"hidden_act", "gelu"}};
  }
  if (name == "tinybert-4l") {
    return {{"model_type", "bert"},      {"vocab_size", 30522},       {"max_position_embeddings", 512},
            {"type_vocab_size", 2},      {"hidden_size", 312},        {"num_hidden_layers", 4},
            {"num_attention_heads", 12}, {"intermediate_size", 1200}, {"hidden_act", "gelu"}};
  }
  if (name == "tinyllama-1.1b") {  // but tied: a head of its own is among what is left out above
    return {{"model_type", "llama"},       {"vocab_size", 32000},       {"max_position_embeddings", 2048},
            {"hidden_size", 2048},         {"num_hidden_layers", 22},   {"num_attention_heads", 32},
            {"num_key_value_heads", 4},    {"intermediate_size", 5632}, {"rms_norm_eps", 1e-5},
            {"tie_word_embeddings", true}, {"hidden_act", "silu"}};
  }
  if (name == "gpt-neo-1.3b") {
    return {{"model_type", "gpt_neo"},
            {"vocab_size", 50257},
            {"max_position_embeddings", 2048},
            {"hidden_size", 2048},
            {"num_layers", 24},
            {"num_heads", 16},
            {"attention_types", Json::parse(R"([[["global", "local"], 12]])")},
            {"window_size", 256},
            {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", 1e-5}};
  }
  if (name == "smollm2-135m") {
    return {{"model_type", "llama"},    {"vocab_size", 49152},
            {"hidden_size", 576},       {"intermediate_size", 1536},
            {"num_hidden_layers", 30},  {"num_attention_heads", 9},
            {"num_key_value_heads", 3}, {"max_position_embeddings", 8192},
            {"rope_theta", 100000.0},   {"hidden_act", "silu"},
            {"rms_norm_eps", 1e-5},     {"tie_word_embeddings", true}};
  }
  throw std::invalid_argument("no config for \"" + name + "\"");
}

}  // namespace finesweep::worker
