#include "jobs/json.h"

namespace finesweep {

Result<Json> parse_json(const std::string& text, const std::string& what) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return Error{what + ": not valid JSON: " + e.what()};
  }
}

}  // namespace finesweep
