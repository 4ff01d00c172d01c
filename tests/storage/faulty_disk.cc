// Otherwise the C library's headers define some of what is defined here.
#undef _FORTIFY_SOURCE

#include "tests/storage/faulty_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace finesweep::storage {

namespace {

// What a call does, as far as a fault cares.
enum class Call { write, sync, make, move, remove };

struct DiskState {
  std::string folder;  // empty: nothing is watched
  int left = 0;        // calls until the fault; 0: none is to come
  Fault fault = Fault::io_error;
  bool failed = false;
};
DiskState disk;

bool is_watched(std::string_view path) {
  return !disk.folder.empty() && path.starts_with(disk.folder);
}
bool is_watched(int fd) {
  if (disk.folder.empty()) return false;
  std::array<char, 4096> path;
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), path.data(), path.size());
  return length > 0 && is_watched(std::string_view(path.data(), static_cast<std::size_t>(length)));
}
bool is_watched(int folder, const char* path) {
  return path[0] == '/' || folder == AT_FDCWD ? is_watched(std::string_view(path)) : is_watched(folder);
}

enum class Turn { works, half, fails };

/// What becomes of this call; errno is set where it fails.
Turn next(Call call) {
  const bool is_turn = disk.left > 0 && --disk.left == 0;
  if (is_turn) disk.failed = true;
  if (!disk.failed) return Turn::works;
  switch (disk.fault) {
    case Fault::io_error:
      errno = EIO;
      return is_turn ? Turn::fails : Turn::works;
    case Fault::no_space:
      if (is_turn && call == Call::write) return Turn::half;
      errno = ENOSPC;
      return call == Call::write || call == Call::make ? Turn::fails : Turn::works;
    case Fault::torn:
      if (is_turn && call == Call::write) return Turn::half;
      errno = EIO;
      return Turn::fails;
  }
  return Turn::works;
}

/// A write of `bytes` by `write`, whole or in part.
template <typename Watched, typename Write>
ssize_t faulty_write(const Watched& watched, std::size_t bytes, Write write) {
  if (!is_watched(watched)) return write(bytes);
  switch (next(Call::write)) {
    case Turn::works:
      return write(bytes);
    case Turn::half:
      return write(bytes / 2);
    case Turn::fails:
      break;
  }
  return -1;
}

template <typename Work>
int faulty(bool watched, Call call, Work work) {
  if (watched && next(call) == Turn::fails) return -1;
  return static_cast<int>(work());
}

template <typename Work>
int faulty_open(bool watched, int flags, Work work) {
  return faulty(watched && (flags & O_CREAT) != 0, Call::make, work);
}

}  // namespace

FaultyDisk::FaultyDisk(const std::filesystem::path& folder) {
  if (!disk.folder.empty()) throw std::logic_error("one faulty disk at a time");
  disk.folder = folder.string();
}
FaultyDisk::~FaultyDisk() {
  disk = {};
}
void FaultyDisk::fail_at(int n, Fault fault) {
  disk.left = n;
  disk.fault = fault;
  disk.failed = false;
}
bool FaultyDisk::failed() const {
  return disk.failed;
}
void FaultyDisk::mend() {
  disk.left = 0;
  disk.failed = false;
}

}  // namespace finesweep::storage

// The program's own definitions come before the C library's, for its shared libraries too.
using namespace finesweep::storage;

extern "C" {

ssize_t write(int fd, const void* data, size_t bytes) {
  return faulty_write(fd, bytes, [&](size_t n) { return syscall(SYS_write, fd, data, n); });
}
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  return faulty_write(fd, bytes, [&](size_t n) { return syscall(SYS_pwrite64, fd, data, n, offset); });
}
ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  return pwrite(fd, data, bytes, offset);
}
ssize_t writev(int fd, const iovec* parts, int count) {
  // Half of the parts, in place of half of the bytes.
  return faulty_write(fd, static_cast<size_t>(count), [&](size_t n) { return syscall(SYS_writev, fd, parts, n); });
}
// Nobody pulls the plug: below the folder the disk itself need not be waited for.
int fsync(int fd) {
  return is_watched(fd) ? faulty(true, Call::sync, [] { return 0; }) : static_cast<int>(syscall(SYS_fsync, fd));
}
int fdatasync(int fd) {
  return is_watched(fd) ? faulty(true, Call::sync, [] { return 0; }) : static_cast<int>(syscall(SYS_fdatasync, fd));
}
int ftruncate(int fd, off_t length) noexcept {
  return faulty(is_watched(fd), Call::sync, [&] { return syscall(SYS_ftruncate, fd, length); });
}
int rename(const char* from, const char* to) noexcept {
  return faulty(is_watched(std::string_view(from)), Call::move, [&] { return syscall(SYS_rename, from, to); });
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  return faulty(is_watched(from_folder, from), Call::move,
                [&] { return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags); });
}
int mkdir(const char* path, mode_t mode) noexcept {
  return faulty(is_watched(std::string_view(path)), Call::make, [&] { return syscall(SYS_mkdir, path, mode); });
}
int unlink(const char* path) noexcept {
  return faulty(is_watched(std::string_view(path)), Call::remove, [&] { return syscall(SYS_unlink, path); });
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  return faulty(is_watched(folder, path), Call::remove, [&] { return syscall(SYS_unlinkat, folder, path, flags); });
}
int rmdir(const char* path) noexcept {
  return faulty(is_watched(std::string_view(path)), Call::remove, [&] { return syscall(SYS_rmdir, path); });
}
int remove(const char* path) noexcept {
  return faulty(is_watched(std::string_view(path)), Call::remove, [&] {
    const long removed = syscall(SYS_unlink, path);
    return removed != 0 && errno == EISDIR ? syscall(SYS_rmdir, path) : removed;
  });
}
int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return faulty_open(is_watched(std::string_view(path)), flags,
                     [&] { return syscall(SYS_openat, AT_FDCWD, path, flags, mode); });
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open(path, flags, mode);
}

}  // extern "C"
