#include "worker/kernels/cuda/library.h"

#include <cstdio>
#include <filesystem>

namespace finesweep::worker {

void* open_beside_program(const char* file) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  // The bundle keeps libraries in lib/, test programs two folders below it.
  for (const char* place : {"", "../lib", "../../../lib"}) {
    const std::filesystem::path path = folder / place / file;
    if (!std::filesystem::exists(path, ignored)) continue;
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    std::fprintf(stderr, "%s cannot be loaded: %s\n", file, dlerror());
  }
  return nullptr;
}

}  // namespace finesweep::worker
