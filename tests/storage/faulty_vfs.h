#pragma once

#include "tests/storage/faulty_disk.h"

namespace finesweep::storage {

/// While one lives, it is SQLite's way to the disk in this process (its default VFS): it counts what changes the
/// disk (writes, truncations, syncs, removals) and makes one of them go wrong. One at a time, for tests with one
/// thread.
class FaultyVfs {
 public:
  FaultyVfs();
  ~FaultyVfs();
  FaultyVfs(const FaultyVfs&) = delete;

  /// The n-th operation from here on (from 1) goes wrong. Fault::torn: the power fails in its midst.
  void fail_at(int n, Fault fault);
  bool failed() const;
  /// Everything works again. After Fault::torn all databases must be closed: what was written since the last sync
  /// is on the disk whole, in part, or not at all, as `seed` says.
  void mend(unsigned seed = 0);
};

}  // namespace finesweep::storage
