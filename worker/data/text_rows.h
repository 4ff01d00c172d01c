#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"

namespace finesweep::worker {

/// A row of a language model's data: plain text, or a source with the target that is to be written for it.
struct TextRow {
  std::string text;                   // or the source
  std::optional<std::string> target;  // never blank
  std::int64_t line = 0;              // in its file
};

/// The rows of a split: fields chosen (source and target where the sweep file names them, else the text), limited
/// to the first rows of a seeded shuffle where there is a limit. All rows have a target or none has.
///
/// The Error gives file and line, or says that the split is not there or has no rows. A blank target is one.
Result<std::vector<TextRow>> read_text_rows(const DataContext& data, const std::string& split);

}  // namespace finesweep::worker
