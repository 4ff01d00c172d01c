#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "jobs/json.h"
#include "storage/files.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/wordpiece.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// A part of tokenizer.json that we cannot honour. Caught in load_tokenizer.
struct Unsupported {
  std::string what;
};

Result<Json> read_json(const fs::path& path) {
  auto text = storage::read_file(path);
  if (!text) return text.error();
  return parse_json(*text, path.string());
}

std::string type_of(const Json& component) {
  return component.is_object() ? component.value("type", std::string()) : std::string();
}

bool boolean(const Json& json, const char* key, bool otherwise) {
  const auto found = json.find(key);
  return found != json.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

/// A special token of tokenizer_config.json: text, or an object with its content.
std::optional<std::string> token_text(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content")) return (*found)["content"].get<std::string>();
  return std::nullopt;
}

AddedToken read_added_token(const Json& json, TokenId id) {
  AddedToken token;
  token.content = json.at("content").get<std::string>();
  token.id = id;
  token.single_word = boolean(json, "single_word", false);
  token.lstrip = boolean(json, "lstrip", false);
  token.rstrip = boolean(json, "rstrip", false);
  token.special = boolean(json, "special", false);
  token.normalized = boolean(json, "normalized", !token.special);
  return token;
}

BertTextOptions read_normalizer(const Json& normalizer) {
  BertTextOptions options{false, false, false, false};
  if (normalizer.is_null()) return options;
  if (type_of(normalizer) != "BertNormalizer") throw Unsupported{"the normalizer '" + type_of(normalizer) + "'"};
  options.clean_text = boolean(normalizer, "clean_text", true);
  options.separate_ideographs = boolean(normalizer, "handle_chinese_chars", true);
  options.lowercase = boolean(normalizer, "lowercase", true);
  options.strip_accents = boolean(normalizer, "strip_accents", options.lowercase);
  return options;
}

SequenceTemplate bert_template(TokenId classify, TokenId separator) {
  SequenceTemplate around;
  around.single = {{-1, {classify}, 0}, {0, {}, 0}, {-1, {separator}, 0}};
  around.pair = around.single;
  around.pair.push_back({1, {}, 1});
  around.pair.push_back({-1, {separator}, 1});
  return around;
}

SequenceTemplate read_post_processor(const Json& json) {
  SequenceTemplate around;
  if (json.is_null()) return around;
  const std::string type = type_of(json);
  if (type == "BertProcessing") return bert_template(json.at("cls").at(1), json.at("sep").at(1));
  if (type != "TemplateProcessing") throw Unsupported{"the post-processor '" + type + "'"};
  const auto read = [&](const Json& pieces) {
    std::vector<SequenceTemplate::Piece> result;
    for (const Json& piece : pieces) {
      SequenceTemplate::Piece made;
      const bool is_text = piece.contains("Sequence");
      const Json& body = piece.at(is_text ? "Sequence" : "SpecialToken");
      made.type_id = body.at("type_id");
      if (is_text) {
        made.sequence = body.at("id") == "A" ? 0 : 1;
      } else {
        made.ids =
            json.at("special_tokens").at(body.at("id").get<std::string>()).at("ids").get<std::vector<TokenId>>();
      }
      result.push_back(std::move(made));
    }
    return result;
  };
  around.single = read(json.at("single"));
  around.pair = read(json.at("pair"));
  return around;
}

/// What tokenizer_config.json says explicitly wins over tokenizer.json, as in the transformers package.
void apply_config(const Json& config, BertTextOptions& text) {
  const bool followed = text.strip_accents == text.lowercase;
  const bool lowercase = boolean(config, "do_lower_case", text.lowercase);
  if (lowercase != text.lowercase && followed) text.strip_accents = lowercase;
  text.lowercase = lowercase;
  text.strip_accents = boolean(config, "strip_accents", text.strip_accents);
  text.separate_ideographs = boolean(config, "tokenize_chinese_chars", text.separate_ideographs);
}

WordPieceModel read_wordpiece(const Json& json) {
  WordPieceModel model;
  const Json& wordpiece = json.at("model");
  for (const auto& [token, id] : wordpiece.at("vocab").items()) model.vocabulary.emplace_back(token, id);
  model.unknown_token = wordpiece.value("unk_token", model.unknown_token);
  model.continuing_prefix = wordpiece.value("continuing_subword_prefix", model.continuing_prefix);
  model.max_word_characters = wordpiece.value("max_input_chars_per_word", model.max_word_characters);
  model.text = read_normalizer(json.value("normalizer", Json()));
  if (const auto pre = json.value("pre_tokenizer", Json()); type_of(pre) != "BertPreTokenizer") {
    throw Unsupported{"the pre-tokenizer '" + type_of(pre) + "'"};
  }
  if (const auto decoder = json.value("decoder", Json()); !decoder.is_null()) {
    if (type_of(decoder) != "WordPiece") throw Unsupported{"the decoder '" + type_of(decoder) + "'"};
    model.decoder_prefix = decoder.value("prefix", model.decoder_prefix);
    model.clean_up_decoded = boolean(decoder, "cleanup", true);
  }
  for (const Json& token : json.value("added_tokens", Json::array())) {
    model.added_tokens.push_back(read_added_token(token, token.at("id")));
  }
  return model;
}

/// vocab.txt: one token a line, the line's number is its id.
WordPieceModel read_vocabulary(const std::string& text, const Json& config) {
  WordPieceModel model;
  std::map<std::string, TokenId> ids;
  TokenId id = 0;
  for (std::size_t begin = 0; begin < text.size(); ++id) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string token = text.substr(begin, end - begin);
    if (!token.empty() && token.back() == '\r') token.pop_back();
    ids[token] = id;
    model.vocabulary.emplace_back(std::move(token), id);
    begin = end + 1;
  }
  model.text.strip_accents = boolean(config, "do_lower_case", true);
  model.unknown_token = token_text(config, "unk_token").value_or(model.unknown_token);

  const Json described = config.value("added_tokens_decoder", Json::object());
  for (const auto& [key, token] : described.items()) {
    model.added_tokens.push_back(read_added_token(token, static_cast<TokenId>(std::stol(key))));
  }
  const std::pair<const char*, const char*> roles[] = {{"unk_token", "[UNK]"},
                                                       {"sep_token", "[SEP]"},
                                                       {"pad_token", "[PAD]"},
                                                       {"cls_token", "[CLS]"},
                                                       {"mask_token", "[MASK]"}};
  for (const auto& [key, usual] : roles) {
    const std::string content = token_text(config, key).value_or(usual);
    const auto known = ids.find(content);
    const bool is_described = std::any_of(model.added_tokens.begin(), model.added_tokens.end(),
                                          [&](const AddedToken& token) { return token.content == content; });
    if (known == ids.end() || is_described) continue;
    AddedToken token;
    token.content = content;
    token.id = known->second;
    token.special = true;
    model.added_tokens.push_back(std::move(token));
  }
  return model;
}

/// The parts that do not depend on the kind of model.
TokenizerTraits read_traits(const Json& json, const Json& config,
                            const std::function<std::optional<TokenId>(const std::string&)>& id_of) {
  TokenizerTraits traits;
  const auto role = [&](const char* key, const char* usual) -> std::optional<TokenId> {
    if (const auto text = token_text(config, key)) return id_of(*text);
    return usual != nullptr ? id_of(usual) : std::nullopt;
  };
  traits.pad = role("pad_token", "[PAD]");
  traits.unknown = role("unk_token", "[UNK]");
  traits.classify = role("cls_token", "[CLS]");
  traits.separator = role("sep_token", "[SEP]");
  traits.mask = role("mask_token", "[MASK]");
  traits.begin = role("bos_token", nullptr);
  traits.end = role("eos_token", nullptr);
  traits.sequence_template = read_post_processor(json.value("post_processor", Json()));

  const auto side = [&](const char* key) {
    return config.value(key, std::string("right")) == "left" ? Side::left : Side::right;
  };
  traits.padding_side = side("padding_side");
  traits.truncation_side = side("truncation_side");
  traits.pad_type_id = config.value("pad_token_type_id", 0);
  if (const auto limit = config.find("model_max_length"); limit != config.end() && limit->is_number()) {
    // "No limit" is written as 1e30.
    if (limit->get<double>() > 0 && limit->get<double>() < 1e9)
      traits.model_max_length = limit->get<std::int64_t>();
  }
  if (const auto inputs = config.find("model_input_names"); inputs != config.end() && inputs->is_array()) {
    traits.gives_type_ids = std::find(inputs->begin(), inputs->end(), "token_type_ids") != inputs->end();
  } else {
    traits.gives_type_ids = !config.value("tokenizer_class", std::string()).starts_with("DistilBert");
  }
  return traits;
}

Result<std::unique_ptr<Tokenizer>> load(const fs::path& directory, const fs::path& file) {
  const bool from_json = file.extension() == ".json";
  Json config = Json::object();
  if (fs::exists(directory / "tokenizer_config.json")) {
    auto read = read_json(directory / "tokenizer_config.json");
    if (!read) return read.error();
    config = std::move(*read);
  }
  Json json = Json::object();
  WordPieceModel model;
  if (from_json) {
    auto read = read_json(file);
    if (!read) return read.error();
    json = std::move(*read);
    const std::string type = type_of(json.at("model"));
    if (type != "WordPiece") throw Unsupported{"the tokenizer model '" + type + "'"};
    model = read_wordpiece(json);
  } else {
    auto text = storage::read_file(file);
    if (!text) return text.error();
    model = read_vocabulary(*text, config);
  }
  apply_config(config, model.text);

  std::map<std::string, TokenId, std::less<>> ids(model.vocabulary.begin(), model.vocabulary.end());
  for (const auto& token : model.added_tokens) ids[token.content] = token.id;
  TokenizerTraits traits = read_traits(json, config, [&](const std::string& token) -> std::optional<TokenId> {
    const auto found = ids.find(token);
    return found == ids.end() ? std::nullopt : std::optional(found->second);
  });
  if (!from_json) {
    if (!traits.classify || !traits.separator) {
      return Error{"Cannot use the tokenizer file " + file.string() +
                   ": its vocabulary lacks the tokens that begin and separate texts ([CLS] and [SEP])."};
    }
    traits.sequence_template = bert_template(*traits.classify, *traits.separator);
  }
  auto tokenizer = WordPieceTokenizer::make(model, std::move(traits));
  if (!tokenizer)
    return Error{"Cannot use the tokenizer file " + file.string() + ": " + tokenizer.error().message + "."};
  return std::unique_ptr<Tokenizer>(std::move(*tokenizer));
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const fs::path& directory) {
  std::error_code ignored;
  fs::path file = directory / "tokenizer.json";
  if (!fs::exists(file, ignored)) file = directory / "vocab.txt";
  if (!fs::exists(file, ignored)) {
    return Error{"Cannot find a tokenizer in " + directory.string() +
                 ": it holds neither tokenizer.json nor vocab.txt. Put the files that came with the model there."};
  }
  try {
    return load(directory, file);
  } catch (const Unsupported& unsupported) {
    return Error{"Cannot use the tokenizer file " + file.string() + ": " + unsupported.what + " is not supported."};
  } catch (const std::exception& exception) {
    return Error{"Cannot use the tokenizer file " + file.string() + ": it is damaged (" + exception.what() + ")."};
  }
}

}  // namespace finesweep::worker
