#pragma once

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace finesweep::worker {

/// A folder in memory for readers that take paths; it ends with the process.
class MemoryFolder {
 public:
  MemoryFolder() {
    std::string name =
        (std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp") + std::string("/finesweep-fuzz-XXXXXX");
    if (!::mkdtemp(name.data())) std::abort();
    path_ = name;
  }
  ~MemoryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path put(const std::string& name, std::string_view bytes) const {
    const auto path = path_ / name;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (!file || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size() || std::fclose(file) != 0)
      std::abort();
    return path;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace finesweep::worker
