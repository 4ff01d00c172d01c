#include "worker/tokenizers/split_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace finesweep::worker {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> pieces(const SplitPattern& pattern, const std::string& text) {
  const CharacterClasses classes;
  std::vector<std::string> found;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const char* next = pattern.next(classes, at, end);
    found.emplace_back(at, next);
    at = next;
  }
  return found;
}

TEST(SplitPattern, gpt2_keeps_a_space_with_the_word_after_it) {
  EXPECT_THAT(pieces(SplitPattern::gpt2(), "it's  I'LL 12ab!?\n \n"),
              ElementsAre("it", "'s", " ", " I", "'", "LL", " 12", "ab", "!?", "\n \n"));
  // A letter of Unicode 16, a mark, which is no letter, and a Roman numeral, which is a number.
  EXPECT_THAT(pieces(SplitPattern::gpt2(), "a\u1C89e\u0301\u2167"), ElementsAre("a\u1C89e", "\u0301", "\u2167"));
}

TEST(SplitPattern, gpt4_counts_digits_and_keeps_line_ends_with_what_is_before_them) {
  EXPECT_THAT(
      pieces(SplitPattern::gpt4(3), "I'LL x'\u017Fy 12345!\n\n  \n  go\ta."),
      ElementsAre("I", "'LL", " x", "'\u017F", "y", " ", "123", "45", "!\n\n", "  \n", " ", " go", "\ta", "."));
  EXPECT_THAT(pieces(SplitPattern::gpt4(1), "12"), ElementsAre("1", "2"));
}

}  // namespace
}  // namespace finesweep::worker
