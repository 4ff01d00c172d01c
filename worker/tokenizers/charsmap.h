#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"

namespace finesweep::worker {

/// The `precompiled_charsmap` of a SentencePiece model: which characters become what. A double array
/// (https://github.com/s-yata/darts-clone) whose values are offsets into texts that end with NUL.
class Charsmap {
 public:
  /// Of the bytes as spiece.model holds them; tokenizer.json has them in base64.
  static Result<Charsmap> parse(std::string_view bytes);

  /// The normaliser `Precompiled` of the Hugging Face `tokenizers` package, peculiarities included: a grapheme of
  /// less than six bytes is replaced as a whole by what its shortest known beginning maps to; else each character
  /// is looked up alone. `text` must be valid UTF-8; `out` is cleared first.
  void normalize(std::string_view text, std::string& out) const;

 private:
  std::optional<std::string_view> transform(std::string_view part) const;

  std::vector<std::uint32_t> units_;
  std::string texts_;
  std::array<bool, 128> keeps_ascii_{};
};

std::optional<std::string> decode_base64(std::string_view text);

}  // namespace finesweep::worker
