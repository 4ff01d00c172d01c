#include <cstdlib>

namespace finesweep::tests {

const char* source_dir() {
  const char* named = std::getenv("FINESWEEP_SOURCE_DIR");
  return named ? named : FINESWEEP_BUILT_IN;
}

}  // namespace finesweep::tests
