#include "worker/tokenizers/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

namespace finesweep::worker {
namespace {

struct Role {
  const char* key;
  std::string TokenRoles::*text;
};
constexpr Role roles[] = {{"pad_token", &TokenRoles::pad},      {"unk_token", &TokenRoles::unknown},
                          {"cls_token", &TokenRoles::classify}, {"sep_token", &TokenRoles::separator},
                          {"mask_token", &TokenRoles::mask},    {"bos_token", &TokenRoles::begin},
                          {"eos_token", &TokenRoles::end}};

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

/// Collects added tokens; a later one with the same text replaces the flags of the earlier.
class AddedTokens {
 public:
  /// The vocabulary must outlive the object.
  explicit AddedTokens(const Vocabulary& vocabulary) {
    ids_.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary) {
      ids_[token] = id;
      pass(id);
    }
  }
  void add(AddedToken token) {
    const auto [place, is_new] = index_.try_emplace(token.content, tokens_.size());
    if (is_new) {
      pass(token.id);
      tokens_.push_back(std::move(token));
    } else {
      token.id = tokens_[place->second].id;
      tokens_[place->second] = std::move(token);
    }
  }
  /// A special token: text, or an object with its flags.
  void add_special(const Json& value) {
    AddedToken token;
    if (value.is_object() && value.contains("content")) {
      token = read_added_token(value, 0);
      token.normalized = boolean(value, "normalized", false);
    } else if (value.is_string()) {
      token.content = value.get<std::string>();
    }
    if (token.content.empty() || index_.contains(token.content)) return;
    token.special = true;
    const auto known = ids_.find(token.content);
    token.id = known != ids_.end() ? known->second : next_id_;
    add(std::move(token));
  }
  bool knows(const std::string& content) const { return ids_.contains(content) || index_.contains(content); }
  bool has(const std::string& content) const { return index_.contains(content); }
  std::vector<AddedToken> take() { return std::move(tokens_); }

 private:
  void pass(TokenId id) {
    if (id >= next_id_ && id < 1 << 30) next_id_ = id + 1;
  }
  std::unordered_map<std::string_view, TokenId> ids_;  // of the vocabulary
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<AddedToken> tokens_;
  TokenId next_id_ = 0;
};

}  // namespace

std::string TokenizerFiles::tokenizer_class() const {
  std::string name = text_or(config, "tokenizer_class", "");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

TokenRoles read_roles(const TokenizerFiles& files, const TokenRoles& usual) {
  TokenRoles read;
  for (const Role& role : roles) {
    // Said to be null: there is none.
    const bool is_said = files.config.contains(role.key);
    read.*role.text = is_said ? token_text(files.config, role.key).value_or("") : usual.*role.text;
  }
  return read;
}

std::vector<AddedToken> read_added_tokens(const TokenizerFiles& files, const Vocabulary& vocabulary,
                                          const TokenRoles& usual) {
  AddedTokens tokens(vocabulary);
  for (const Json& token : member(files.json, "added_tokens")) {
    tokens.add(read_added_token(token, checked_integer<TokenId>(token.at("id"))));
  }
  for (const auto& [content, id] : files.added_tokens.items()) {
    AddedToken token;
    token.content = content;
    token.id = checked_integer<TokenId>(id);
    if (!tokens.has(content)) tokens.add(std::move(token));
  }
  for (const auto& [key, token] : member(files.config, "added_tokens_decoder").items()) {
    TokenId id = -1;
    if (std::from_chars(key.data(), key.data() + key.size(), id).ec != std::errc()) {
      throw Unsupported{"the added token with the id '" + key.substr(0, 40) + "'"};
    }
    tokens.add(read_added_token(token, id));
  }
  for (const Role& role : roles) {
    if (files.config.contains(role.key)) {
      tokens.add_special(files.config[role.key]);
    } else if (tokens.knows(usual.*role.text)) {
      tokens.add_special(usual.*role.text);
    }
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const Json& listed = member(files.config, key);
    if (listed.is_structured()) {
      for (const Json& token : listed) tokens.add_special(token);
    }
  }
  return tokens.take();
}

TokenizerTraits read_traits(const TokenizerFiles& files, const TokenRoles& roles, const Vocabulary& vocabulary,
                            const std::vector<AddedToken>& added_tokens) {
  const auto id_of = [&](const std::string& text) -> std::optional<TokenId> {
    if (text.empty()) return std::nullopt;
    for (const AddedToken& token : added_tokens) {
      if (token.content == text) return token.id;
    }
    const auto found =
        std::find_if(vocabulary.begin(), vocabulary.end(), [&](const auto& entry) { return entry.first == text; });
    return found == vocabulary.end() ? std::nullopt : std::optional(found->second);
  };
  TokenizerTraits traits;
  traits.pad = id_of(roles.pad);
  traits.unknown = id_of(roles.unknown);
  traits.classify = id_of(roles.classify);
  traits.separator = id_of(roles.separator);
  traits.mask = id_of(roles.mask);
  traits.begin = id_of(roles.begin);
  traits.end = id_of(roles.end);
  const auto side = [&](const char* key) {
    return text_or(files.config, key, "right") == "left" ? Side::left : Side::right;
  };
  traits.padding_side = side("padding_side");
  traits.truncation_side = side("truncation_side");
  if (const Json& type = member(files.config, "pad_token_type_id"); type.is_number_integer()) {
    traits.pad_type_id = checked_integer<TokenId>(type);
  }
  if (const Json& limit = member(files.config, "model_max_length"); limit.is_number()) {
    // "No limit" is written as 1e30.
    if (limit.get<double>() > 0 && limit.get<double>() < 1e9) traits.model_max_length = limit.get<std::int64_t>();
  }
  return traits;
}

std::optional<bool> says_type_ids(const Json& config) {
  const Json& inputs = member(config, "model_input_names");
  if (!inputs.is_array()) return std::nullopt;
  return std::find(inputs.begin(), inputs.end(), "token_type_ids") != inputs.end();
}

std::string type_of(const Json& component) {
  return component.is_object() ? text_or(component, "type", "") : std::string();
}

bool boolean(const Json& json, const char* key, bool otherwise) {
  const auto found = json.find(key);
  return found != json.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

std::string text_or(const Json& json, const char* key, const std::string& otherwise) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

const Json& member(const Json& json, const char* key) {
  static const Json null;
  const auto found = json.find(key);
  return found == json.end() ? null : *found;
}

std::optional<std::string> token_text(const Json& config, const char* key) {
  const Json& found = member(config, key);
  if (found.is_string()) return found.get<std::string>();
  if (found.is_object() && found.contains("content")) return found["content"].get<std::string>();
  return std::nullopt;
}

}  // namespace finesweep::worker
