#include "worker/data/prompt.h"

namespace finesweep::worker {

Result<Prompt> Prompt::make(const std::string& text, Around around, Tokenizer& tokenizer) {
  constexpr std::string_view place = "{source}";
  const std::string_view whole = text.empty() ? place : std::string_view(text);
  const std::size_t found = whole.find(place);
  if (found == std::string_view::npos || found != whole.rfind(place)) {
    return Error{"data.prompt must hold {source} once, where the source is put."};
  }
  Prompt prompt(tokenizer);
  prompt.text_before_ = whole.substr(0, found);
  prompt.text_after_ = whole.substr(found + place.size());
  bool behind = false;
  for (const auto& piece : tokenizer.traits().sequence_template.single) {
    behind |= piece.sequence == 0;
    auto& ids = behind ? prompt.end_ : prompt.beginning_;
    if (!behind || around == Around::both_sides) ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
  }
  prompt.before_ = prompt.beginning_.size() + tokenizer.ids_of(prompt.text_before_).size();
  prompt.after_ = tokenizer.ids_of(prompt.text_after_);
  prompt.after_.insert(prompt.after_.end(), prompt.end_.begin(), prompt.end_.end());
  return prompt;
}

Prompt::Ids Prompt::encode(std::string_view source, std::int64_t most) {
  std::string text = text_before_;
  text.append(source).append(text_after_);
  Ids prompt{beginning_, false};
  tokenizer_->append_ids(text, prompt.ids);
  prompt.ids.insert(prompt.ids.end(), end_.begin(), end_.end());
  if (static_cast<std::int64_t>(prompt.ids.size()) <= most) return prompt;

  // Tokens of the whole prompt up to the cut, so that a row that is cut reads like one that is not.
  prompt.ids.resize(static_cast<std::size_t>(most) - after_.size());
  prompt.ids.insert(prompt.ids.end(), after_.begin(), after_.end());
  prompt.is_cut = true;
  return prompt;
}

}  // namespace finesweep::worker
