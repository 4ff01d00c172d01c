#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/result.h"

namespace finesweep::worker {

/// A regular expression of tokenizer.json that is not one of SplitPattern's: ICU's engine, told to read what
/// Oniguruma with Ruby's syntax reads where the two differ (\s, ^, $, and the letters and numbers of Unicode 16).
/// Of other classes, characters newer than ICU's Unicode belong to none.
class RegularExpression {
 public:
  static Result<std::unique_ptr<RegularExpression>> compile(const std::string& pattern);
  ~RegularExpression();

  /// Begin and end of every match, in order; empty ones are left out. A text that takes the engine absurdly long
  /// has no further matches.
  void find_all(std::string_view text, std::vector<std::pair<std::size_t, std::size_t>>& matches) const;

 private:
  struct Engine;
  explicit RegularExpression(std::unique_ptr<Engine> engine);
  std::unique_ptr<Engine> engine_;
};

}  // namespace finesweep::worker
