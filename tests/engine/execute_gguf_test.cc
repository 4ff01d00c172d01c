// A GGUF file is a model like any other: the same weights and tokens give the same results as a Hugging Face
// directory.

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/engine/gguf_bytes.h"
#include "tests/engine/gguf_permuted.h"
#include "tests/engine/job_bench.h"
#include "tests/engine/tiny_tokenizer.h"
#include "worker/formats/weight_files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

std::string ggml_name(std::string name) {
  static const std::pair<const char*, const char*> parts[] = {{"model.layers.", "blk."},
                                                              {"self_attn.q_proj", "attn_q"},
                                                              {"self_attn.k_proj", "attn_k"},
                                                              {"self_attn.v_proj", "attn_v"},
                                                              {"self_attn.o_proj", "attn_output"},
                                                              {"mlp.gate_proj", "ffn_gate"},
                                                              {"mlp.up_proj", "ffn_up"},
                                                              {"mlp.down_proj", "ffn_down"},
                                                              {"post_attention_layernorm", "ffn_norm"},
                                                              {"input_layernorm", "attn_norm"},
                                                              {"model.embed_tokens", "token_embd"},
                                                              {"model.norm", "output_norm"},
                                                              {"lm_head", "output"}};
  for (const auto& [from, to] : parts) {
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, std::strlen(from), to);
  }
  return name;
}

/// Tokens by id, with a name for each that the tokenizer does not use.
void add_tokenizer(GgufBytes& file, std::size_t vocabulary, int end) {
  std::vector<std::string> tokens(vocabulary);
  std::vector<std::int32_t> types(vocabulary, 5);
  for (std::size_t id = 0; id < vocabulary; ++id) tokens[id] = "[unused" + std::to_string(id) + "]";
  const Json letters = byte_level_tokenizer(end)["model"]["vocab"];
  for (const auto& [letter, id] : letters.items()) {
    tokens[id.get<std::size_t>()] = letter;
    types[id.get<std::size_t>()] = id == end ? 3 : 1;
  }
  constexpr std::uint32_t a_list = 9, an_int32 = 5, a_text = 8;
  file.string("tokenizer.ggml.model", "gpt2");
  file.string("tokenizer.ggml.pre", "gpt-2");
  file.value("tokenizer.ggml.tokens", a_list, GgufBytes::list(a_text, tokens));
  file.value("tokenizer.ggml.token_type", a_list, GgufBytes::list(an_int32, types));
  file.value("tokenizer.ggml.merges", a_list, GgufBytes::list(a_text, std::vector<std::string>{}));
  file.integer("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(end));
}

/// The model of the bench, as its converter would write it.
std::string as_gguf(const JobBench& bench) {
  const fs::path fixture = fs::path(FINESWEEP_SOURCE_DIR) / "tests/fixtures/models/llama";
  const Json config = Json::parse(std::ifstream(fixture / "config_hub_style.json"));
  const auto number = [&](const char* key) { return config.at(key).get<std::uint32_t>(); };
  GgufBytes file;
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
  add_tokenizer(file, number("vocab_size"), config.at("eos_token_id"));
  const auto weights = WeightFiles::open(bench.model()).value();
  for (const std::string& name : weights.names()) {
    at::Tensor tensor = weights.tensor(name).value();
    if (name.find("q_proj") != std::string::npos) tensor = permuted(tensor, number("num_attention_heads"));
    if (name.find("k_proj") != std::string::npos) tensor = permuted(tensor, number("num_key_value_heads"));
    tensor = tensor.contiguous();
    file.tensor(ggml_name(name), tensor.sizes().vec(),
                {static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()});
  }
  return file.bytes();
}

class GgufJobs : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Execute, GgufJobs, ::testing::Values("full", "lora", "qlora"),
                         [](const auto& info) { return info.param; });

TEST_P(GgufJobs, trains_and_measures_as_the_same_model_in_a_directory) {
  JobBench bench("llama");
  std::map<std::string, double> results[2];
  for (int i = 0; i < 2; ++i) {
    if (i == 1) bench.context["model"] = bench.folder().write("model.gguf", as_gguf(bench)).string();
    Job training = bench.job(StepKind::finetune, bench.finetune_settings(GetParam()));
    training.id = JobId::of("training " + std::to_string(i));
    const Outcome trained = bench.run(training);
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    if (GetParam() == "full") {
      EXPECT_TRUE(fs::exists(bench.artifact(training) / "model/tokenizer.json"));
    }
    Job measuring = bench.job(StepKind::evaluate, bench.evaluate_settings());
    measuring.id = JobId::of("measuring " + std::to_string(i));
    measuring.inputs = {training.id};
    const Outcome measured = bench.run(measuring);
    ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
    results[i] = reproducible(measured);
    results[i]["trained"] = trained.metrics.at("loss");
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace finesweep::worker
