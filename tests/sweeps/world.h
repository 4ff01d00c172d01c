#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/json.h"
#include "sweeps/files.h"
#include "sweeps/sweep.h"

namespace finesweep::sweeps {

/// The beginning of a safetensors file with the given float matrices and vectors; its data is not there, which
/// planning never reads, but its length is right.
inline std::string weight_file(const std::vector<std::pair<std::string, std::vector<std::int64_t>>>& tensors) {
  Json header = Json::object();
  std::uint64_t offset = 0;
  for (const auto& [name, shape] : tensors) {
    std::uint64_t bytes = 4;
    for (std::int64_t size : shape) bytes *= static_cast<std::uint64_t>(size);
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = header.dump();
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(text.size() >> (8 * i) & 255);
  return file + text + std::string(offset, '\0');
}

/// An encoder with `layers` layers whose tensors carry the names that Hugging Face gives them.
inline std::string bert_weights(int layers, std::int64_t hidden, std::int64_t inner,
                                const std::string& prefix = "") {
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors{
      {prefix + "embeddings.word_embeddings.weight", {100, hidden}}};
  for (int i = 0; i < layers; ++i) {
    const std::string layer = prefix + "encoder.layer." + std::to_string(i) + ".";
    for (const char* name :
         {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"})
      tensors.push_back({layer + name + ".weight", {hidden, hidden}});
    tensors.push_back({layer + "intermediate.dense.weight", {inner, hidden}});
    tensors.push_back({layer + "output.dense.weight", {hidden, inner}});
  }
  return weight_file(tensors);
}

/// The header of a GGUF file of a Llama with one layer, hidden size 64; its tensors' data is not there.
inline std::string gguf_file(const std::string& architecture = "llama", std::uint32_t blocks = 1) {
  std::string file = "GGUF";
  const auto put = [&](auto value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto text = [&](const std::string& word) {
    put(std::uint64_t{word.size()});
    file += word;
  };
  const std::vector<std::pair<std::string, std::uint32_t>> numbers{{"llama.embedding_length", 64},
                                                                   {"llama.block_count", blocks},
                                                                   {"llama.attention.head_count", 4},
                                                                   {"llama.context_length", 256}};
  const std::vector<std::pair<std::string, std::vector<std::uint64_t>>> tensors{
      {"token_embd.weight", {64, 100}},
      {"blk.0.attn_q.weight", {64, 64}},
      {"blk.0.attn_k.weight", {64, 32}},
      {"blk.0.attn_v.weight", {64, 32}},
      {"blk.0.ffn_down.weight", {96, 64}}};
  constexpr std::uint32_t version = 3, a_uint32 = 4, a_float = 6, a_text = 8, a_list = 9;
  put(version);
  put(std::uint64_t{tensors.size()});
  put(std::uint64_t{numbers.size() + 3});
  text("general.architecture");
  put(a_text);
  text(architecture);
  text("llama.rope.freq_base");
  put(a_float);
  put(10000.0f);
  for (const auto& [key, value] : numbers) {
    text(key);
    put(a_uint32);
    put(value);
  }
  text("tokenizer.ggml.tokens");
  put(a_list);
  put(a_text);
  put(std::uint64_t{2});
  text("a");
  text("b");
  for (const auto& [name, shape] : tensors) {
    text(name);
    put(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t size : shape) put(size);
    put(std::uint32_t{0});
    put(std::uint64_t{0});
  }
  return file;
}

/// A small world of models and data below `root`, for sweep files at its top.
inline MemoryFiles make_world(const std::filesystem::path& root = "/w") {
  MemoryFiles world;
  auto put = [&](const std::string& name, std::string bytes) { world.files[root / name] = std::move(bytes); };
  auto model = [&](const std::string& name, const Json& config, const std::string& weights) {
    put("models/" + name + "/config.json", config.dump());
    put("models/" + name + "/model.safetensors", weights);
    put("models/" + name + "/tokenizer.json", "{}");
  };
  const Json bert{
      {"model_type", "bert"},          {"hidden_size", 48}, {"num_hidden_layers", 3},  {"num_attention_heads", 4},
      {"max_position_embeddings", 64}, {"vocab_size", 100}, {"intermediate_size", 120}};
  model("bert", bert, bert_weights(3, 48, 120));
  Json other = bert;
  other["hidden_size"] = 32;
  model("bert-small", other, bert_weights(2, 32, 64));
  Json roberta = bert;
  roberta["model_type"] = "roberta";
  roberta["max_position_embeddings"] = 66;
  roberta["pad_token_id"] = 1;
  model("roberta", roberta, bert_weights(3, 48, 120, "roberta."));
  // Configs of older releases spell things so.
  model("gpt2",
        {{"model_type", "gpt2"},
         {"n_embd", 48},
         {"n_layer", 1},
         {"n_head", 4},
         {"n_positions", 64},
         {"vocab_size", 100}},
        weight_file({{"h.0.attn.c_attn.weight", {48, 144}},
                     {"h.0.attn.c_proj.weight", {48, 48}},
                     {"h.0.mlp.c_fc.weight", {48, 192}},
                     {"h.0.mlp.c_proj.weight", {192, 48}}}));
  model("t5", {{"model_type", "t5"}, {"d_model", 40}, {"num_layers", 1}, {"num_heads", 4}, {"vocab_size", 100}},
        weight_file({{"encoder.block.0.layer.0.SelfAttention.q.weight", {32, 40}},
                     {"encoder.block.0.layer.0.SelfAttention.v.weight", {32, 40}}}));
  Json with_head = bert;
  model("bert-with-head", with_head,
        weight_file({{"bert.encoder.layer.0.attention.self.query.weight", {48, 48}},
                     {"bert.encoder.layer.0.attention.self.value.weight", {48, 48}},
                     {"classifier.weight", {2, 48}}}));
  Json old = bert;
  old.erase("model_type");
  old["architectures"] = {"BertForMaskedLM"};
  model("bert-without-type", old, bert_weights(3, 48, 120));

  Json strange = bert;
  strange["model_type"] = "mamba";
  model("mamba", strange, bert_weights(1, 48, 120));
  put("models/pickle/config.json", bert.dump());
  put("models/pickle/pytorch_model.bin", "PK");
  put("models/pickle/vocab.txt", "[PAD]\n");
  put("models/no-weights/config.json", bert.dump());
  put("models/no-config/model.safetensors", bert_weights(1, 48, 120));
  put("models/no-tokenizer/config.json", bert.dump());
  put("models/no-tokenizer/model.safetensors", bert_weights(1, 48, 120));
  model("cut-off", bert, bert_weights(3, 48, 120).substr(0, 5000));
  model("not-weights", bert, "this is no safetensors file");
  put("models/shard-missing/config.json", bert.dump());
  put("models/shard-missing/model.safetensors.index.json",
      R"({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})");
  put("models/shard-missing/model-00001-of-00002.safetensors", bert_weights(1, 48, 120));
  put("models/tiny.gguf", gguf_file());
  put("models/mixtral.gguf", gguf_file("mixtral"));
  put("models/cut-off.gguf", gguf_file().substr(0, 200));
  put("models/weights.pt", "PK");

  for (const char* split : {"train", "validation", "test"}) {
    const std::string name(split);
    put("data/" + name + ".jsonl", R"({"text": ")" + name + R"( one", "label": 1, "ref": "a"})" + "\n" +
                                       R"({"text": "two", "label": 0, "ref": "b"})" + "\n");
    put("data/pairs/" + name + ".jsonl", R"({"text_a": ")" + name + R"(", "text_b": "b", "label": 0})" + "\n");
    put("data/summaries/" + name + ".jsonl", R"({"source": ")" + name + R"(", "target": "t"})" + "\n");
    put("data/plain/" + name + ".csv", "text,kind\n\"one, " + name + "\",a\n");
  }
  put("data/empty.jsonl", "\n  \n");
  put("data/heading.csv", "text,label\n");
  put("data/broken.jsonl", "text one\n");
  put("data/list.jsonl", "[1, 2]\n");
  for (const char* split : {"train", "validation"}) put(std::string("data/") + split + ".txt", "text\n");
  put("data/blank.txt", "\n \n");
  put("data/train.parquet", "PAR1");
  return world;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Parses `text` as /w/sweep.yaml. Lines "#set PATH=VALUE" at its start are overrides, given in the folder
/// /elsewhere.
inline SweepParse parse_in_world(const std::string& text, SweepFiles& world,
                                 const std::filesystem::path& file = "/w/sweep.yaml") {
  SweepRequest request;
  request.file = file;
  request.override_base = "/elsewhere";
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line) && line.starts_with("#set ");)
    request.overrides.push_back(line.substr(5));
  return parse_sweep_text(text, request, world);
}

/// Tests that compare with files write them instead where this is set.
inline bool update_expected() {
  return std::getenv("FINESWEEP_UPDATE_EXPECTED") != nullptr;
}

}  // namespace finesweep::sweeps
