#include "worker/metrics/rouge.h"

#include <algorithm>
#include <unordered_map>

#include "worker/metrics/common_subsequence.h"
#include "worker/metrics/porter_stemmer.h"

namespace finesweep::worker {
namespace {

using Words = std::vector<std::int32_t>;

/// Words numbered as they come, so that comparing them is cheap.
class WordNumbering {
 public:
  explicit WordNumbering(Stemming stemming) : stemming_(stemming) {}

  Words number(std::string_view text) {
    Words words;
    for (std::string& word : rouge_words(text, stemming_)) {
      const auto next = static_cast<std::int32_t>(numbers_.size());
      words.push_back(numbers_.emplace(std::move(word), next).first->second);
    }
    return words;
  }
  std::size_t size() const { return numbers_.size(); }

 private:
  Stemming stemming_;
  std::unordered_map<std::string, std::int32_t> numbers_;
};

RougeScore score_of(std::size_t hits, std::size_t predicted, std::size_t referred) {
  RougeScore score;
  score.precision = static_cast<double>(hits) / static_cast<double>(std::max<std::size_t>(predicted, 1));
  score.recall = static_cast<double>(hits) / static_cast<double>(std::max<std::size_t>(referred, 1));
  const double sum = score.precision + score.recall;
  score.f = sum > 0 ? 2 * score.precision * score.recall / sum : 0;
  return score;
}

/// Counts values that both have, as often as both have them.
template <typename T>
RougeScore common(std::vector<T> prediction, std::vector<T> reference) {
  std::sort(prediction.begin(), prediction.end());
  std::sort(reference.begin(), reference.end());
  std::size_t hits = 0;
  for (auto a = prediction.begin(), b = reference.begin(); a != prediction.end() && b != reference.end();) {
    if (*a == *b) ++hits;
    const bool step_a = !(*b < *a), step_b = !(*a < *b);
    a += step_a;
    b += step_b;
  }
  return score_of(hits, prediction.size(), reference.size());
}

std::vector<std::pair<std::int32_t, std::int32_t>> pairs_of(const Words& words) {
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
  for (std::size_t i = 1; i < words.size(); ++i) pairs.emplace_back(words[i - 1], words[i]);
  return pairs;
}

std::vector<Words> numbered_lines(std::string_view text, WordNumbering& numbering) {
  std::vector<Words> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines.push_back(numbering.number(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return lines;
}

/// A word counts as a hit at most as often as each side has it, whatever the number of lines that it was found in.
RougeScore summary_score(const std::vector<Words>& prediction, const std::vector<Words>& reference,
                         std::size_t words) {
  std::vector<std::int64_t> left_predicted(words, 0), left_referred(words, 0);
  std::size_t predicted = 0, referred = 0, hits = 0;
  std::vector<CommonSubsequence> lines;
  for (const Words& line : prediction) {
    predicted += line.size();
    for (const std::int32_t word : line) ++left_predicted[static_cast<std::size_t>(word)];
    lines.emplace_back(line);
  }
  for (const Words& line : reference) {
    referred += line.size();
    for (const std::int32_t word : line) ++left_referred[static_cast<std::size_t>(word)];
  }
  for (const Words& line : reference) {
    std::vector<char> chosen(line.size(), 0);
    for (CommonSubsequence& other : lines) other.mark(line, chosen);
    for (std::size_t i = 0; i < line.size(); ++i) {
      const auto word = static_cast<std::size_t>(line[i]);
      if (!chosen[i] || left_predicted[word] == 0 || left_referred[word] == 0) continue;
      ++hits;
      --left_predicted[word];
      --left_referred[word];
    }
  }
  return score_of(hits, predicted, referred);
}

template <typename Combine>
void combine(RougeScores& to, const RougeScores& from, Combine combine_values) {
  for (const auto score :
       {&RougeScores::rouge1, &RougeScores::rouge2, &RougeScores::rouge_l, &RougeScores::rouge_lsum})
    for (const auto value : {&RougeScore::precision, &RougeScore::recall, &RougeScore::f})
      combine_values(to.*score.*value, from.*score.*value);
}

}  // namespace

std::vector<std::string> rouge_words(std::string_view text, Stemming stemming) {
  std::vector<std::string> words;
  std::string word;
  const auto end_word = [&] {
    if (stemming == Stemming::porter && word.size() > 3) word = porter_stem(word);
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else if (c >= 'A' && c <= 'Z') {
      word += static_cast<char>(c - 'A' + 'a');
    } else if (text.substr(i, 3) == "\xE2\x84\xAA") {
      // The Kelvin sign and I with a dot are the only other characters with a–z in their lower case: "k", and "i"
      // with a combining dot, which ends the word.
      word += 'k';
      i += 2;
    } else if (text.substr(i, 2) == "\xC4\xB0") {
      word += 'i';
      end_word();
      ++i;
    } else {
      end_word();
    }
  }
  end_word();
  return words;
}

RougeScores rouge(std::string_view prediction, std::string_view reference, Stemming stemming) {
  WordNumbering numbering(stemming);
  const Words predicted = numbering.number(prediction), referred = numbering.number(reference);
  RougeScores scores;
  scores.rouge1 = common(predicted, referred);
  scores.rouge2 = common(pairs_of(predicted), pairs_of(referred));
  const auto length = static_cast<std::size_t>(CommonSubsequence(predicted).length(referred));
  scores.rouge_l = score_of(length, predicted.size(), referred.size());
  const auto predicted_lines = numbered_lines(prediction, numbering),
             referred_lines = numbered_lines(reference, numbering);
  scores.rouge_lsum = summary_score(predicted_lines, referred_lines, numbering.size());
  return scores;
}

void RougeMean::add(const RougeScores& scores) {
  combine(sum_, scores, [](double& to, double from) { to += from; });
  ++count_;
}

RougeScores RougeMean::mean() const {
  RougeScores mean = sum_;
  const double count = static_cast<double>(std::max<std::int64_t>(count_, 1));
  combine(mean, mean, [count](double& to, double) { to /= count; });
  return mean;
}

}  // namespace finesweep::worker
