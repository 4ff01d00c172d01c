#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"

namespace finesweep::worker {

using TokenId = std::int32_t;

/// What is cut from a text or pair of texts that is too long; as the Hugging Face `tokenizers` package does it.
enum class Truncation {
  none,
  longest_first,  // both towards equal lengths
  only_first,
  only_second,
};

enum class Side { left, right };
enum class SpecialTokens { keep, skip };

struct EncodeOptions {
  /// Wrap in the model's special tokens ([CLS] … [SEP]).
  bool add_special_tokens = true;
  Truncation truncation = Truncation::none;
  /// With special tokens. Used by truncation and padding.
  std::int64_t max_length = 0;
  bool pad_to_max_length = false;
};

/// Three vectors of one length.
struct Encoding {
  std::vector<TokenId> ids;
  std::vector<TokenId> type_ids;
  std::vector<TokenId> attention_mask;  // 0 where padded
};

/// The special tokens wrapped around one text or two; the `TemplateProcessing` of tokenizer.json.
struct SequenceTemplate {
  struct Piece {
    /// 0: the first text, 1: the second, -1: the special tokens `ids`.
    int sequence = -1;
    std::vector<TokenId> ids;
    TokenId type_id = 0;
  };
  std::vector<Piece> single{{0, {}, 0}};
  std::vector<Piece> pair{{0, {}, 0}, {1, {}, 1}};
};

/// What the tokenizer's files say beside its model.
struct TokenizerTraits {
  SequenceTemplate sequence_template;
  std::optional<TokenId> pad, unknown, classify, separator, mask, begin, end;
  TokenId pad_type_id = 0;
  Side padding_side = Side::right, truncation_side = Side::right;
  /// tokenizer_config.json's model_max_length, where it is a sensible number.
  std::optional<std::int64_t> model_max_length;
  /// The model takes token_type_ids.
  bool gives_type_ids = true;
};

/// Text to ids and back. Keeps caches: one thread at a time.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The ids of a text alone: no special tokens around it (those written in the text are recognised), never cut.
  /// Invalid UTF-8 is read as U+FFFD.
  virtual void append_ids(std::string_view text, std::vector<TokenId>& ids) = 0;
  std::vector<TokenId> ids_of(std::string_view text);

  /// The Error says which length leaves no room, or which text is too short to be cut.
  Result<Encoding> encode(std::string_view text, const EncodeOptions& options = {});
  /// An empty second text counts as none, as where the transformers package is given one pair.
  Result<Encoding> encode_pair(std::string_view first, std::string_view second, const EncodeOptions& options = {});
  /// The same for texts that were turned into ids before. `second` null: one text.
  Result<Encoding> wrap(std::span<const TokenId> first, const std::vector<TokenId>* second,
                        const EncodeOptions& options) const;

  /// Ids that the tokenizer does not have are left out.
  virtual std::string decode(std::span<const TokenId> ids, SpecialTokens special = SpecialTokens::keep) const = 0;

  virtual std::optional<TokenId> id_of_token(std::string_view token) const = 0;
  /// One more than the greatest id.
  virtual std::int64_t vocabulary_size() const = 0;
  const TokenizerTraits& traits() const { return traits_; }

 protected:
  explicit Tokenizer(TokenizerTraits traits) : traits_(std::move(traits)) {}

 private:
  TokenizerTraits traits_;
};

/// From a Hugging Face directory: tokenizer.json where there is one (WordPiece, BPE, Unigram), else vocab.json with
/// merges.txt (byte-level BPE), spiece.model (T5) or vocab.txt (WordPiece), each with what tokenizer_config.json
/// adds. The Error names the file and what is missing, damaged or not supported.
Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& directory);

}  // namespace finesweep::worker
