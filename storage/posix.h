#pragma once

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "jobs/result.h"

namespace finesweep::storage {

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  /// Closes now; the status of close(), which on network file systems is where a failed write shows.
  int close();

 private:
  int fd_;
};

/// open() with O_CLOEXEC, again after a signal.
Descriptor open_file(const std::filesystem::path& path, int flags, unsigned mode = 0666);

/// "cannot <action> <path>: <reason>", with what to do where `number` (an errno) tells.
Error system_error(const std::string& action, const std::filesystem::path& path, int number = errno);

/// Writes all bytes at the descriptor's position; false with errno set.
bool write_all(int fd, const char* data, std::size_t bytes);
/// The same at an offset; the descriptor's position does not matter.
bool write_all_at(int fd, std::string_view bytes, std::int64_t offset);

}  // namespace finesweep::storage
