#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finesweep::worker {

// As Google's rouge-score 0.1.2 computes them (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

enum class Stemming { none, porter };

/// Everything from 0 to 1; `f` is the harmonic mean of both, 0 where both are.
struct RougeScore {
  double precision = 0, recall = 0, f = 0;
};

struct RougeScores {
  RougeScore rouge1, rouge2;  // common words, common pairs of words
  RougeScore rouge_l;         // longest common subsequence of the whole texts
  RougeScore rouge_lsum;      // of every line of the reference with all lines of the prediction, united
};

RougeScores rouge(std::string_view prediction, std::string_view reference, Stemming stemming = Stemming::none);

/// The words that are compared: lower case, cut at everything but a–z and 0–9. With stemming, words of four letters
/// and more are stemmed.
std::vector<std::string> rouge_words(std::string_view text, Stemming stemming = Stemming::none);

/// The mean over a corpus.
class RougeMean {
 public:
  void add(const RougeScores& scores);
  std::int64_t count() const { return count_; }
  /// All 0 of nothing.
  RougeScores mean() const;

 private:
  RougeScores sum_;
  std::int64_t count_ = 0;
};

}  // namespace finesweep::worker
