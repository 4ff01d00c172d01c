#pragma once

#include <exception>
#include <string>

namespace finesweep {

/// Of the last call into libfinesweep-graph.so on this thread that failed.
std::string& last_library_error();

/// 0, or 1 where `work` threw: then its words are kept.
template <typename Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    const std::string words = error.what();
    last_library_error() = words.substr(0, words.find('\n'));
    return 1;
  }
}

}  // namespace finesweep
