#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/tokenizers/byte_trie.h"
#include "worker/tokenizers/pipeline_tokenizer.h"

namespace finesweep::worker {

/// The model `Unigram` of tokenizer.json.
struct UnigramModel {
  /// By id: a piece and its log-probability.
  std::vector<std::pair<std::string, double>> pieces;
  /// Of characters that no piece covers; a run of them is one token.
  TokenId unknown = 0;
  /// Such a run becomes its bytes, <0x41>, where the vocabulary has them all.
  bool byte_fallback = false;
};

/// SentencePiece's unigram model (https://arxiv.org/abs/1804.10959): the cut with the greatest sum of
/// log-probabilities, found with the Viterbi algorithm in double precision; of equal ones the first that was found,
/// as in the Hugging Face `tokenizers` package.
class UnigramTokenizer : public PipelineTokenizer {
 public:
  static Result<std::unique_ptr<UnigramTokenizer>> make(const UnigramModel& model, TextPipeline pipeline,
                                                        TokenizerTraits traits);

 private:
  UnigramTokenizer(const UnigramModel& model, const Vocabulary& vocabulary, TextPipeline pipeline,
                   TokenizerTraits traits);
  void append_model_ids(std::string_view word, std::vector<TokenId>& ids) override;
  void append_unknown(std::string_view text, std::vector<TokenId>& ids) const;

  /// The best way to a place in the word: its last piece.
  struct Node {
    double score = 0;
    std::uint32_t begin = unreached;
    TokenId id = 0;
  };
  static constexpr std::uint32_t unreached = 0xFFFFFFFF;

  ByteTrie trie_;
  std::vector<double> scores_;  // by id
  double unknown_score_ = 0;
  TokenId unknown_ = 0;
  bool byte_fallback_ = false;
  std::array<TokenId, 256> id_of_byte_{};  // of <0x00> and so on; -1: none
  std::vector<Node> nodes_;
  std::vector<Node> path_;
};

/// What a SentencePiece model file (spiece.model, a protocol buffer) holds.
struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    int type = 1;
  };
  std::vector<Piece> pieces;
  /// 1 unigram, 2 BPE, 3 words, 4 characters.
  int model_type = 1;
  bool byte_fallback = false;
  /// precompiled_charsmap; may be empty.
  std::string charsmap;
};

Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes);

}  // namespace finesweep::worker
