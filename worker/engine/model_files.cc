#include "worker/engine/model_files.h"

#include <optional>
#include <string>
#include <utility>

#include "storage/files.h"
#include "worker/formats/gguf_llama.h"
#include "worker/models/family.h"
#include "worker/tokenizers/bpe.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// The files that Hugging Face's tokenizers are read from.
constexpr const char* tokenizer_files[] = {"tokenizer.json", "vocab.txt",    "vocab.json",
                                           "merges.txt",     "spiece.model", "tokenizer.model"};
constexpr const char* further_files[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                         "generation_config.json", "chat_template.jinja"};

/// An object; empty where the file is not there or holds none.
Json read_json(const fs::path& file) {
  const auto text = storage::read_file(file);
  if (!text) return Json::object();
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

/// One integer or a list of them.
std::vector<std::int64_t> integers_of(const Json& value) {
  std::vector<std::int64_t> ids;
  if (value.is_number_integer()) ids.push_back(value.get<std::int64_t>());
  if (!value.is_array()) return ids;
  for (const Json& id : value) {
    if (id.is_number_integer()) ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

std::optional<TokenId> token_id(const std::optional<std::int64_t>& id) {
  if (!id) return std::nullopt;
  return static_cast<TokenId>(*id);  // checked against the vocabulary when the file was read
}

BpeVocabulary bpe_vocabulary(GgufTokenizer tokenizer) {
  BpeVocabulary vocabulary;
  vocabulary.tokens = std::move(tokenizer.tokens);
  vocabulary.merges = std::move(tokenizer.merges);
  vocabulary.token_types.assign(tokenizer.token_types.begin(), tokenizer.token_types.end());
  if (!tokenizer.pre_tokenizer.empty()) vocabulary.pre_tokenizer = std::move(tokenizer.pre_tokenizer);
  vocabulary.begin = token_id(tokenizer.bos_id);
  vocabulary.end = token_id(tokenizer.eos_id);
  vocabulary.unknown = token_id(tokenizer.unknown_id);
  vocabulary.pad = token_id(tokenizer.padding_id);
  vocabulary.add_begin = tokenizer.add_bos.value_or(false);
  vocabulary.add_end = tokenizer.add_eos.value_or(false);
  vocabulary.add_space_prefix = tokenizer.add_space_prefix.value_or(false);
  return vocabulary;
}

Result<GgufTokenizer> read_gguf_tokenizer(const fs::path& model) {
  const auto file = GgufLlama::open(model);
  if (!file) return file.error();
  auto kept = file->tokenizer();
  if (!kept || kept->model == "gpt2") return kept;
  return Error{
      model.string() + ": its tokenizer is of the kind '" + kept->model +
      "'; of GGUF files byte-level BPE ('gpt2') is supported. Give the model as a Hugging Face directory."};
}

Status write_gguf_tokenizer(const fs::path& model, const fs::path& to) {
  auto kept = read_gguf_tokenizer(model);
  if (!kept) return kept.error();
  const auto chat_template = kept->chat_template;
  auto files = bpe_tokenizer_json(bpe_vocabulary(std::move(*kept)));
  if (!files) return Error{model.string() + ": " + files.error().message};
  if (chat_template) files->config["chat_template"] = *chat_template;
  if (Status written = storage::write_file_atomically(to / "tokenizer.json", files->tokenizer.dump()); !written) {
    return written;
  }
  return storage::write_file_atomically(to / "tokenizer_config.json", files->config.dump(2) + "\n");
}

}  // namespace

bool holds_tokenizer(const fs::path& model) {
  std::error_code ignored;
  for (const char* name : tokenizer_files) {
    if (fs::exists(model / name, ignored)) return true;
  }
  return false;
}

bool holds_quantized_weights(const fs::path& model) {
  std::error_code ignored;
  return fs::is_directory(model, ignored) && read_json(model / "config.json").contains("quantization_config");
}

std::string family_of(const fs::path& model) {
  std::error_code ignored;
  if (fs::is_regular_file(model, ignored)) return "llama";
  const Json type = read_json(model / "config.json").value("model_type", Json());
  return type.is_string() ? type.get<std::string>() : "";
}

std::optional<TokenId> end_padding_of(const fs::path& model) {
  const Family* const family = find_family(family_of(model));
  if (family == nullptr || !family->pools_last_token) return std::nullopt;
  std::error_code ignored;
  if (!fs::is_directory(model, ignored)) return std::nullopt;
  const Json config = read_json(model / "config.json");
  const auto id = config.find("pad_token_id");
  if (id == config.end() || !id->is_number_unsigned()) return std::nullopt;
  return id->get<TokenId>();
}

Result<std::unique_ptr<Tokenizer>> load_model_tokenizer(const fs::path& model) {
  std::error_code ignored;
  if (!fs::is_regular_file(model, ignored)) return load_tokenizer(model);
  auto kept = read_gguf_tokenizer(model);
  if (!kept) return kept.error();
  auto tokenizer = make_bpe_tokenizer(bpe_vocabulary(std::move(*kept)));
  if (!tokenizer) return Error{model.string() + ": " + tokenizer.error().message};
  return tokenizer;
}

Status copy_model_files(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  if (fs::is_regular_file(from, ignored)) return write_gguf_tokenizer(from, to);
  const auto copy = [&](const char* name) -> Status {
    std::error_code error;
    if (!fs::exists(from / name, error)) return {};
    fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing, error);
    if (error) return Error{(to / name).string() + ": cannot be written: " + error.message()};
    return {};
  };
  for (const char* name : tokenizer_files) {
    if (Status copied = copy(name); !copied) return copied;
  }
  for (const char* name : further_files) {
    if (Status copied = copy(name); !copied) return copied;
  }
  return {};
}

std::optional<std::int64_t> decoder_positions(const fs::path& model) {
  std::error_code ignored;
  Json config;
  if (fs::is_regular_file(model, ignored)) {
    const auto file = GgufLlama::open(model);
    if (!file) return std::nullopt;
    config = file->config();
  } else {
    config = read_json(model / "config.json");
  }
  for (const char* key : {"n_positions", "max_position_embeddings"}) {
    if (const auto found = integers_of(config.value(key, Json())); !found.empty()) return found.front();
  }
  return std::nullopt;
}

TextBounds text_bounds(const fs::path& model, const Tokenizer& tokenizer) {
  TextBounds bounds;
  std::optional<std::int64_t> start;
  for (const char* name : {"generation_config.json", "config.json"}) {
    const Json json = read_json(model / name);
    if (bounds.end_ids.empty()) bounds.end_ids = integers_of(json.value("eos_token_id", Json()));
    for (const char* key : {"decoder_start_token_id", "pad_token_id"}) {
      if (const auto ids = integers_of(json.value(key, Json())); !start && !ids.empty()) start = ids.front();
    }
  }
  if (bounds.end_ids.empty() && tokenizer.traits().end) bounds.end_ids.push_back(*tokenizer.traits().end);
  bounds.decoder_start_id = start.value_or(0);
  return bounds;
}

}  // namespace finesweep::worker
