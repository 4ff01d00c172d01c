#include "worker/tokenizers/graphemes.h"

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {
namespace {

/// InCB=Linker of Unicode 17.
bool is_linker(char32_t c) {
  switch (c) {
    case 0x94D:
    case 0x9CD:
    case 0xACD:
    case 0xB4D:
    case 0xC4D:
    case 0xD4D:
    case 0x1039:
    case 0x17D2:
    case 0x1A60:
    case 0x1B44:
    case 0x1BAB:
    case 0xA9C0:
    case 0xAAF6:
    case 0x10A3F:
    case 0x11133:
    case 0x113D0:
    case 0x1193E:
    case 0x11A47:
    case 0x11A99:
    case 0x11F42:
      return true;
    default:
      return false;
  }
}

bool is_control(int property) {
  return property == grapheme_control || property == grapheme_carriage_return || property == grapheme_line_feed;
}

/// Rules GB3 to GB9b; GB9c to GB13 look further back.
bool stays_together(int before, int after) {
  if (before == grapheme_carriage_return && after == grapheme_line_feed) return true;
  if (is_control(before) || is_control(after)) return false;
  const bool vowel = after == grapheme_hangul_v, trail = after == grapheme_hangul_t;
  if (before == grapheme_hangul_l &&
      (after == grapheme_hangul_l || vowel || after == grapheme_hangul_lv || after == grapheme_hangul_lvt)) {
    return true;
  }
  if ((before == grapheme_hangul_lv || before == grapheme_hangul_v) && (vowel || trail)) return true;
  if ((before == grapheme_hangul_lvt || before == grapheme_hangul_t) && trail) return true;
  return after == grapheme_extend || after == grapheme_joiner || after == grapheme_spacing_mark ||
         before == grapheme_prepend;
}

}  // namespace

void Graphemes::pass(char32_t c, int property) {
  const bool extends = property == grapheme_extend || property == grapheme_joiner;
  if (property == grapheme_consonant) {
    conjunct_ = Conjunct::consonant;
  } else if (is_linker(c)) {
    if (conjunct_ != Conjunct::none) conjunct_ = Conjunct::linked;
  } else if (!extends || c == 0x200C) {  // the non-joiner extends graphemes but not conjuncts
    conjunct_ = Conjunct::none;
  }
  if (property == grapheme_pictograph) {
    emoji_ = Emoji::pictograph;
  } else if (property == grapheme_joiner && emoji_ == Emoji::pictograph) {
    emoji_ = Emoji::joined;
  } else if (property != grapheme_extend || emoji_ == Emoji::joined) {
    emoji_ = Emoji::none;
  }
  regional_indicators_ = property == grapheme_regional_indicator ? regional_indicators_ + 1 : 0;
}

std::string_view Graphemes::next() {
  const std::size_t begin = position_;
  int before = grapheme_other;
  while (position_ < text_.size()) {
    const CodePoint c = code_point_at(text_.data() + position_);
    const int property = grapheme_property(c.value);
    if (position_ > begin) {
      bool together = stays_together(before, property);
      if (!together && !is_control(before) && !is_control(property)) {
        together = (property == grapheme_consonant && conjunct_ == Conjunct::linked) ||
                   (property == grapheme_pictograph && emoji_ == Emoji::joined) ||
                   (property == grapheme_regional_indicator && regional_indicators_ % 2 == 1);
      }
      if (!together) break;
    }
    pass(c.value, property);
    before = property;
    position_ += c.size;
  }
  return text_.substr(begin, position_ - begin);
}

}  // namespace finesweep::worker
