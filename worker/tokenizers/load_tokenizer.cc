#include <array>

#include "storage/files.h"
#include "worker/tokenizers/tokenizer_files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

using Load = Result<std::unique_ptr<Tokenizer>> (*)(const TokenizerFiles&);

struct Layout {
  const char* file;
  const char* beside;  // must be there too; may be null
  Load load;
};
// Looked for in this order where there is no tokenizer.json.
constexpr std::array<Layout, 3> layouts{{{"vocab.json", "merges.txt", load_bpe},
                                         {"spiece.model", nullptr, load_unigram},
                                         {"vocab.txt", nullptr, load_wordpiece}}};

Result<Json> read_json(const fs::path& path) {
  auto text = storage::read_file(path);
  if (!text) return text.error();
  return parse_json(*text, path.string());
}

/// An object, empty where there is no such file.
Result<Json> read_object(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return Json::object();
  auto json = read_json(path);
  if (json && !json->is_object())
    return Error{"Cannot use the tokenizer file " + path.string() + ": it is no JSON object."};
  return json;
}

Status read_settings(TokenizerFiles& files) {
  auto config = read_object(files.directory / "tokenizer_config.json");
  if (!config) return config.error();
  files.config = std::move(*config);
  auto special = read_object(files.directory / "special_tokens_map.json");
  if (!special) return special.error();
  for (const auto& [key, value] : special->items()) {
    if (!files.config.contains(key)) files.config[key] = value;
  }
  auto model = read_object(files.directory / "config.json");
  if (!model) return model.error();
  files.model_type = text_or(*model, "model_type", "");
  return {};
}

/// tokenizer.json names its kind; older ones leave it to be told by what the model has.
Load loader_of(const Json& model) {
  const std::string type = type_of(model);
  if (type == "WordPiece") return load_wordpiece;
  if (type == "BPE") return load_bpe;
  if (type == "Unigram") return load_unigram;
  if (!type.empty()) throw Unsupported{"the tokenizer model '" + type.substr(0, 40) + "'"};
  if (model.contains("merges")) return load_bpe;
  return member(model, "vocab").is_array() ? load_unigram : load_wordpiece;
}

/// Ids that the template puts around texts must be tokens.
Status check_template(const Tokenizer& tokenizer) {
  const SequenceTemplate& around = tokenizer.traits().sequence_template;
  for (const auto* pieces : {&around.single, &around.pair}) {
    for (const auto& piece : *pieces) {
      for (const TokenId id : piece.ids) {
        if (id >= 0 && id < tokenizer.vocabulary_size()) continue;
        return Error{"its post-processor adds the id " + std::to_string(id) + ", which no token has"};
      }
    }
  }
  return {};
}

Result<std::unique_ptr<Tokenizer>> load(TokenizerFiles& files, Load loader) {
  const auto in_file = [&](const std::string& reason) {
    return Error{"Cannot use the tokenizer file " + files.vocabulary.string() + ": " + reason + "."};
  };
  try {
    if (auto status = read_settings(files); !status) return status.error();
    if (loader == nullptr) {
      auto json = read_json(files.vocabulary);
      if (!json) return json.error();
      files.json = std::move(*json);
      loader = loader_of(files.json.at("model"));
    }
    auto tokenizer = loader(files);
    if (!tokenizer) return in_file(tokenizer.error().message);
    if (auto status = check_template(**tokenizer); !status) return in_file(status.error().message);
    return tokenizer;
  } catch (const Unsupported& unsupported) {
    return in_file(unsupported.what + " is not supported");
  } catch (const std::exception& exception) {
    return in_file(std::string("it is damaged (") + exception.what() + ")");
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const fs::path& directory) {
  std::error_code ignored;
  TokenizerFiles files;
  files.directory = directory;
  files.vocabulary = directory / "tokenizer.json";
  if (fs::exists(files.vocabulary, ignored)) return load(files, nullptr);
  for (const Layout& layout : layouts) {
    files.vocabulary = directory / layout.file;
    if (!fs::exists(files.vocabulary, ignored)) continue;
    if (layout.beside != nullptr && !fs::exists(directory / layout.beside, ignored)) {
      return Error{"Cannot find a tokenizer in " + directory.string() + ": it holds " + layout.file + " but not " +
                   layout.beside + ". Put all files that came with the model there."};
    }
    return load(files, layout.load);
  }
  return Error{
      "Cannot find a tokenizer in " + directory.string() +
      ": it holds neither tokenizer.json nor vocab.json with merges.txt, spiece.model or vocab.txt. Put the "
      "files that came with the model there."};
}

}  // namespace finesweep::worker
