#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finesweep::worker {

// As sacreBLEU 2.6 computes it with the 13a tokenizer, orders 1 to 4 and exponential smoothing (Post 2018, "A Call
// for Clarity in Reporting BLEU Scores"; the smoothing is that of mteval-v13a.pl).

enum class LetterCase { kept, lowered };

/// What BLEU is made of; that of a corpus is the sum over its sentences.
struct BleuCounts {
  static constexpr std::size_t orders = 4;
  std::int64_t prediction_length = 0;
  std::int64_t reference_length = 0;            // of the reference nearest in length, the shorter of two
  std::array<std::int64_t, orders> matches{};   // common sequences of 1, 2, 3, 4 tokens
  std::array<std::int64_t, orders> possible{};  // those of the prediction

  void add(const BleuCounts& other);
};

/// At least one reference.
BleuCounts bleu_counts(std::string_view prediction, const std::vector<std::string>& references,
                       LetterCase letter_case = LetterCase::kept);

/// From 0 to 100; the penalty from 0 to 1.
struct BleuScore {
  double score = 0;
  std::array<double, BleuCounts::orders> precisions{};
  double brevity_penalty = 1;
};

/// Of a corpus: all four orders count.
BleuScore corpus_bleu(const BleuCounts& counts);
/// Of a sentence: orders that are longer than the prediction do not count (sacreBLEU's effective order).
BleuScore sentence_bleu(const BleuCounts& counts);

/// The tokens of the 13a tokenizer of WMT.
std::vector<std::string> bleu_tokens(std::string_view text);

}  // namespace finesweep::worker
