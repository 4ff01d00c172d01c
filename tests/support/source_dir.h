#pragma once

namespace finesweep::tests {

/// The root of the repository: where it was built, or what the environment variable FINESWEEP_SOURCE_DIR names
/// (tests that run on another machine than the one that built them).
const char* source_dir();

}  // namespace finesweep::tests

/// A call and not a text, so that the objects of the tests do not depend on where the repository lies and ccache
/// serves one clone from another.
#define FINESWEEP_SOURCE_DIR ::finesweep::tests::source_dir()
