#include "worker/metrics/bleu.h"

#include <unicode/bytestream.h>
#include <unicode/casemap.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <unordered_map>
#include <utility>

namespace finesweep::worker {
namespace {

// One after the other: "&amp;lt;" becomes "<".
constexpr std::pair<std::string_view, std::string_view> entities[] = {
    {"&quot;", "\""}, {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// str.isspace of Python.
bool is_space(UChar32 c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// str.split of Python.
std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> words;
  std::size_t word = 0;
  const auto end_word = [&](std::size_t end) {
    if (end > word) words.emplace_back(text.substr(word, end - word));
  };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    UChar32 c;
    U8_NEXT(reinterpret_cast<const std::uint8_t*>(text.data()), i, text.size(), c);
    if (!is_space(c)) continue;
    end_word(begin);
    word = i;
  }
  end_word(text.size());
  return words;
}

/// str.rstrip of Python.
std::string_view without_space_at_end(std::string_view text) {
  while (!text.empty()) {
    auto i = static_cast<std::int32_t>(text.size());
    UChar32 c;
    U8_PREV(reinterpret_cast<const std::uint8_t*>(text.data()), 0, i, c);
    if (!is_space(c)) break;
    text = text.substr(0, static_cast<std::size_t>(i));
  }
  return text;
}

std::string lowered(std::string_view text) {
  std::string result;
  icu::StringByteSink<std::string> sink(&result);
  UErrorCode status = U_ZERO_ERROR;
  icu::CaseMap::utf8ToLower("", 0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink,
                            nullptr, status);
  return result;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t begin = 0;;) {
    const std::size_t found = text.find(from, begin);
    result += text.substr(begin, found - begin);
    if (found == std::string_view::npos) return result;
    result += to;
    begin = found + from.size();
  }
}

/// Applies `rule` from left to right as a regular expression for two characters would be: `rule(a, b, out)` appends
/// what becomes of both, or returns false. What was replaced is not looked at again.
template <typename Rule>
std::string replaced_pairs(std::string_view text, Rule rule) {
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  for (std::size_t i = 0; i < text.size();) {
    if (i + 1 < text.size() && rule(text[i], text[i + 1], result)) {
      i += 2;
    } else {
      result += text[i++];
    }
  }
  return result;
}

/// Punctuation but for period, comma, hyphen and apostrophe.
bool always_stands_alone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
         (c >= ':' && c <= '@') || c == '/';
}

bool is_point(char c) {
  return c == '.' || c == ',';
}

std::string separated(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (always_stands_alone(c)) {
      result.append({' ', c, ' '});
    } else {
      result += c;
    }
  }
  result = replaced_pairs(result, [](char a, char b, std::string& out) {
    if (is_digit(a) || !is_point(b)) return false;
    out.append({a, ' ', b, ' '});
    return true;
  });
  result = replaced_pairs(result, [](char a, char b, std::string& out) {
    if (!is_point(a) || is_digit(b)) return false;
    out.append({' ', a, ' ', b});
    return true;
  });
  return replaced_pairs(result, [](char a, char b, std::string& out) {
    if (!is_digit(a) || b != '-') return false;
    out.append({a, ' ', b, ' '});
    return true;
  });
}

/// Numbers sequences of tokens: one of n tokens is that of its first n - 1 and its last.
class SequenceNumbering {
 public:
  using Sequences = std::array<std::vector<std::int64_t>, BleuCounts::orders>;

  Sequences number(const std::vector<std::string>& tokens) {
    Sequences sequences;
    for (const auto& token : tokens) {
      sequences[0].push_back(tokens_.emplace(token, static_cast<std::int64_t>(tokens_.size())).first->second);
    }
    for (std::size_t order = 1; order < BleuCounts::orders; ++order) {
      for (std::size_t i = 0; i + order < tokens.size(); ++i) {
        const std::pair key{sequences[order - 1][i], sequences[0][i + order]};
        auto& known = longer_[order - 1];
        sequences[order].push_back(known.emplace(key, static_cast<std::int64_t>(known.size())).first->second);
      }
    }
    return sequences;
  }

 private:
  struct HashPair {
    std::size_t operator()(const std::pair<std::int64_t, std::int64_t>& pair) const {
      return std::hash<std::int64_t>()(static_cast<std::int64_t>(
          static_cast<std::uint64_t>(pair.first) * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(pair.second)));
    }
  };
  std::unordered_map<std::string, std::int64_t> tokens_;
  std::array<std::unordered_map<std::pair<std::int64_t, std::int64_t>, std::int64_t, HashPair>,
             BleuCounts::orders - 1>
      longer_;
};

using CountByNumber = std::unordered_map<std::int64_t, std::int64_t>;

CountByNumber count(const std::vector<std::int64_t>& numbers) {
  CountByNumber counts;
  for (const std::int64_t number : numbers) ++counts[number];
  return counts;
}

std::vector<std::string> tokens_of(std::string_view text, LetterCase letter_case) {
  if (letter_case == LetterCase::kept) return bleu_tokens(without_space_at_end(text));
  const std::string lower = lowered(text);
  return bleu_tokens(without_space_at_end(lower));
}

BleuScore score_of(const BleuCounts& counts, bool effective_order) {
  BleuScore result;
  const double length = static_cast<double>(counts.prediction_length);
  if (counts.prediction_length < counts.reference_length) {
    result.brevity_penalty = length > 0 ? std::exp(1 - static_cast<double>(counts.reference_length) / length) : 0;
  }
  if (std::all_of(counts.matches.begin(), counts.matches.end(), [](auto matches) { return matches == 0; })) {
    return result;
  }
  std::size_t counted = BleuCounts::orders;
  double smoothing = 1;
  for (std::size_t i = 0; i < BleuCounts::orders && counts.possible[i] > 0; ++i) {
    if (effective_order) counted = i + 1;
    const auto possible = static_cast<double>(counts.possible[i]);
    if (counts.matches[i] > 0) {
      result.precisions[i] = 100 * static_cast<double>(counts.matches[i]) / possible;
    } else {
      smoothing *= 2;
      result.precisions[i] = 100 / (smoothing * possible);
    }
  }
  double sum = 0;
  for (std::size_t i = 0; i < counted; ++i) {
    if (result.precisions[i] == 0) return result;
    sum += std::log(result.precisions[i]);
  }
  result.score = result.brevity_penalty * std::exp(sum / static_cast<double>(counted));
  return result;
}

}  // namespace

std::vector<std::string> bleu_tokens(std::string_view text) {
  std::string line = replaced(text, "<skipped>", "");
  line = replaced(line, "-\n", "");
  std::replace(line.begin(), line.end(), '\n', ' ');
  for (const auto& [entity, character] : entities) line = replaced(line, entity, character);
  return split(separated(" " + line + " "));
}

void BleuCounts::add(const BleuCounts& other) {
  prediction_length += other.prediction_length;
  reference_length += other.reference_length;
  for (std::size_t i = 0; i < orders; ++i) {
    matches[i] += other.matches[i];
    possible[i] += other.possible[i];
  }
}

BleuCounts bleu_counts(std::string_view prediction, const std::vector<std::string>& references,
                       LetterCase letter_case) {
  SequenceNumbering numbering;
  const auto tokens = tokens_of(prediction, letter_case);
  const auto predicted = numbering.number(tokens);
  BleuCounts result;
  result.prediction_length = static_cast<std::int64_t>(tokens.size());
  std::array<CountByNumber, BleuCounts::orders> most;
  std::int64_t least_difference = -1;
  for (const std::string& reference : references) {
    const auto reference_tokens = tokens_of(reference, letter_case);
    const auto length = static_cast<std::int64_t>(reference_tokens.size());
    const std::int64_t difference = std::abs(result.prediction_length - length);
    if (least_difference < 0 || difference < least_difference ||
        (difference == least_difference && length < result.reference_length)) {
      least_difference = difference;
      result.reference_length = length;
    }
    const auto referred = numbering.number(reference_tokens);
    for (std::size_t i = 0; i < BleuCounts::orders; ++i) {
      for (const auto& [number, times] : count(referred[i])) most[i][number] = std::max(most[i][number], times);
    }
  }
  for (std::size_t i = 0; i < BleuCounts::orders; ++i) {
    result.possible[i] = static_cast<std::int64_t>(predicted[i].size());
    for (const auto& [number, times] : count(predicted[i])) {
      if (const auto found = most[i].find(number); found != most[i].end()) {
        result.matches[i] += std::min(times, found->second);
      }
    }
  }
  return result;
}

BleuScore corpus_bleu(const BleuCounts& counts) {
  return score_of(counts, false);
}

BleuScore sentence_bleu(const BleuCounts& counts) {
  return score_of(counts, true);
}

}  // namespace finesweep::worker
