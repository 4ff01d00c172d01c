#pragma once

#include <cstddef>
#include <string_view>

namespace finesweep::worker {

/// Extended grapheme clusters of Unicode 17 (UAX #29), one after the other, as the unicode-segmentation package of
/// Rust cuts them. The text must be valid UTF-8 and outlive the object.
class Graphemes {
 public:
  explicit Graphemes(std::string_view text) : text_(text) {}
  /// Empty at the end.
  std::string_view next();

 private:
  enum class Conjunct { none, consonant, linked };  // a consonant, marks after it, a linker among them
  enum class Emoji { none, pictograph, joined };    // a pictograph, marks after it, then a joiner
  void pass(char32_t c, int property);

  std::string_view text_;
  std::size_t position_ = 0;
  Conjunct conjunct_ = Conjunct::none;
  Emoji emoji_ = Emoji::none;
  std::size_t regional_indicators_ = 0;  // that stand directly before position_
};

/// Grapheme_Cluster_Break, with what the rules for Indic conjuncts and emoji ask beside it.
enum GraphemeProperty : unsigned char {
  grapheme_other,
  grapheme_control,
  grapheme_carriage_return,
  grapheme_line_feed,
  grapheme_extend,
  grapheme_joiner,
  grapheme_spacing_mark,
  grapheme_prepend,
  grapheme_regional_indicator,
  grapheme_hangul_l,
  grapheme_hangul_v,
  grapheme_hangul_t,
  grapheme_hangul_lv,
  grapheme_hangul_lvt,
  grapheme_consonant,
  grapheme_pictograph,
};
GraphemeProperty grapheme_property(char32_t c);

}  // namespace finesweep::worker
