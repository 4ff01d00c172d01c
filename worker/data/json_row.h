#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/data/table.h"

namespace finesweep::worker {

/// The values of some fields of a JSON object; of a field that stands there twice, the last. The rest of the object
/// is read past without keeping it, so its size and depth cost no memory. The Error says what is wrong, without
/// file and line.
Result<std::vector<Cell>> read_json_row(std::string_view text, const std::vector<std::string>& columns);

}  // namespace finesweep::worker
