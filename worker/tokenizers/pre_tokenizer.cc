#include "worker/tokenizers/pre_tokenizer.h"

#include <algorithm>

#include "worker/tokenizers/normalizer.h"

namespace finesweep::worker {

/// Depth first: every part goes through all later steps before the next part is looked for, so a step needs one
/// buffer.
struct PreTokenizer::Run {
  PreTokenizer& owner;
  WordSink& sink;
  std::size_t index = 0;  // of the step at work
  std::string_view text;
  bool first = false;

  void pass(std::string_view part) {
    if (part.empty()) return;
    if (index + 1 == owner.steps_.size()) return sink.append_word(part);
    Run next{owner, sink, index + 1, part, first && part.data() == text.data()};
    next.run();
  }
  void run() { std::visit(*this, owner.steps_[index]); }

  void operator()(const Pattern& step) {
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at < end) {
      const char* next = step.pattern.next(owner.classes_, at, end);
      pass({at, static_cast<std::size_t>(next - at)});
      at = next;
    }
  }

  void operator()(const Digits& step) {
    std::size_t begin = 0;
    bool in_digits = false;
    for (std::size_t i = 0; i < text.size();) {
      const char* at = text.data() + i;
      const bool ascii = static_cast<signed char>(*at) >= 0;
      const CodePoint c = ascii ? CodePoint{0, 1} : code_point_at(at);
      const bool digit =
          ascii ? *at >= '0' && *at <= '9' : (owner.classes_.of(c.value) & CharacterClasses::numeric) != 0;
      if (digit != in_digits || (digit && step.individual)) {
        pass(text.substr(begin, i - begin));
        begin = i;
        in_digits = digit;
      }
      i += c.size;
    }
    pass(text.substr(begin));
  }

  void operator()(WhitespaceSplit) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size();) {
      const char* at = text.data() + i;
      const bool ascii = static_cast<signed char>(*at) >= 0;
      const CodePoint c = ascii ? CodePoint{static_cast<char32_t>(*at), 1} : code_point_at(at);
      if (ascii ? c.value == 0x20 || (c.value >= 0x9 && c.value <= 0xD) : is_white_space(c.value)) {
        pass(text.substr(begin, i - begin));
        begin = i + c.size;
      }
      i += c.size;
    }
    pass(text.substr(begin));
  }

  void operator()(const Metaspace& step) {
    std::string& out = owner.scratch_[index].text;
    out.clear();
    const bool wanted =
        step.prepend == Metaspace::Prepend::always || (step.prepend == Metaspace::Prepend::first && first);
    if (wanted && !text.starts_with(step.replacement) && !text.starts_with(' ')) out = step.replacement;
    replace_all(text, " ", step.replacement, out);
    if (text.empty()) return;
    text = out;
    if (!step.split) return pass(out);
    std::size_t begin = 0;
    while (begin < out.size()) {
      const std::size_t end = std::min(out.find(step.replacement, begin + 1), out.size());
      pass(std::string_view(out).substr(begin, end - begin));
      begin = end;
    }
  }

  void operator()(const Split& step) {
    auto& matches = owner.scratch_[index].matches;
    if (step.expression) {
      step.expression->find_all(text, matches);
    } else {
      matches.clear();
      for (std::size_t at = 0; !step.text.empty() && (at = text.find(step.text, at)) != text.npos;) {
        matches.emplace_back(at, at + step.text.size());
        at += step.text.size();
      }
    }
    struct Part {
      std::size_t begin, end;
      bool delimiter;
    };
    std::vector<Part> parts;
    std::size_t taken = 0;
    for (const auto& [begin, end] : matches) {
      if (begin > taken) parts.push_back({taken, begin, step.invert});
      parts.push_back({begin, end, !step.invert});
      taken = end;
    }
    if (taken < text.size()) parts.push_back({taken, text.size(), step.invert});
    std::vector<Part> merged;
    bool previous = false;  // the part before was a delimiter
    for (const Part& part : parts) {
      bool joins = false;
      if (!merged.empty()) {
        if (step.delimiter == Delimiter::contiguous) joins = part.delimiter == previous;
        if (step.delimiter == Delimiter::merged_with_previous) joins = part.delimiter && !previous;
        if (step.delimiter == Delimiter::merged_with_next) joins = !part.delimiter && previous;
      }
      if (joins) {
        merged.back().end = part.end;
      } else if (step.delimiter != Delimiter::removed || !part.delimiter) {
        merged.push_back(part);
      }
      previous = part.delimiter;
    }
    for (const Part& part : merged) pass(text.substr(part.begin, part.end - part.begin));
  }

  void operator()(PrefixSpace) {
    if (text.starts_with(' ')) return pass(text);
    std::string& out = owner.scratch_[index].text;
    out = ' ';
    out += text;
    text = out;
    pass(out);
  }
};

void PreTokenizer::add(Step step) {
  steps_.push_back(std::move(step));
  scratch_.resize(steps_.size());
}

void PreTokenizer::split(std::string_view text, bool first, WordSink& sink) {
  if (text.empty()) return;
  if (steps_.empty()) return sink.append_word(text);
  Run{*this, sink, 0, text, first}.run();
}

}  // namespace finesweep::worker
