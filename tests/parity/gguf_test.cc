// A published GGUF file, tensor by tensor, against the facts of the fixtures. scripts/setup --models fetches it.

#include "worker/formats/gguf.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "jobs/sha256.h"
#include "tests/parity/models.h"
#include "worker/formats/gguf_llama.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using namespace finesweep::worker;

std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.contiguous();
  return to_hex(sha256({static_cast<const char*>(values.data_ptr()), values.nbytes()}));
}

void expect_value(const GgufFile& file, const std::string& key, const nlohmann::json& expected) {
  SCOPED_TRACE(key);
  if (expected.is_boolean()) {
    EXPECT_EQ(file.value<bool>(key).value(), expected.get<bool>());
  } else if (expected.is_string()) {
    EXPECT_EQ(file.value<std::string>(key).value(), expected.get<std::string>());
  } else if (expected.is_number_integer()) {
    EXPECT_EQ(file.value<std::int64_t>(key).value(), expected.get<std::int64_t>());
  } else if (expected.is_number()) {
    EXPECT_EQ(static_cast<float>(file.value<double>(key).value()), expected.get<float>());
  } else {
    ASSERT_TRUE(expected.is_array() && !expected.empty() && expected[0].is_string());
    EXPECT_EQ(file.value<std::vector<std::string>>(key).value(), expected.get<std::vector<std::string>>());
  }
}

TEST(GgufParity, metadata_and_tensors_are_where_the_reference_finds_them) {
  const auto files = known_gguf_files();
  if (files.empty()) GTEST_SKIP() << "no GGUF file of the fixtures is in models/";
  for (const auto& [facts, path] : files) {
    const auto opened = GgufFile::open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    for (const auto& [key, value] : facts.at("metadata").items()) expect_value(*opened, key, value);
    EXPECT_EQ(opened->names().size(), facts.at("tensors").size());
    for (const auto& tensor : facts.at("tensors")) {
      const auto name = tensor.at("name").get<std::string>();
      const GgufTensorEntry* entry = opened->find(name);
      ASSERT_NE(entry, nullptr) << name;
      auto shape = tensor.at("shape_gguf").get<std::vector<std::int64_t>>();
      std::reverse(shape.begin(), shape.end());
      EXPECT_EQ(entry->shape, shape) << name;
      EXPECT_EQ(entry->type->name, tensor.at("type").get<std::string>()) << name;
      EXPECT_EQ(entry->begin, tensor.at("offset").get<std::uint64_t>()) << name;
      EXPECT_EQ(entry->end - entry->begin, tensor.at("bytes").get<std::uint64_t>()) << name;
    }
  }
}

TEST(GgufParity, tensors_are_dequantised_to_the_bits_of_the_reference) {
  const auto files = known_gguf_files();
  if (files.empty()) GTEST_SKIP() << "no GGUF file of the fixtures is in models/";
  for (const auto& [facts, path] : files) {
    const auto model = GgufLlama::open(path);
    ASSERT_TRUE(model.ok()) << model.error().message;
    ASSERT_FALSE(facts.at("dequantised").empty());
    for (const auto& expected : facts.at("dequantised")) {
      const auto name = expected.at("name").get<std::string>();
      SCOPED_TRACE(name);
      const auto tensor = model->file().tensor(name);
      ASSERT_TRUE(tensor.ok()) << tensor.error().message;
      const auto first = expected.at("first16").get<std::vector<double>>();
      for (std::size_t i = 0; i < first.size(); ++i)
        EXPECT_NEAR(tensor->const_data_ptr<float>()[i], first[i], 1e-6);
      EXPECT_EQ(hash_of(*tensor), expected.at("sha256_f32_le").get<std::string>());
      if (!expected.contains("hf_layout_sha256_f32_le")) continue;
      int found = 0;
      for (const std::string& hugging_face : model->names()) {
        if (model->find(hugging_face) != model->file().find(name)) continue;
        const auto rows = model->tensor(hugging_face);
        ASSERT_TRUE(rows.ok()) << rows.error().message;
        EXPECT_EQ(hash_of(*rows), expected.at("hf_layout_sha256_f32_le").get<std::string>());
        ++found;
      }
      EXPECT_EQ(found, 1);
    }
  }
}

TEST(GgufParity, a_llama_file_gives_a_config_and_a_tokenizer) {
  const auto files = known_gguf_files();
  if (files.empty()) GTEST_SKIP() << "no GGUF file of the fixtures is in models/";
  for (const auto& [facts, path] : files) {
    const auto model = GgufLlama::open(path).value();
    const auto& metadata = facts.at("metadata");
    const auto& config = model.config();
    EXPECT_EQ(config.at("hidden_size"), metadata.at("llama.embedding_length"));
    EXPECT_EQ(config.at("num_hidden_layers"), metadata.at("llama.block_count"));
    EXPECT_EQ(config.at("num_key_value_heads"), metadata.at("llama.attention.head_count_kv"));
    EXPECT_EQ(config.at("vocab_size"), metadata.at("llama.vocab_size"));
    EXPECT_EQ(config.at("rope_theta"), metadata.at("llama.rope.freq_base"));
    EXPECT_FLOAT_EQ(config.at("rms_norm_eps").get<float>(),
                    metadata.at("llama.attention.layer_norm_rms_epsilon").get<float>());
    EXPECT_EQ(config.at("eos_token_id"), metadata.at("tokenizer.ggml.eos_token_id"));
    const auto tokenizer = model.tokenizer();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    EXPECT_EQ(tokenizer->tokens.size(), config.at("vocab_size").get<std::size_t>());
    EXPECT_EQ(tokenizer->token_types.size(), tokenizer->tokens.size());
    EXPECT_FALSE(tokenizer->merges.empty());
    EXPECT_EQ(tokenizer->pre_tokenizer, metadata.at("tokenizer.ggml.pre").get<std::string>());
    EXPECT_EQ(tokenizer->chat_template, metadata.at("tokenizer.chat_template").get<std::string>());

    // What the loader does; the time is for whoever reads the log of the test.
    const auto begin = std::chrono::steady_clock::now();
    std::int64_t values = 0;
    std::vector<at::Tensor> tensors;
    for (const std::string& name : model.names()) {
      tensors.push_back(model.tensor(name).value());
      values += tensors.back().numel();
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    std::printf("%s: %lld values in fp32 in %.3f s with %d threads\n", path.filename().c_str(),
                static_cast<long long>(values), time.count(), at::get_num_threads());
  }
}

}  // namespace
}  // namespace finesweep::parity
