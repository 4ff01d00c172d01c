#include "storage/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "jobs/crash_point.h"
#include "jobs/sha256.h"
#include "storage/posix.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

/// A name in the same folder that no other process or thread uses.
fs::path beside(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  std::string name = ".";
  name.append(path.filename().string()).append(".tmp-").append(std::to_string(::getpid()));
  name.append("-").append(std::to_string(counter.fetch_add(1)));
  return parent_of(path) / name;
}

bool exists_without_following(const fs::path& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

/// 0, or -1 with errno. EEXIST where `to` exists.
int rename_to_new_name(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // The file system (NFS, for one) knows no RENAME_NOREPLACE. One process alone publishes under a name, so looking
  // first is enough.
  if (exists_without_following(to)) {
    errno = EEXIST;
    return -1;
  }
  return ::rename(from.c_str(), to.c_str());
}

}  // namespace

Result<std::string> read_file(const fs::path& path) {
  const Descriptor file = open_file(path, O_RDONLY);
  if (!file.ok()) return system_error("read", path);
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return system_error("read", path);
  if (S_ISDIR(info.st_mode)) return system_error("read", path, EISDIR);
  std::string bytes;
  bytes.reserve(static_cast<std::size_t>(info.st_size) + 1);
  std::size_t used = 0;
  for (;;) {
    // The size is a hint only: /proc says 0, and a file may grow.
    bytes.resize(std::max<std::size_t>(used + 4096, static_cast<std::size_t>(info.st_size) + 1));
    const ssize_t got = ::read(file.get(), bytes.data() + used, bytes.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("read", path);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
  }
  bytes.resize(used);
  return bytes;
}

Status write_file_atomically(const fs::path& path, std::string_view bytes, unsigned mode) {
  const fs::path temporary = beside(path);
  crash_point("file.before_write");
  Descriptor file = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  if (!file.ok()) return system_error("write", path);
  bool whole = write_all(file.get(), bytes.data(), bytes.size());
  crash_point("file.written");
  whole = whole && ::fsync(file.get()) == 0 && file.close() == 0;
  crash_point("file.synced");
  if (!whole || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    return system_error("write", path, reason);
  }
  crash_point("file.renamed");
  const Status synced = sync_path(parent_of(path));
  crash_point("file.durable");
  return synced;
}

Status sync_path(const fs::path& path) {
  const Descriptor file = open_file(path, O_RDONLY);
  if (!file.ok()) return system_error("sync", path);
  if (::fsync(file.get()) != 0) return system_error("sync", path);
  return {};
}

Status rename_durably(const fs::path& from, const fs::path& to) {
  crash_point("rename.before");
  if (rename_to_new_name(from, to) != 0) {
    const int reason = errno;
    if (reason == EEXIST || reason == ENOTEMPTY)
      return Error{"cannot move " + from.string() + " to " + to.string() + ": something is there already"};
    return system_error("move " + from.string() + " to", to, reason);
  }
  crash_point("rename.renamed");
  if (Status synced = sync_path(parent_of(to)); !synced) return synced;
  if (parent_of(from) != parent_of(to))
    if (Status synced = sync_path(parent_of(from)); !synced) return synced;
  crash_point("rename.durable");
  return {};
}

Result<std::string> sha256_of_file(const fs::path& path) {
  const Descriptor file = open_file(path, O_RDONLY);
  if (!file.ok()) return system_error("read", path);
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 18);
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("read", path);
    if (got == 0) break;
    hash.update(buffer.data(), static_cast<std::size_t>(got));
  }
  return to_hex(hash.finish());
}

}  // namespace finesweep::storage
