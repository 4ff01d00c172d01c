#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/json.h"
#include "worker/tokenizers/added_tokens.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/vocabulary.h"

namespace finesweep::worker {

/// A part of a tokenizer's files that we cannot honour. Thrown while they are read, caught in load_tokenizer; so
/// are the exceptions of the JSON library, which mean a damaged file.
struct Unsupported {
  std::string what;
};

/// What a tokenizer's folder holds.
struct TokenizerFiles {
  std::filesystem::path directory;
  /// The file that holds the vocabulary.
  std::filesystem::path vocabulary;
  /// tokenizer.json; an empty object where there is none.
  Json json = Json::object();
  /// tokenizer_config.json, and what special_tokens_map.json says beside it.
  Json config = Json::object();
  /// added_tokens.json, of older folders.
  Json added_tokens = Json::object();
  /// model_type of the model's config.json.
  std::string model_type;

  bool has_json() const { return !json.empty(); }
  /// tokenizer_config.json's tokenizer_class, without the ending Fast.
  std::string tokenizer_class() const;
};

/// Texts of tokens with a role; "" for none.
struct TokenRoles {
  std::string pad, unknown, classify, separator, mask, begin, end;
};

/// As tokenizer_config.json says; `usual` where it says nothing.
TokenRoles read_roles(const TokenizerFiles& files, const TokenRoles& usual);

/// The added tokens of all files. Tokens with a role are special even where no file lists them; one that the
/// vocabulary lacks gets the next id, if a file names it.
std::vector<AddedToken> read_added_tokens(const TokenizerFiles& files, const Vocabulary& vocabulary,
                                          const TokenRoles& usual);

/// The traits that do not depend on the kind of model, but for the template and gives_type_ids.
TokenizerTraits read_traits(const TokenizerFiles& files, const TokenRoles& roles, const Vocabulary& vocabulary,
                            const std::vector<AddedToken>& added_tokens);
/// tokenizer_config.json's model_input_names, where it has them.
std::optional<bool> says_type_ids(const Json& config);

std::string type_of(const Json& component);
bool boolean(const Json& json, const char* key, bool otherwise);
std::string text_or(const Json& json, const char* key, const std::string& otherwise);
/// Null where it is not there.
const Json& member(const Json& json, const char* key);
/// A special token of tokenizer_config.json: text, or an object with its content.
std::optional<std::string> token_text(const Json& config, const char* key);

// The kinds, each in its own source.
Result<std::unique_ptr<Tokenizer>> load_wordpiece(const TokenizerFiles& files);
Result<std::unique_ptr<Tokenizer>> load_bpe(const TokenizerFiles& files);
Result<std::unique_ptr<Tokenizer>> load_unigram(const TokenizerFiles& files);

}  // namespace finesweep::worker
