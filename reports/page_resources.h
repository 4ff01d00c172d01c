#pragma once

#include <string_view>

namespace finesweep::reports {

// What report.html inlines; built into the program from reports/page/ and from Chart.js
// (cmake/page_resources.cmake).

std::string_view page_styles();
std::string_view page_script();
/// Chart.js as its package has it, with its licence.
std::string_view chart_library();

}  // namespace finesweep::reports
