#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "worker/formats/file_reader.h"

namespace finesweep::worker {

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

/// A file in memory: the fuzzer's bytes, behind them as many zeros as the first three bytes say. So a header may
/// speak of tensors that no input has room for.
class WeightFile {
 public:
  WeightFile(const std::uint8_t* data, std::size_t size) : data_(data + 3), size_(size - 3) {
    bytes = size_ + (data[0] | data[1] << 8 | data[2] << 16);
  }

  std::string read(void* into, std::uint64_t count, std::uint64_t offset) const {
    require(offset <= bytes && count <= bytes - offset, "a read beyond the end of the file");
    std::memset(into, 0, count);
    if (offset < size_) std::memcpy(into, data_ + offset, std::min<std::uint64_t>(count, size_ - offset));
    return {};
  }
  ReadAt reader() const {
    return [this](void* into, std::uint64_t count, std::uint64_t offset) { return read(into, count, offset); };
  }

  std::uint64_t bytes = 0;

 private:
  const std::uint8_t* data_;
  std::uint64_t size_;
};

/// A reason that a user may see.
inline void check_reason(const std::string& reason) {
  require(!reason.empty(), "refused without a reason");
  require(reason.size() < 1000, "the reason is too long");
  for (const char c : reason)
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "the reason has control characters");
}

}  // namespace finesweep::worker
