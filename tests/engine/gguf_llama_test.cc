// A Llama model in GGUF, as converters write it, is the model that the Hugging Face directory holds.

#include "worker/formats/gguf_llama.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numbers>

#include "tests/engine/gguf_bytes.h"
#include "tests/engine/gguf_permuted.h"
#include "tests/engine/temporary_folder.h"
#include "worker/formats/gguf_rope_scaling.h"
#include "worker/formats/weight_files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kModels = fs::path(FINESWEEP_SOURCE_DIR) / "tests" / "fixtures" / "models";

std::string bytes_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.contiguous();
  return {static_cast<const char*>(values.data_ptr()), values.nbytes()};
}

/// convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors.
std::vector<float> llama3_factors(double theta, std::int64_t head_dim, double factor, double low, double high,
                                  double context) {
  std::vector<float> factors;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim));
    if (wavelength < context / high) {
      factors.push_back(1);
    } else if (wavelength > context / low) {
      factors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (context / wavelength - low) / (high - low);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return factors;
}

Json config_of(const fs::path& folder) {
  return Json::parse(std::ifstream(folder / "config_hub_style.json"));
}

/// The model of a fixture, as its converter would write it; `change` may spoil it before the tensors are added.
GgufBytes converted(
    const fs::path& folder, const std::function<void(GgufBytes&)>& change = [](GgufBytes&) {}) {
  const Json config = config_of(folder);
  const auto weights = WeightFiles::open(folder).value();
  GgufBytes file;
  const auto number = [&](const char* key) { return config.at(key).get<std::uint32_t>(); };
  file.string("general.architecture", "llama");
  file.integer("llama.embedding_length", number("hidden_size"));
  file.integer("llama.block_count", number("num_hidden_layers"));
  file.integer("llama.feed_forward_length", number("intermediate_size"));
  file.integer("llama.context_length", number("max_position_embeddings"));
  file.integer("llama.attention.head_count", number("num_attention_heads"));
  file.integer("llama.attention.head_count_kv", number("num_key_value_heads"));
  file.integer("llama.rope.dimension_count", number("head_dim"));
  file.real("llama.rope.freq_base", config.at("rope_theta").get<float>());
  file.real("llama.attention.layer_norm_rms_epsilon", config.at("rms_norm_eps").get<float>());
  file.integer("tokenizer.ggml.bos_token_id", number("bos_token_id"));
  file.integer("tokenizer.ggml.eos_token_id", number("eos_token_id"));
  change(file);
  const auto add = [&](const std::string& name, const std::string& source, std::int64_t heads = 0) {
    const at::Tensor w = weights.tensor(source).value();
    file.tensor(name, w.sizes().vec(), bytes_of(heads > 0 ? permuted(w, heads) : w));
  };
  add("token_embd.weight", "model.embed_tokens.weight");
  add("output_norm.weight", "model.norm.weight");
  if (weights.contains("lm_head.weight")) add("output.weight", "lm_head.weight");
  for (std::uint32_t i = 0; i < number("num_hidden_layers"); ++i) {
    const std::string ggml = "blk." + std::to_string(i) + ".",
                      hugging_face = "model.layers." + std::to_string(i) + ".";
    add(ggml + "attn_norm.weight", hugging_face + "input_layernorm.weight");
    add(ggml + "ffn_norm.weight", hugging_face + "post_attention_layernorm.weight");
    add(ggml + "attn_q.weight", hugging_face + "self_attn.q_proj.weight", number("num_attention_heads"));
    add(ggml + "attn_k.weight", hugging_face + "self_attn.k_proj.weight", number("num_key_value_heads"));
    add(ggml + "attn_v.weight", hugging_face + "self_attn.v_proj.weight");
    add(ggml + "attn_output.weight", hugging_face + "self_attn.o_proj.weight");
    add(ggml + "ffn_gate.weight", hugging_face + "mlp.gate_proj.weight");
    add(ggml + "ffn_up.weight", hugging_face + "mlp.up_proj.weight");
    add(ggml + "ffn_down.weight", hugging_face + "mlp.down_proj.weight");
  }
  const Json& scaling = config.at("rope_scaling");
  if (scaling.is_object()) {
    const auto value = [&](const char* key) { return scaling.at(key).get<double>(); };
    const std::vector<float> factors = llama3_factors(
        config.at("rope_theta").get<double>(), number("head_dim"), value("factor"), value("low_freq_factor"),
        value("high_freq_factor"), value("original_max_position_embeddings"));
    file.tensor("rope_freqs.weight", {static_cast<std::int64_t>(factors.size())},
                {reinterpret_cast<const char*>(factors.data()), factors.size() * sizeof(float)});
  }
  return file;
}

class GgufLlamaFile : public ::testing::Test {
 protected:
  Result<GgufLlama> open(const GgufBytes& file) { return GgufLlama::open(folder_.write("a.gguf", file.bytes())); }
  void expect_refused(const GgufBytes& file, const std::string& reason) {
    const auto model = open(file);
    ASSERT_FALSE(model.ok()) << "accepted, but expected: " << reason;
    EXPECT_THAT(model.error().message, AllOf(HasSubstr("a.gguf"), HasSubstr(reason)));
  }

  TemporaryFolder folder_;
};

TEST_F(GgufLlamaFile, config_names_and_tensors_are_those_of_the_hugging_face_directory) {
  for (const std::string name : {"llama", "llama_rope3"}) {
    SCOPED_TRACE(name);
    const auto model = open(converted(kModels / name));
    ASSERT_TRUE(model.ok()) << model.error().message;
    const Json expected = config_of(kModels / name);
    for (const char* key : {"architectures", "model_type", "hidden_act", "hidden_size", "intermediate_size",
                            "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                            "max_position_embeddings", "vocab_size", "rms_norm_eps", "rope_theta", "attention_bias",
                            "mlp_bias", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}) {
      EXPECT_EQ(model->config().at(key), expected.at(key)) << key;
    }
    EXPECT_EQ(model->config().at("rope_scaling"), expected.at("rope_scaling"));
    const auto weights = WeightFiles::open(kModels / name).value();
    EXPECT_EQ(model->names(), weights.names());
    for (const std::string& tensor : weights.names()) {
      const auto mine = model->tensor(tensor);
      ASSERT_TRUE(mine.ok()) << mine.error().message;
      EXPECT_TRUE(mine->equal(weights.tensor(tensor).value())) << tensor;
      EXPECT_EQ(model->find(tensor)->shape, weights.find(tensor)->shape);
    }
  }
}

TEST_F(GgufLlamaFile, rotary_factors_become_a_llama3_scaling_that_gives_the_same_factors) {
  struct Case {
    double theta;
    std::int64_t head_dim;
    double factor, low, high, context;
  };
  const std::vector<Case> cases = {{500000, 128, 8, 1, 4, 8192},    {500000, 64, 32, 1, 4, 8192},
                                   {10000, 16, 8, 1, 4, 16},        {10000, 128, 4, 2, 5, 4096},
                                   {100000, 64, 8, 1, 8, 2048},     {10000, 8, 8, 1, 4, 100},
                                   {1000000, 128, 16, 1, 2, 32768}, {10000, 4, 8, 1, 1.5, 300}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::to_string(c.theta) + " " + std::to_string(c.head_dim) + " " + std::to_string(c.context));
    const auto factors = llama3_factors(c.theta, c.head_dim, c.factor, c.low, c.high, c.context);
    const auto scaling = llama3_scaling_from(factors, c.head_dim, c.theta);
    ASSERT_TRUE(scaling.ok()) << scaling.error().message;
    const auto value = [&](const char* key) { return scaling->at(key).get<double>(); };
    const auto again = llama3_factors(c.theta, c.head_dim, value("factor"), value("low_freq_factor"),
                                      value("high_freq_factor"), value("original_max_position_embeddings"));
    ASSERT_EQ(again.size(), factors.size());
    for (std::size_t i = 0; i < factors.size(); ++i) EXPECT_NEAR(again[i] / factors[i], 1, 1e-4) << i;
    if (c.low == 1 && c.high == 4 && c.context == 8192) {
      EXPECT_EQ(*scaling, Json({{"rope_type", "llama3"},
                                {"factor", c.factor},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 8192}}));
    }
  }
  EXPECT_TRUE(llama3_scaling_from({1, 1, 1, 1}, 8, 10000).value().is_null());
  EXPECT_FALSE(llama3_scaling_from({1, 1, 1}, 8, 10000).ok());
  EXPECT_FALSE(llama3_scaling_from({1, 0.5, 1, 1}, 8, 10000).ok());
  EXPECT_FALSE(llama3_scaling_from({4, 1, 2, 1, 8, 3, 1, 1}, 16, 10000).ok());
}

TEST_F(GgufLlamaFile, linear_and_yarn_scaling_are_read_from_the_metadata) {
  const auto scaling_of = [&](const std::function<void(GgufBytes&)>& change) {
    const auto model = open(converted(kModels / "llama", change));
    return model ? model->config().at("rope_scaling") : Json(model.error().message);
  };
  EXPECT_EQ(scaling_of([](GgufBytes& file) {
              file.string("llama.rope.scaling.type", "linear");
              file.real("llama.rope.scaling.factor", 4);
            }),
            Json({{"rope_type", "linear"}, {"factor", 4.0}}));
  EXPECT_EQ(scaling_of([](GgufBytes& file) {
              file.string("llama.rope.scaling.type", "yarn");
              file.real("llama.rope.scaling.factor", 2);
              file.integer("llama.rope.scaling.original_context_length", 64);
            }),
            Json({{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 64}}));
  EXPECT_TRUE(scaling_of([](GgufBytes& file) { file.string("llama.rope.scaling.type", "none"); }).is_null());
  EXPECT_TRUE(scaling_of([](GgufBytes& file) { file.string("llama.rope.scaling.type", "linear"); }).is_null());
  EXPECT_THAT(
      scaling_of([](GgufBytes& file) { file.string("llama.rope.scaling.type", "yarn"); }).get<std::string>(),
      HasSubstr("scaling.factor' is missing"));
  EXPECT_THAT(scaling_of([](GgufBytes& file) {
                file.string("llama.rope.scaling.type", "longrope");
                file.real("llama.rope.scaling.factor", 2);
              }).get<std::string>(),
              HasSubstr("rotary scaling 'longrope' is not supported"));
}

TEST_F(GgufLlamaFile, the_tokenizer_is_read) {
  const auto model = open(converted(kModels / "llama", [](GgufBytes& file) {
    file.string("tokenizer.ggml.model", "gpt2");
    file.string("tokenizer.ggml.pre", "smollm");
    file.value("tokenizer.ggml.tokens", 9, GgufBytes::list<std::string>(8, {"<unk>", "Ġa", "b"}));
    file.value("tokenizer.ggml.token_type", 9, GgufBytes::list<std::int32_t>(5, {3, 1, 1}));
    file.value("tokenizer.ggml.merges", 9, GgufBytes::list<std::string>(8, {"Ġ a"}));
    file.integer("tokenizer.ggml.unknown_token_id", 0);
    file.truth("tokenizer.ggml.add_bos_token", false);
    file.string("tokenizer.chat_template", "{{ x }}");
  }));
  ASSERT_TRUE(model.ok()) << model.error().message;
  const auto tokenizer = model->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->model, "gpt2");
  EXPECT_EQ(tokenizer->pre_tokenizer, "smollm");
  EXPECT_THAT(tokenizer->tokens, ElementsAre("<unk>", "Ġa", "b"));
  EXPECT_THAT(tokenizer->token_types, ElementsAre(3, 1, 1));
  EXPECT_THAT(tokenizer->merges, ElementsAre("Ġ a"));
  EXPECT_EQ(tokenizer->bos_id, 1);
  EXPECT_EQ(tokenizer->eos_id, 2);
  EXPECT_EQ(tokenizer->unknown_id, 0);
  EXPECT_EQ(tokenizer->padding_id, std::nullopt);
  EXPECT_EQ(tokenizer->add_bos, false);
  EXPECT_EQ(tokenizer->add_eos, std::nullopt);
  EXPECT_EQ(tokenizer->chat_template, "{{ x }}");
}

TEST_F(GgufLlamaFile, a_tokenizer_that_contradicts_itself_is_refused) {
  const auto refused = [&](const std::vector<std::string>& tokens, const std::vector<std::int32_t>& types) {
    const auto model = open(converted(kModels / "llama", [&](GgufBytes& file) {
      file.string("tokenizer.ggml.model", "gpt2");
      file.value("tokenizer.ggml.tokens", 9, GgufBytes::list(8, tokens));
      file.value("tokenizer.ggml.token_type", 9, GgufBytes::list(5, types));
    }));
    return model.value().tokenizer().error().message;
  };
  EXPECT_THAT(refused({"a", "b", "c"}, {1, 1}), HasSubstr("3 tokens, but another number of types"));
  EXPECT_THAT(refused({"a", "b"}, {1, 1}), HasSubstr("special token 2, but has 2 tokens"));
  EXPECT_THAT(open(converted(kModels / "llama")).value().tokenizer().error().message,
              HasSubstr("no 'tokenizer.ggml.model'"));
}

TEST_F(GgufLlamaFile, what_cannot_be_run_is_refused_with_a_reason) {
  const fs::path llama = kModels / "llama";
  GgufBytes other;
  other.string("general.architecture", "qwen2");
  expect_refused(other, "architecture is 'qwen2'");
  expect_refused(GgufBytes(), "no 'general.architecture'");
  expect_refused(converted(llama, [](GgufBytes& file) { file.integer("split.count", 3); }), "one of 3 parts");
  expect_refused(converted(llama, [](GgufBytes& file) { file.integer("llama.expert_count", 8); }),
                 "mixture of 8 experts");
  expect_refused(converted(llama, [](GgufBytes& file) { file.integer("llama.attention.value_length", 4); }),
                 "its values 4");
  expect_refused(converted(llama, [](GgufBytes& file) { file.integer("llama.attention.key_length", 6); }),
                 "it rotates 8 of 6 elements");
  expect_refused(
      converted(llama,
                [](GgufBytes& file) { file.tensor("blk.0.ffn_gate_inp.weight", {1}, std::string(4, '\0')); }),
      "tensor 'blk.0.ffn_gate_inp.weight' is not known");
  expect_refused(
      converted(llama, [](GgufBytes& file) { file.tensor("blk.3.attn_q.weight", {1}, std::string(4, '\0')); }),
      "not known in a llama model of 3 layers");
  GgufBytes missing;
  missing.string("general.architecture", "llama");
  for (const char* key :
       {"embedding_length", "block_count", "feed_forward_length", "context_length", "attention.head_count"}) {
    missing.integer(std::string("llama.") + key, 2);
  }
  expect_refused(missing, "no 'llama.attention.layer_norm_rms_epsilon'");
  missing.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  expect_refused(missing, "its heads have 1 elements");
  missing.integer("llama.attention.key_length", 2);
  expect_refused(missing, "no tensor 'token_embd.weight'");
  missing.tensor("token_embd.weight", {5, 2}, std::string(40, '\0'));
  expect_refused(missing, "model.norm.weight in Hugging Face's naming is missing");
  missing.tensor("output_norm.weight", {2}, std::string(8, '\0'));
  expect_refused(missing, "tensor 'blk.0.attn_norm.weight' is missing");
}

}  // namespace
}  // namespace finesweep::worker
