#include "worker/metrics/porter_stemmer.h"

#include <array>
#include <cstdint>
#include <span>
#include <utility>

namespace finesweep::worker {
namespace {

constexpr std::pair<std::string_view, std::string_view> irregular_forms[] = {
    {"skies", "sky"},      {"dying", "die"},       {"lying", "lie"},        {"tying", "tie"},
    {"innings", "inning"}, {"outings", "outing"},  {"cannings", "canning"}, {"sky", "sky"},
    {"news", "news"},      {"inning", "inning"},   {"outing", "outing"},    {"canning", "canning"},
    {"howe", "howe"},      {"proceed", "proceed"}, {"exceed", "exceed"},    {"succeed", "succeed"}};

bool is_plain_vowel(char c) {
  return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/// What Porter's conditions ask of a word: a y is a consonant where it does not follow one.
struct Shape {
  /// VC pairs: m in Porter's paper.
  int measure = 0;
  bool has_vowel = false;
  /// Whether the last three letters are consonants, the last of all first.
  std::array<bool, 3> consonant_from_end{};
};

Shape shape_of(std::string_view word) {
  Shape shape;
  bool before = false;
  for (std::size_t i = 0; i < word.size(); ++i) {
    const bool consonant = !is_plain_vowel(word[i]) && (word[i] != 'y' || i == 0 || !before);
    if (i > 0 && !before && consonant) ++shape.measure;
    shape.has_vowel |= !consonant;
    shape.consonant_from_end = {consonant, shape.consonant_from_end[0], shape.consonant_from_end[1]};
    before = consonant;
  }
  return shape;
}

int measure(std::string_view word) {
  return shape_of(word).measure;
}

/// *d
bool ends_in_double_consonant(std::string_view word) {
  return word.size() >= 2 && word.back() == word[word.size() - 2] && shape_of(word).consonant_from_end[0];
}

/// *o, and NLTK's case of two letters.
bool ends_in_consonant_vowel_consonant(std::string_view word) {
  const auto consonant = shape_of(word).consonant_from_end;
  if (word.size() == 2) return !consonant[1] && consonant[0];
  const char last = word.empty() ? ' ' : word.back();
  return word.size() >= 3 && consonant[2] && !consonant[1] && consonant[0] && last != 'w' && last != 'x' &&
         last != 'y';
}

struct Rule {
  std::string_view suffix, replacement;
  /// m of what is left must be above this; -1: no condition.
  int measure_above = -1;
};

/// The first rule whose suffix fits decides, whether its condition holds or not.
const Rule* first_that_fits(std::string_view word, std::span<const Rule> rules) {
  for (const Rule& rule : rules) {
    if (word.ends_with(rule.suffix)) return &rule;
  }
  return nullptr;
}

void replace_suffix(std::string& word, std::size_t suffix, std::string_view replacement) {
  word.resize(word.size() - suffix);
  word += replacement;
}

void apply_first(std::string& word, std::span<const Rule> rules) {
  const Rule* rule = first_that_fits(word, rules);
  if (rule == nullptr) return;
  const auto stem = std::string_view(word).substr(0, word.size() - rule->suffix.size());
  if (measure(stem) > rule->measure_above) replace_suffix(word, rule->suffix.size(), rule->replacement);
}

void step_1a(std::string& word) {
  static constexpr Rule rules[] = {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}};
  if (word.size() == 4 && word.ends_with("ies")) return replace_suffix(word, 3, "ie");
  apply_first(word, rules);
}

void step_1b(std::string& word) {
  if (word.ends_with("ied")) return replace_suffix(word, 3, word.size() == 4 ? "ie" : "i");
  if (word.ends_with("eed")) {
    if (measure(std::string_view(word).substr(0, word.size() - 3)) > 0) word.pop_back();
    return;
  }
  const std::size_t suffix = word.ends_with("ed") ? 2 : word.ends_with("ing") ? 3 : 0;
  const auto stem = std::string_view(word).substr(0, word.size() - suffix);
  if (suffix == 0 || !shape_of(stem).has_vowel) return;
  word.resize(stem.size());
  if (word.ends_with("at") || word.ends_with("bl") || word.ends_with("iz")) {
    word += 'e';
  } else if (ends_in_double_consonant(word)) {
    if (word.back() != 'l' && word.back() != 's' && word.back() != 'z') word.pop_back();
  } else if (measure(word) == 1 && ends_in_consonant_vowel_consonant(word)) {
    word += 'e';
  }
}

void step_1c(std::string& word) {
  if (word.size() > 2 && word.back() == 'y' && shape_of(word).consonant_from_end[1]) word.back() = 'i';
}

void step_2(std::string& word) {
  static constexpr Rule rules[] = {
      {"ational", "ate", 0}, {"tional", "tion", 0}, {"enci", "ence", 0}, {"anci", "ance", 0}, {"izer", "ize", 0},
      {"bli", "ble", 0},     {"alli", "al", 0},     {"entli", "ent", 0}, {"eli", "e", 0},     {"ousli", "ous", 0},
      {"ization", "ize", 0}, {"ation", "ate", 0},   {"ator", "ate", 0},  {"alism", "al", 0},  {"iveness", "ive", 0},
      {"fulness", "ful", 0}, {"ousness", "ous", 0}, {"aliti", "al", 0},  {"iviti", "ive", 0}, {"biliti", "ble", 0},
      {"fulli", "ful", 0}};
  while (word.ends_with("alli") && measure(std::string_view(word).substr(0, word.size() - 4)) > 0) {
    word.resize(word.size() - 2);
  }
  if (first_that_fits(word, rules) == nullptr && word.ends_with("logi")) {
    // The l counts with the stem, so that "geology" works like "archaeology".
    if (measure(std::string_view(word).substr(0, word.size() - 3)) > 0) word.pop_back();
    return;
  }
  apply_first(word, rules);
}

void step_3(std::string& word) {
  static constexpr Rule rules[] = {{"icate", "ic", 0}, {"ative", "", 0}, {"alize", "al", 0}, {"iciti", "ic", 0},
                                   {"ical", "ic", 0},  {"ful", "", 0},   {"ness", "", 0}};
  apply_first(word, rules);
}

void step_4(std::string& word) {
  static constexpr Rule rules[] = {{"al", "", 1},    {"ance", "", 1}, {"ence", "", 1}, {"er", "", 1},
                                   {"ic", "", 1},    {"able", "", 1}, {"ible", "", 1}, {"ant", "", 1},
                                   {"ement", "", 1}, {"ment", "", 1}, {"ent", "", 1},  {"ion", "", 1},
                                   {"ou", "", 1},    {"ism", "", 1},  {"ate", "", 1},  {"iti", "", 1},
                                   {"ous", "", 1},   {"ive", "", 1},  {"ize", "", 1}};
  if (word.ends_with("ion") &&
      (word.size() == 3 || (word[word.size() - 4] != 's' && word[word.size() - 4] != 't'))) {
    return;
  }
  apply_first(word, rules);
}

void step_5(std::string& word) {
  if (word.ends_with("e")) {
    const auto stem = std::string_view(word).substr(0, word.size() - 1);
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_in_consonant_vowel_consonant(stem))) word.pop_back();
  }
  if (word.ends_with("ll") && measure(std::string_view(word).substr(0, word.size() - 1)) > 1) word.pop_back();
}

}  // namespace

std::string porter_stem(std::string_view word) {
  for (const auto& [form, stem] : irregular_forms) {
    if (word == form) return std::string(stem);
  }
  std::string stem(word);
  if (stem.size() <= 2) return stem;
  for (const auto step : {step_1a, step_1b, step_1c, step_2, step_3, step_4, step_5}) step(stem);
  return stem;
}

}  // namespace finesweep::worker
