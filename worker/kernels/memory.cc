#include "worker/kernels/memory.h"

#include <cstdlib>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace finesweep::worker {

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kLarge = 1 << 30, kLargestBefore235 = 1 << 25;  // glibc before 2.35 refuses more
  if (mallopt(M_MMAP_THRESHOLD, kLarge) == 0) mallopt(M_MMAP_THRESHOLD, kLargestBefore235);
  mallopt(M_TRIM_THRESHOLD, kLarge);
#endif
}

bool tells_of_no_memory(const std::string& words) {
  return words.find("DefaultCPUAllocator") != std::string::npos;
}

}  // namespace finesweep::worker
