#pragma once

#include <string>
#include <string_view>

namespace finesweep::worker {

/// The stem of a word in lower case, as NLTK's PorterStemmer in its default mode (NLTK_EXTENSIONS) has it: Porter
/// 1980, "An algorithm for suffix stripping", with NLTK's irregular forms and amended rules. Anything but a, e, i,
/// o, u and some y counts as a consonant, digits too. Linear in the length of the word.
std::string porter_stem(std::string_view word);

}  // namespace finesweep::worker
