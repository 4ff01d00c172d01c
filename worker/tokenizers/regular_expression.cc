#include "worker/tokenizers/regular_expression.h"

#include <unicode/uregex.h>
#include <unicode/utext.h>

#include <algorithm>
#include <iterator>

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {
namespace {

// In ICU's units: ten thousand steps of the engine, roughly a millisecond, and bytes.
constexpr std::int32_t time_limit = 1000, stack_limit = 16 << 20;

/// ICU's \s lacks the vertical tab and U+0085, its letters and numbers what is newer than ICU. Sets may stand
/// within sets, so each replacement is right in brackets and outside.
std::string for_icu(const std::string& pattern) {
  static const std::pair<std::string_view, std::string> replacements[] = {
      {"\\s", "\\p{White_Space}"},
      {"\\S", "\\P{White_Space}"},
      {"\\p{L}", "[\\p{L}" + newer_letters_for_brackets() + "]"},
      {"\\P{L}", "[^\\p{L}" + newer_letters_for_brackets() + "]"},
      {"\\p{N}", "[\\p{N}" + newer_numbers_for_brackets() + "]"},
      {"\\P{N}", "[^\\p{N}" + newer_numbers_for_brackets() + "]"}};
  std::string result;
  for (std::size_t i = 0; i < pattern.size();) {
    const std::string_view rest = std::string_view(pattern).substr(i);
    const auto found = std::find_if(std::begin(replacements), std::end(replacements),
                                    [&](const auto& entry) { return rest.starts_with(entry.first); });
    if (found != std::end(replacements)) {
      result += found->second;
      i += found->first.size();
      continue;
    }
    const std::size_t count = rest[0] == '\\' ? std::min<std::size_t>(2, rest.size()) : 1;
    result += rest.substr(0, count);
    i += count;
  }
  return result;
}

}  // namespace

struct RegularExpression::Engine {
  URegularExpression* handle = nullptr;
  ~Engine() { uregex_close(handle); }
};

RegularExpression::RegularExpression(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
RegularExpression::~RegularExpression() = default;

Result<std::unique_ptr<RegularExpression>> RegularExpression::compile(const std::string& pattern) {
  auto engine = std::make_unique<Engine>();
  UErrorCode code = U_ZERO_ERROR;
  UParseError where;
  const std::string text = for_icu(pattern);
  UText* source = utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &code);
  engine->handle = uregex_openUText(source, UREGEX_MULTILINE, &where, &code);
  utext_close(source);
  uregex_setTimeLimit(engine->handle, time_limit, &code);
  uregex_setStackLimit(engine->handle, stack_limit, &code);
  if (U_FAILURE(code)) {
    return Error{"the regular expression '" + pattern + "' is not understood (" + u_errorName(code) + ")"};
  }
  return std::unique_ptr<RegularExpression>(new RegularExpression(std::move(engine)));
}

void RegularExpression::find_all(std::string_view text,
                                 std::vector<std::pair<std::size_t, std::size_t>>& matches) const {
  matches.clear();
  UErrorCode code = U_ZERO_ERROR;
  UText* source = utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &code);
  uregex_setUText(engine_->handle, source, &code);
  while (U_SUCCESS(code) && uregex_findNext(engine_->handle, &code)) {
    const auto begin = uregex_start64(engine_->handle, 0, &code), end = uregex_end64(engine_->handle, 0, &code);
    if (U_SUCCESS(code) && end > begin) {
      matches.emplace_back(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
    }
  }
  utext_close(source);
}

}  // namespace finesweep::worker
