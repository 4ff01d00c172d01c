#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "jobs/result.h"

namespace finesweep {

/// Keys are kept sorted, so dump() of equal values gives equal bytes: the canonical form that is hashed.
using Json = nlohmann::json;

/// Parses JSON text; the Error names `what` and the byte where it went wrong.
Result<Json> parse_json(const std::string& text, const std::string& what);

}  // namespace finesweep
