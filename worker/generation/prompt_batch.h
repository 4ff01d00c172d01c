#pragma once

#include <cstdint>
#include <vector>

#include "worker/data/batch.h"

namespace finesweep::worker {

/// Rows of ids, none empty, padded on the right to the longest: the model works on the real tokens alone.
Batch batch_of(const std::vector<std::vector<std::int64_t>>& rows);

}  // namespace finesweep::worker
