#include "tests/storage/faulty_vfs.h"

#include <sqlite3.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace finesweep::storage {

namespace {

namespace fs = std::filesystem;

/// What an operation on a file that is not yet synced has replaced.
struct Unsynced {
  sqlite3_int64 offset;
  std::string before, after;  // of the same length; zeros beyond the end
};
struct Journaled {
  std::vector<Unsynced> operations;
  sqlite3_int64 synced_size = 0;
};

struct VfsState {
  bool exists = false;
  sqlite3_vfs vfs{};
  sqlite3_vfs* real = nullptr;
  int left = 0;
  Fault fault = Fault::io_error;
  bool failed = false;
  std::map<std::string, Journaled> unsynced;  // by path
};
VfsState vfs_state;

/// Behind it in memory: SQLite's own file.
struct File {
  sqlite3_file base;
  const char* path;  // SQLite's, valid as long as the file is open; null for temporary ones
  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
File& file_of(sqlite3_file* file) {
  return *reinterpret_cast<File*>(file);
}
sqlite3_file* real_of(sqlite3_file* file) {
  return file_of(file).real();
}

enum class VfsTurn { works, half, fails };

VfsTurn next(bool writes) {
  const bool is_turn = vfs_state.left > 0 && --vfs_state.left == 0;
  if (is_turn) vfs_state.failed = true;
  if (!vfs_state.failed) return VfsTurn::works;
  switch (vfs_state.fault) {
    case Fault::io_error:
      return is_turn ? VfsTurn::fails : VfsTurn::works;
    case Fault::no_space:
      return writes ? (is_turn ? VfsTurn::half : VfsTurn::fails) : VfsTurn::works;
    case Fault::torn:
      return is_turn && writes ? VfsTurn::half : VfsTurn::fails;
  }
  return VfsTurn::works;
}

int write_and_remember(File& file, const char* data, int bytes, sqlite3_int64 offset) {
  if (file.path) {
    sqlite3_int64 size = 0;
    file.real()->pMethods->xFileSize(file.real(), &size);
    auto& journaled = vfs_state.unsynced.try_emplace(file.path, Journaled{{}, size}).first->second;
    Unsynced& operation =
        journaled.operations.emplace_back(Unsynced{offset, std::string(static_cast<std::size_t>(bytes), '\0'),
                                                   std::string(data, static_cast<std::size_t>(bytes))});
    // A short read fills with zeros.
    if (offset < size) file.real()->pMethods->xRead(file.real(), operation.before.data(), bytes, offset);
  }
  return file.real()->pMethods->xWrite(file.real(), data, bytes, offset);
}

int x_close(sqlite3_file* file) {
  return real_of(file)->pMethods->xClose(real_of(file));
}
int x_read(sqlite3_file* file, void* into, int bytes, sqlite3_int64 offset) {
  return real_of(file)->pMethods->xRead(real_of(file), into, bytes, offset);
}
int x_write(sqlite3_file* file, const void* data, int bytes, sqlite3_int64 offset) {
  const auto* from = static_cast<const char*>(data);
  switch (next(true)) {
    case VfsTurn::works:
      return write_and_remember(file_of(file), from, bytes, offset);
    case VfsTurn::half:
      write_and_remember(file_of(file), from, bytes / 2, offset);
      break;
    case VfsTurn::fails:
      break;
  }
  return vfs_state.fault == Fault::no_space ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}
int x_truncate(sqlite3_file* file, sqlite3_int64 size) {
  if (next(false) != VfsTurn::works) return SQLITE_IOERR_TRUNCATE;
  File& opened = file_of(file);
  sqlite3_int64 old_size = 0;
  opened.real()->pMethods->xFileSize(opened.real(), &old_size);
  if (opened.path && size < old_size) {
    auto& journaled = vfs_state.unsynced.try_emplace(opened.path, Journaled{{}, old_size}).first->second;
    const auto cut = static_cast<std::size_t>(old_size - size);
    Unsynced& operation =
        journaled.operations.emplace_back(Unsynced{size, std::string(cut, '\0'), std::string(cut, '\0')});
    opened.real()->pMethods->xRead(opened.real(), operation.before.data(), static_cast<int>(cut), size);
  }
  return opened.real()->pMethods->xTruncate(opened.real(), size);
}
int x_sync(sqlite3_file* file, int) {
  if (next(false) != VfsTurn::works) return SQLITE_IOERR_FSYNC;
  // Nobody pulls the plug: the disk itself need not be waited for.
  if (file_of(file).path) vfs_state.unsynced.erase(file_of(file).path);
  return SQLITE_OK;
}
int x_file_size(sqlite3_file* file, sqlite3_int64* size) {
  return real_of(file)->pMethods->xFileSize(real_of(file), size);
}
int x_lock(sqlite3_file* file, int level) {
  return real_of(file)->pMethods->xLock(real_of(file), level);
}
int x_unlock(sqlite3_file* file, int level) {
  return real_of(file)->pMethods->xUnlock(real_of(file), level);
}
int x_check_reserved_lock(sqlite3_file* file, int* reserved) {
  return real_of(file)->pMethods->xCheckReservedLock(real_of(file), reserved);
}
int x_file_control(sqlite3_file* file, int operation, void* argument) {
  return real_of(file)->pMethods->xFileControl(real_of(file), operation, argument);
}
int x_sector_size(sqlite3_file* file) {
  return real_of(file)->pMethods->xSectorSize(real_of(file));
}
int x_device_characteristics(sqlite3_file*) {
  return 0;  // a disk that promises nothing
}
int x_shm_map(sqlite3_file* file, int region, int size, int extend, void volatile** into) {
  return real_of(file)->pMethods->xShmMap(real_of(file), region, size, extend, into);
}
int x_shm_lock(sqlite3_file* file, int offset, int count, int flags) {
  return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}
void x_shm_barrier(sqlite3_file* file) {
  real_of(file)->pMethods->xShmBarrier(real_of(file));
}
int x_shm_unmap(sqlite3_file* file, int remove) {
  return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

constexpr sqlite3_io_methods kMethods{2,
                                      x_close,
                                      x_read,
                                      x_write,
                                      x_truncate,
                                      x_sync,
                                      x_file_size,
                                      x_lock,
                                      x_unlock,
                                      x_check_reserved_lock,
                                      x_file_control,
                                      x_sector_size,
                                      x_device_characteristics,
                                      x_shm_map,
                                      x_shm_lock,
                                      x_shm_barrier,
                                      x_shm_unmap,
                                      nullptr,
                                      nullptr};

int x_open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* flags_out) {
  File& opened = file_of(file);
  opened.base.pMethods = nullptr;
  opened.path = name;
  const int code = vfs_state.real->xOpen(vfs_state.real, name, opened.real(), flags, flags_out);
  if (opened.real()->pMethods) opened.base.pMethods = &kMethods;
  return code;
}
int x_delete(sqlite3_vfs*, const char* name, int) {
  if (next(false) != VfsTurn::works) return SQLITE_IOERR_DELETE;
  vfs_state.unsynced.erase(name);
  return vfs_state.real->xDelete(vfs_state.real, name, 0);  // synced, as far as anybody can see
}

/// The power is back: of what was not synced, some is there and some is not.
void settle(const fs::path& path, const Journaled& journaled, std::mt19937& random) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  if (!file) return;  // removed
  const auto put = [&](sqlite3_int64 offset, const std::string& bytes) {
    file.seekp(offset);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  // First as it was at the last sync, then what reached the disk, in whatever order it did.
  for (auto operation = journaled.operations.rbegin(); operation != journaled.operations.rend(); ++operation)
    put(operation->offset, operation->before);
  file.flush();
  fs::resize_file(path, static_cast<std::uintmax_t>(journaled.synced_size));
  for (const Unsynced& operation : journaled.operations) {
    switch (random() % 3) {
      case 0:
        put(operation.offset, operation.after);
        break;
      case 1:
        put(operation.offset, operation.after.substr(0, random() % (operation.after.size() + 1)));
        break;
      default:
        break;
    }
  }
}

}  // namespace

FaultyVfs::FaultyVfs() {
  if (vfs_state.exists) throw std::logic_error("one faulty VFS at a time");
  vfs_state.exists = true;
  sqlite3_initialize();
  vfs_state.real = sqlite3_vfs_find(nullptr);
  vfs_state.vfs = *vfs_state.real;
  vfs_state.vfs.zName = "faulty";
  vfs_state.vfs.szOsFile = static_cast<int>(sizeof(File)) + vfs_state.real->szOsFile;
  vfs_state.vfs.pNext = nullptr;
  vfs_state.vfs.xOpen = x_open;
  vfs_state.vfs.xDelete = x_delete;
  sqlite3_vfs_register(&vfs_state.vfs, 1);
}
FaultyVfs::~FaultyVfs() {
  sqlite3_vfs_unregister(&vfs_state.vfs);
  sqlite3_vfs_register(vfs_state.real, 1);
  vfs_state = {};
}
void FaultyVfs::fail_at(int n, Fault fault) {
  vfs_state.left = n;
  vfs_state.fault = fault;
  vfs_state.failed = false;
}
bool FaultyVfs::failed() const {
  return vfs_state.failed;
}
void FaultyVfs::mend(unsigned seed) {
  if (vfs_state.failed && vfs_state.fault == Fault::torn) {
    std::mt19937 random(seed);
    for (const auto& [path, journaled] : vfs_state.unsynced) settle(path, journaled, random);
    vfs_state.unsynced.clear();
  }
  vfs_state.left = 0;
  vfs_state.failed = false;
}

}  // namespace finesweep::storage
