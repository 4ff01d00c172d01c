#include "worker/tokenizers/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

namespace finesweep::worker {
namespace {

struct ApplyNormalizer {
  std::string_view text;
  std::string& out;
  const CharacterClasses& classes;
  bool& dropped_beginning;

  template <typename Use>
  void each(Use&& use) {
    for (std::size_t i = 0; i < text.size();) {
      const CodePoint c = code_point_at(text.data() + i);
      use(c.value);
      i += c.size;
    }
  }

  void operator()(const Normalizer::Replace& step) {
    if (!step.expression) return replace_all(text, step.text, step.content, out);
    std::vector<std::pair<std::size_t, std::size_t>> matches;
    step.expression->find_all(text, matches);
    std::size_t taken = 0;
    for (const auto& [begin, end] : matches) {
      out += text.substr(taken, begin - taken);
      out += step.content;
      taken = end;
    }
    out += text.substr(taken);
  }

  void operator()(const Normalizer::Prepend& step) {
    if (!text.empty()) out = step.content;
    out += text;
  }

  void operator()(const Normalizer::Strip& step) {
    std::size_t begin = text.size(), end = 0, at = 0;
    each([&](char32_t c) {
      const std::size_t size = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
      if (!is_white_space(c)) {
        begin = std::min(begin, at);
        end = at + size;
      }
      at += size;
    });
    if (!step.left) begin = 0;
    dropped_beginning |= begin > 0;
    if (!step.right) end = text.size();
    if (begin < end) out = text.substr(begin, end - begin);
  }

  void operator()(Normalizer::Lowercase) {
    each([&](char32_t c) {
      if (c < 0x80) {
        out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
      } else {
        for (const char32_t lower : lower_case(c)) append_utf8(out, lower);
      }
    });
  }

  void operator()(Normalizer::StripAccents) {
    each([&](char32_t c) {
      if (!(classes.of(c) & CharacterClasses::combining)) {
        append_utf8(out, c);
      } else if (out.empty()) {
        dropped_beginning = true;
      }
    });
  }

  void operator()(Normalizer::Form form) {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* base = form == Normalizer::Form::nfc    ? icu::Normalizer2::getNFCInstance(error)
                                   : form == Normalizer::Form::nfd  ? icu::Normalizer2::getNFDInstance(error)
                                   : form == Normalizer::Form::nfkc ? icu::Normalizer2::getNFKCInstance(error)
                                                                    : icu::Normalizer2::getNFKDInstance(error);
    static const icu::UnicodeSet known = [] {
      UErrorCode code = U_ZERO_ERROR;
      icu::UnicodeSet set(u"[:age=9.0:]", code);
      set.freeze();
      return set;
    }();
    if (U_FAILURE(error)) {
      out = text;
      return;
    }
    const icu::FilteredNormalizer2 normalizer(*base, known);
    icu::StringByteSink<std::string> sink(&out);
    normalizer.normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink,
                             nullptr, error);
  }

  void operator()(const Charsmap& map) { map.normalize(text, out); }
};

}  // namespace

void replace_all(std::string_view text, std::string_view from, std::string_view to, std::string& out) {
  std::size_t taken = 0;
  while (!from.empty()) {
    const std::size_t at = text.find(from, taken);
    if (at == std::string_view::npos) break;
    out += text.substr(taken, at - taken);
    out += to;
    taken = at + from.size();
  }
  out += text.substr(taken);
}

std::string_view Normalizer::normalize(std::string_view text) {
  std::size_t turn = 0;
  dropped_beginning_ = false;
  for (const Step& step : steps_) {
    std::string& out = buffers_[turn++ % 2];
    out.clear();
    std::visit(ApplyNormalizer{text, out, classes_, dropped_beginning_}, step);
    text = out;
  }
  return text;
}

}  // namespace finesweep::worker
