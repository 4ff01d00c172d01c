#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/json.h"
#include "worker/tokenizers/bpe_merges.h"
#include "worker/tokenizers/pipeline_tokenizer.h"

namespace finesweep::worker {

/// The model `BPE` of tokenizer.json.
struct BpeModel {
  Vocabulary vocabulary;
  /// Best first. What a pair becomes must be in the vocabulary.
  std::vector<std::pair<std::string, std::string>> merges;
  /// For characters that the vocabulary lacks; without it they vanish.
  std::optional<std::string> unknown_token;
  /// Before characters that do not begin a word, and after the one that ends it.
  std::string continuing_prefix, end_suffix;
  bool fuse_unknown = false;   // one unknown token for a run of unknown characters
  bool byte_fallback = false;  // an unknown character becomes its bytes, <0x41>
  bool ignore_merges = false;  // a word that is in the vocabulary is one token
  /// Words are read as bytes, each by its letter.
  bool byte_level = true;
};

/// Byte pair encoding (https://arxiv.org/abs/1508.07909) as the Hugging Face `tokenizers` package does it: again
/// and again the best pair of a word is merged, of equal ones the leftmost.
class BpeTokenizer : public PipelineTokenizer {
 public:
  static Result<std::unique_ptr<BpeTokenizer>> make(const BpeModel& model, TextPipeline pipeline,
                                                    TokenizerTraits traits);

 private:
  BpeTokenizer(const BpeModel& model, TextPipeline pipeline, TokenizerTraits traits);
  Status add_merges(const BpeModel& model);
  void append_model_ids(std::string_view word, std::vector<TokenId>& ids) override;
  void read_characters(std::string_view word);

  BpeMerges merges_;
  std::optional<TokenId> unknown_;
  std::string continuing_prefix_, end_suffix_;
  bool fuse_unknown_, byte_fallback_, ignore_merges_, byte_level_;
  /// Every byte of byte-level text is a token alone, or vanishes: no affixes, nothing unknown.
  bool bytes_are_tokens_ = false;
  std::array<TokenId, 256> id_of_byte_{};
  std::vector<TokenId> symbols_;
  std::string letters_, character_;
};

/// A byte-level BPE tokenizer as the metadata of a GGUF file describe it (tokenizer.ggml.*, model "gpt2").
struct BpeVocabulary {
  /// tokens: by id, in letters for bytes ("Ġthe").
  std::vector<std::string> tokens;
  /// merges: "Ġ t", best first.
  std::vector<std::string> merges;
  /// token_type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. Empty: all are normal. Control
  /// tokens are special; they and user-defined ones are found in text as they are written.
  std::vector<std::int32_t> token_types;
  /// pre: "gpt-2", "smollm", "llama-bpe", "qwen2" and others that split text in one of these ways.
  std::string pre_tokenizer = "gpt-2";
  /// bos_token_id, eos_token_id and so on.
  std::optional<TokenId> begin, end, unknown, pad, separator, mask;
  /// add_bos_token, add_eos_token, add_space_prefix.
  bool add_begin = false, add_end = false, add_space_prefix = false;
};

/// The Error says which part of the vocabulary cannot be used, and why.
Result<std::unique_ptr<Tokenizer>> make_bpe_tokenizer(const BpeVocabulary& vocabulary);

/// tokenizer.json and tokenizer_config.json of a folder whose tokenizer gives the same ids, here and in Hugging
/// Face's packages: for a model that leaves its GGUF file. The Error as above.
struct TokenizerJson {
  Json tokenizer, config;
};
Result<TokenizerJson> bpe_tokenizer_json(const BpeVocabulary& vocabulary);

/// "Ġ t" to its two parts; nullopt where there are not two.
std::optional<std::pair<std::string, std::string>> split_merge(std::string_view line);

}  // namespace finesweep::worker
