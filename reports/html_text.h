#pragma once

#include <string>

#include "jobs/json.h"

namespace finesweep::reports {

/// As text between tags or in a quoted attribute of HTML or XML: on one line, markup and bytes that are no UTF-8
/// replaced.
std::string html_escaped(const std::string& text);

/// JSON that can stand inside a script element: no byte of it is '<', '>' or '&'.
std::string json_for_script(const Json& json);

/// "sha256-…", as Content-Security-Policy names an inline script.
std::string script_hash(const std::string& script);

}  // namespace finesweep::reports
