#pragma once

#include <string_view>

namespace finesweep::coordinator {

/// page/status.html, with @styles@ and @nonce@ to be put in. cmake/page_resources.cmake makes it a literal.
std::string_view status_page();

}  // namespace finesweep::coordinator
