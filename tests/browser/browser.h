#pragma once

#include <gtest/gtest.h>

#include <string>

namespace finesweep::tests {

/// FINESWEEP_BROWSER, else a Chromium in PATH; empty: there is none. scripts/setup does not install one.
std::string browser();

#define SKIP_WITHOUT_BROWSER(what)         \
  if (finesweep::tests::browser().empty()) \
  GTEST_SKIP() << what << " is NOT tested in a browser: install chromium, or set FINESWEEP_BROWSER"

/// The document after its scripts have run for some seconds. `address` holds nothing that a shell would take.
std::string loaded_page(const std::string& address);

}  // namespace finesweep::tests
