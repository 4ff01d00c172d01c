#include "sweeps/model_info.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "sweeps/gguf_header.h"

namespace finesweep::sweeps {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostConfig = 1 << 20;
constexpr std::uint64_t kMostHeader = 100'000'000;  // the bound of the safetensors library

const std::array<std::string_view, 6> kFamilies{"bert", "roberta", "gpt2", "gpt_neo", "llama", "t5"};

/// Files beside the weights that a model's results depend on.
const std::array<std::string_view, 10> kModelFiles{
    "config.json", "tokenizer.json", "tokenizer_config.json",   "vocab.txt",         "vocab.json",
    "merges.txt",  "spiece.model",   "special_tokens_map.json", "added_tokens.json", "tokenizer.model"};

/// A model's family where config.json names no model_type, from the class that it was saved from.
std::string family_of_architecture(const Json& config) {
  static const std::array<std::pair<std::string_view, std::string_view>, 6> prefixes{{{"Bert", "bert"},
                                                                                      {"Roberta", "roberta"},
                                                                                      {"GPT2", "gpt2"},
                                                                                      {"GPTNeoFor", "gpt_neo"},
                                                                                      {"Llama", "llama"},
                                                                                      {"T5", "t5"}}};
  const auto names = config.find("architectures");
  if (names == config.end() || !names->is_array() || names->empty() || !names->front().is_string()) return "";
  const std::string& name = names->front().get_ref<const std::string&>();
  for (const auto& [prefix, family] : prefixes)
    if (name.starts_with(prefix)) return std::string(family);
  return "";
}

/// The first of several spellings that the config has; what no model has (below 0, above 10⁹) counts as absent.
std::optional<std::int64_t> integer_of(const Json& config, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = config.find(name);
    if (found == config.end() || !found->is_number_integer()) continue;
    const auto value = found->get<double>();
    if (value >= 0 && value <= 1e9) return found->get<std::int64_t>();
  }
  return std::nullopt;
}

/// "blk.3.attn_q.weight" → "model.layers.3.self_attn.q_proj.weight": what targets are matched with.
std::string hugging_face_name(const std::string& name) {
  static const std::array<std::pair<std::string_view, std::string_view>, 9> modules{
      {{"attn_q", "self_attn.q_proj"},
       {"attn_k", "self_attn.k_proj"},
       {"attn_v", "self_attn.v_proj"},
       {"attn_output", "self_attn.o_proj"},
       {"ffn_gate", "mlp.gate_proj"},
       {"ffn_up", "mlp.up_proj"},
       {"ffn_down", "mlp.down_proj"},
       {"attn_norm", "input_layernorm"},
       {"ffn_norm", "post_attention_layernorm"}}};
  const std::size_t first = name.find('.'), second = name.find('.', first + 1), third = name.rfind('.');
  if (!name.starts_with("blk.") || second == std::string::npos || third <= second) return name;
  const std::string_view module = std::string_view(name).substr(second + 1, third - second - 1);
  for (const auto& [ggml, ours] : modules)
    if (module == ggml)
      return std::string("model.layers").append(name, first, second - first + 1).append(ours).append(name, third);
  return name;
}

class ModelReader {
 public:
  ModelReader(const fs::path& path, SweepFiles& files) : path_(path), files_(files) {}

  Result<ModelInfo> read() {
    const auto kind = files_.info(path_).kind;
    if (kind == SweepFiles::Kind::missing) return Error{"no such model: " + path_.string()};
    const Status status = kind == SweepFiles::Kind::file ? read_gguf() : read_directory();
    if (!status) return status.error();
    return std::move(out_);
  }

 private:
  Error problem(const std::string& what) const { return Error{path_.string() + ": " + what}; }

  Status read_gguf() {
    const std::string extension = path_.extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth")
      return problem(
          "pickle files are refused: loading one can run code. Give a directory with safetensors weights");
    if (extension != ".gguf") return problem("expected a Hugging Face directory or a GGUF file");
    const auto header = read_gguf_header(path_, files_);
    if (!header) return problem("cannot be read: " + header.error().message);
    const auto architecture = header->texts.find("general.architecture");
    if (architecture == header->texts.end() || architecture->second != "llama")
      return problem("holds a model of architecture '" +
                     (architecture == header->texts.end() ? std::string("(none)") : architecture->second) +
                     "'; of GGUF files those of llama are supported");
    out_.gguf = true;
    out_.family = "llama";
    const auto integer = [&](const char* key) {
      const auto found = header->integers.find(key);
      return found == header->integers.end() ? std::int64_t{0} : found->second;
    };
    out_.hidden = integer("llama.embedding_length");
    out_.layers = integer("llama.block_count");
    out_.heads = integer("llama.attention.head_count");
    if (out_.hidden <= 0 || out_.layers <= 0 || out_.heads <= 0)
      return problem("lacks the hidden size, the number of layers or the number of heads");
    if (const std::int64_t positions = integer("llama.context_length"); positions > 0) out_.positions = positions;
    const auto tokens = header->list_lengths.find("tokenizer.ggml.tokens");
    if (tokens == header->list_lengths.end()) return problem("holds no tokenizer");
    out_.vocabulary = tokens->second;
    for (const GgufHeader::Tensor& tensor : header->tensors)
      if (Status status =
              count_tensor(path_.filename().string(), hugging_face_name(tensor.name), {"GGUF", tensor.shape});
          !status)
        return status;
    return add_checksum(path_.filename().string(), path_);
  }

  Status read_directory() {
    const auto names = files_.list(path_);
    if (!names) return names.error();
    const std::set<std::string> present(names->begin(), names->end());
    if (!present.contains("config.json"))
      return problem("holds no config.json; expected a Hugging Face model directory, or a GGUF file");
    for (const auto& step : {&ModelReader::read_config, &ModelReader::read_weights, &ModelReader::check_tokenizer})
      if (Status status = (this->*step)(present); !status) return status;
    for (std::string_view name : kModelFiles)
      if (present.contains(std::string(name)))
        if (Status status = add_checksum(std::string(name), path_ / name); !status) return status;
    return {};
  }

  Status add_checksum(const std::string& name, const fs::path& path) {
    const auto digest = files_.sha256(path);
    if (!digest) return digest.error();
    out_.checksums[name] = *digest;
    return {};
  }

  Status read_config(const std::set<std::string>&) {
    const auto text = files_.read_start(path_ / "config.json", kMostConfig);
    if (!text) return text.error();
    const Json config = Json::parse(*text, nullptr, false);
    if (!config.is_object()) return problem("config.json is not a JSON object");
    const auto type = config.find("model_type");
    const bool has_type = type != config.end() && type->is_string();
    out_.family = has_type ? type->get<std::string>() : family_of_architecture(config);
    if (std::find(kFamilies.begin(), kFamilies.end(), out_.family) == kFamilies.end())
      return problem(has_type ? "model_type '" + out_.family +
                                    "' is not supported; supported are bert, roberta, gpt2, "
                                    "gpt_neo, llama and t5"
                              : "config.json names no model_type");
    out_.hidden = integer_of(config, {"hidden_size", "n_embd", "d_model"}).value_or(0);
    out_.layers = integer_of(config, {"num_hidden_layers", "n_layer", "num_layers"}).value_or(0);
    out_.heads = integer_of(config, {"num_attention_heads", "n_head", "num_heads"}).value_or(0);
    out_.vocabulary = integer_of(config, {"vocab_size"}).value_or(0);
    if (out_.hidden <= 0 || out_.layers <= 0 || out_.heads <= 0)
      return problem("config.json lacks the hidden size, the number of layers or the number of heads");
    if (out_.family == "t5") {
      out_.layers += integer_of(config, {"num_decoder_layers"}).value_or(out_.layers);
    } else {
      out_.positions = integer_of(config, {"max_position_embeddings", "n_positions", "n_ctx"});
      // RoBERTa numbers positions from behind its padding id.
      if (out_.family == "roberta" && out_.positions)
        *out_.positions -= integer_of(config, {"pad_token_id"}).value_or(1) + 1;
    }
    return {};
  }

  Status read_weights(const std::set<std::string>& present) {
    if (present.contains("model.safetensors")) return read_weight_file("model.safetensors");
    if (present.contains("model.safetensors.index.json")) return read_shards(present);
    for (const std::string& name : present)
      if (name.ends_with(".bin") || name.ends_with(".pt"))
        return problem("holds pickle weights only (" + name +
                       "): loading them can run code. Convert them to model.safetensors");
    return problem("holds no model.safetensors");
  }

  Status read_shards(const std::set<std::string>& present) {
    const char* index_name = "model.safetensors.index.json";
    const auto text = files_.read_start(path_ / index_name, kMostHeader);
    if (!text) return text.error();
    const Json index = Json::parse(*text, nullptr, false);
    const Json shards = index.is_object() ? index.value("weight_map", Json()) : Json();
    if (!shards.is_object()) return problem(std::string(index_name) + " holds no weight_map");
    std::set<std::string> names;
    for (const Json& name : shards)
      if (name.is_string()) names.insert(name.get<std::string>());
    for (const std::string& name : names) {
      if (!present.contains(name)) return problem(name + " is missing (named in " + index_name + ")");
      if (Status status = read_weight_file(name); !status) return status;
    }
    return add_checksum(index_name, path_ / index_name);
  }

  /// Format: 8 bytes length of the header (little endian), the header in JSON, the tensors.
  Status read_weight_file(const std::string& name) {
    const fs::path file = path_ / name;
    const std::uint64_t bytes = files_.info(file).bytes;
    const auto length_bytes = files_.read_start(file, 8);
    if (!length_bytes) return length_bytes.error();
    std::uint64_t length = 0;
    for (std::size_t i = length_bytes->size(); i-- > 0;)
      length = length << 8 | static_cast<unsigned char>((*length_bytes)[i]);
    if (length_bytes->size() < 8 || length > kMostHeader || length > bytes - 8)
      return problem(name + " is not a safetensors file, or was cut off");
    const auto start = files_.read_start(file, 8 + length);
    if (!start) return start.error();
    const Json header = Json::parse(start->begin() + 8, start->end(), nullptr, false);
    if (!header.is_object()) return problem(name + " is not a safetensors file: its header is not JSON");
    for (const auto& [tensor, entry] : header.items()) {
      if (tensor == "__metadata__") continue;
      if (Status status = add_tensor(name, tensor, entry, bytes - 8 - length); !status) return status;
    }
    return add_checksum(name, file);
  }

  Status add_tensor(const std::string& file, const std::string& name, const Json& entry, std::uint64_t bytes) {
    const Json shape = entry.is_object() ? entry.value("shape", Json()) : Json();
    const Json offsets = entry.is_object() ? entry.value("data_offsets", Json()) : Json();
    bool good = shape.is_array() && offsets.is_array() && offsets.size() == 2 && offsets[1].is_number_unsigned() &&
                entry.value("dtype", Json()).is_string();
    if (good && offsets[1].get<std::uint64_t>() > bytes)
      return problem(file + " was cut off: tensor '" + name + "' lies beyond its end");
    ModelInfo::Tensor tensor;
    for (std::size_t i = 0; good && i < shape.size(); ++i) {
      good = shape[i].is_number_unsigned() && shape[i].get<std::uint64_t>() <= INT64_MAX;
      if (good) tensor.shape.push_back(shape[i].get<std::int64_t>());
    }
    if (!good) return problem(file + ": the header's entry of tensor '" + name + "' cannot be read");
    tensor.dtype = entry["dtype"].get<std::string>();
    return count_tensor(file, name, std::move(tensor));
  }

  Status count_tensor(const std::string& file, const std::string& name, ModelInfo::Tensor tensor) {
    std::int64_t elements = 1;
    for (const std::int64_t size : tensor.shape)
      if (__builtin_mul_overflow(elements, size, &elements) || elements < 0)
        return problem(file + ": the header's entry of tensor '" + name + "' cannot be read");
    if (__builtin_add_overflow(out_.parameters, elements, &out_.parameters)) out_.parameters = INT64_MAX;
    out_.tensors.insert_or_assign(name, std::move(tensor));
    return {};
  }

  Status check_tokenizer(const std::set<std::string>& present) {
    for (const char* name : {"tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model"})
      if (present.contains(name)) return {};
    return problem("holds no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model)");
  }

  fs::path path_;
  SweepFiles& files_;
  ModelInfo out_;
};

/// "encoder.layer.0.attention.self.query.weight" → "…query"; nothing for what is no matrix inside a numbered layer.
std::string_view layer_of(const std::string& tensor, const ModelInfo::Tensor& info) {
  static constexpr std::string_view suffix = ".weight";
  if (info.shape.size() != 2 || !tensor.ends_with(suffix)) return {};
  const std::string_view name = std::string_view(tensor).substr(0, tensor.size() - suffix.size());
  if (name.ends_with("relative_attention_bias")) return {};
  for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
    const std::size_t end = name.find('.', dot + 1);
    if (end == std::string_view::npos) break;
    const std::string_view word = name.substr(dot + 1, end - dot - 1);
    if (!word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos) return name;
  }
  return {};
}

}  // namespace

bool ModelInfo::supports(Task task) const {
  switch (task) {
    case Task::classification:
      return family != "t5";
    case Task::causal_lm:
      return decoder_only();
    case Task::seq2seq:
      return family == "t5";
  }
  return false;
}

bool ModelInfo::has_classification_head() const {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& entry) {
    return entry.first.starts_with("classifier.") || entry.first.starts_with("score.");
  });
}

std::vector<const ModelInfo::Tensor*> ModelInfo::layers_named(const std::string& target) const {
  std::vector<const Tensor*> found;
  for (const auto& [name, tensor] : tensors) {
    const std::string_view layer = layer_of(name, tensor);
    if (!layer.empty() && (layer == target || layer.ends_with("." + target))) found.push_back(&tensor);
  }
  return found;
}

std::vector<std::string> ModelInfo::layer_names() const {
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors)
    if (const std::string_view layer = layer_of(name, tensor); !layer.empty())
      names.emplace(layer.substr(layer.rfind('.') + 1));
  return {names.begin(), names.end()};
}

std::vector<std::string> default_lora_targets(const std::string& family) {
  if (family == "bert" || family == "roberta") return {"query", "value"};
  if (family == "gpt2") return {"c_attn"};
  if (family == "t5") return {"q", "v"};
  return {"q_proj", "v_proj"};
}

std::vector<std::string> default_ia3_targets(const std::string& family) {
  if (family == "bert" || family == "roberta") return {"key", "value", "output.dense"};
  if (family == "gpt2") return {"c_attn", "mlp.c_proj"};
  if (family == "t5") return {"k", "v", "wo"};
  if (family == "gpt_neo") return {"q_proj", "v_proj", "c_proj"};
  return {"k_proj", "v_proj", "down_proj"};
}

const Result<ModelInfo>& ModelCatalog::get(const std::string& path) {
  auto found = known_.find(path);
  if (found == known_.end()) found = known_.emplace(path, ModelReader(path, files_).read()).first;
  return found->second;
}

}  // namespace finesweep::sweeps
