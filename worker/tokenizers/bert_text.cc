#include "worker/tokenizers/bert_text.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

namespace finesweep::worker {
namespace {

/// Major version of Unicode in which the code point was assigned; 0: not assigned.
int age(char32_t c) {
  UVersionInfo version;
  u_charAge(static_cast<UChar32>(c), version);
  return version[0];
}

constexpr int categories_version = 8, decompositions_version = 9;

/// General category of Unicode 8.0. Six code points have changed theirs since.
int category(char32_t c) {
  switch (c) {
    case 0x166D:
    case 0x111C9:
      return U_OTHER_PUNCTUATION;
    case 0x1734:
      return U_NON_SPACING_MARK;
    case 0x1885:
    case 0x1886:
      return U_OTHER_LETTER;
    case 0xA9BD:
      return U_COMBINING_SPACING_MARK;
    default:
      return age(c) <= categories_version ? u_charType(static_cast<UChar32>(c)) : static_cast<int>(U_UNASSIGNED);
  }
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > 0x20 && c < 0x7F && !u_isalnum(static_cast<UChar32>(c));
  return (U_MASK(category(c)) & U_GC_P_MASK) != 0;
}

bool is_other(char32_t c) {
  const int found = category(c);
  return found == U_CONTROL_CHAR || found == U_FORMAT_CHAR || found == U_PRIVATE_USE_CHAR;
}

bool is_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

std::u32string one(char32_t c) {
  return std::u32string(1, c);
}

std::u32string decomposition(char32_t c) {
  if (age(c) > decompositions_version) return one(c);
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfd = icu::Normalizer2::getNFDInstance(error);
  icu::UnicodeString text;
  if (U_FAILURE(error) || !nfd->getDecomposition(static_cast<UChar32>(c), text)) return one(c);
  std::u32string result;
  for (std::int32_t i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    result += static_cast<char32_t>(text.char32At(i));
  }
  return result;
}

}  // namespace

BertText::BertText(const BertTextOptions& options) : options_(options), mappings_(1) {
  for (char32_t c = 0; c < 128; ++c) {
    const Properties& found = properties(c);
    Ascii& what = ascii_[c];
    what.becomes = static_cast<char>(options.lowercase && c >= 'A' && c <= 'Z' ? c + 32 : c);
    if (options.clean_text && (found.flags & dropped)) {
      what.action = Ascii::drop;
    } else if (found.flags & space) {
      what.action = Ascii::end;
    } else if (found.flags & punctuation) {
      what.action = Ascii::alone;
    }
  }
}

BertText::~BertText() = default;

BertText::Properties BertText::look_up(char32_t c) {
  Properties found;
  found.flags = known;
  const bool becomes_space = c == '\t' || c == '\n' || c == '\r';
  if (c == 0 || c == 0xFFFD || (!becomes_space && is_other(c))) found.flags |= dropped;
  if (is_white_space(c)) found.flags |= space;
  if (is_ideograph(c)) found.flags |= ideograph;
  if (is_punctuation(c)) found.flags |= punctuation;
  if (category(c) == U_NON_SPACING_MARK) found.flags |= nonspacing;
  if (age(c) <= decompositions_version) found.combining_class = u_getCombiningClass(static_cast<UChar32>(c));
  Mapping mapping{decomposition(c), lower_case(c)};
  if (mapping.decomposition != one(c)) found.flags |= decomposes;
  if (mapping.lower != one(c)) found.flags |= lowers;
  if (found.flags & (decomposes | lowers)) {
    // Fewer than 16,000 code points have either; Hangul alone is 11,172 of them.
    found.mapping = static_cast<std::uint16_t>(mappings_.size());
    mappings_.push_back(std::move(mapping));
  }
  return found;
}

bool BertText::is_ascii(std::string_view text) {
  unsigned char all = 0;
  for (const char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

void BertText::decode(std::string_view text, std::u32string& out) {
  out.clear();
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT_OR_FFFD(bytes, i, text.size(), c);
    out += static_cast<char32_t>(c);
  }
}

void BertText::decompose(std::u32string& text) {
  scratch_.clear();
  for (const char32_t c : text) {
    const Properties& found = properties(c);
    if (found.flags & decomposes) {
      scratch_ += mappings_[found.mapping].decomposition;
    } else {
      scratch_ += c;
    }
  }
  // Canonical order: runs of combining characters by class, else as they were.
  const auto combining_class = [&](char32_t c) { return c < 0x300 ? 0 : properties(c).combining_class; };
  for (std::size_t i = 0; i < scratch_.size();) {
    std::size_t end = i;
    while (end < scratch_.size() && combining_class(scratch_[end]) != 0) ++end;
    if (end - i > 1) {
      std::stable_sort(scratch_.begin() + static_cast<std::ptrdiff_t>(i),
                       scratch_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    }
    i = end + 1;
  }
  text.swap(scratch_);
}

void BertText::normalize(std::string_view text, std::u32string& out) {
  decode(text, out);
  if (options_.clean_text) {
    std::erase_if(out, [&](char32_t c) { return properties(c).flags & dropped; });
    for (char32_t& c : out) {
      if (properties(c).flags & space) c = ' ';
    }
  }
  if (options_.separate_ideographs) {
    scratch_.clear();
    for (const char32_t c : out) {
      if (properties(c).flags & ideograph) {
        scratch_.append({' ', c, ' '});
      } else {
        scratch_ += c;
      }
    }
    out.swap(scratch_);
  }
  if (options_.strip_accents) {
    decompose(out);
    std::erase_if(out, [&](char32_t c) { return properties(c).flags & nonspacing; });
  }
  if (options_.lowercase) {
    scratch_.clear();
    for (const char32_t c : out) {
      const Properties& found = properties(c);
      if (found.flags & lowers) {
        scratch_ += mappings_[found.mapping].lower;
      } else {
        scratch_ += c;
      }
    }
    out.swap(scratch_);
  }
}

std::string BertText::normalized(std::string_view text) {
  normalize(text, code_points_);
  std::string result;
  for (const char32_t c : code_points_) append_utf8(result, c);
  return result;
}

}  // namespace finesweep::worker
