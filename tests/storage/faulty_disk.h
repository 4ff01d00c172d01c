#pragma once

#include <filesystem>

namespace finesweep::storage {

/// What goes wrong at a call that changes the disk.
enum class Fault {
  /// The call fails; the next one works.
  io_error,
  /// From here on there is no space: a write has room for half its bytes, then nothing can be written or made.
  /// Renaming and removing still work.
  no_space,
  /// The process is gone: a write has written half its bytes, and nothing after it happens.
  torn,
};

/// Makes the disk below a folder fail under this process, whatever library writes there: stands in front of the C
/// library's write, pwrite, writev, fsync, fdatasync, ftruncate, rename, mkdir, unlink and so on. One at a time,
/// for tests with one thread.
class FaultyDisk {
 public:
  /// `folder` is absolute.
  explicit FaultyDisk(const std::filesystem::path& folder);
  ~FaultyDisk();
  FaultyDisk(const FaultyDisk&) = delete;

  /// The n-th call from here on (from 1) goes wrong.
  void fail_at(int n, Fault fault);
  /// Whether it has.
  bool failed() const;
  /// Everything works again.
  void mend();
};

}  // namespace finesweep::storage
