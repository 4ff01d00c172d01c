#include "storage/posix.h"

#include <fcntl.h>
#include <unistd.h>

#include <system_error>

namespace finesweep::storage {

Descriptor::~Descriptor() {
  close();
}

int Descriptor::close() {
  if (fd_ < 0) return 0;
  return ::close(std::exchange(fd_, -1));
}

Descriptor open_file(const std::filesystem::path& path, int flags, unsigned mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return Descriptor(fd);
}

Error system_error(const std::string& action, const std::filesystem::path& path, int number) {
  std::string message =
      "cannot " + action + " " + path.string() + ": " + std::error_code(number, std::generic_category()).message();
  switch (number) {
    case ENOSPC:
      message += "; free space on this file system, then run again";
      break;
    case EDQUOT:
      message += "; free some of your quota, then run again";
      break;
    case EROFS:
      message += "; choose a folder that can be written to";
      break;
    case EACCES:
    case EPERM:
      message += "; check the owner and permissions";
      break;
    case EMFILE:
    case ENFILE:
      message += "; raise the limit of open files (ulimit -n)";
      break;
    default:
      break;
  }
  return Error{std::move(message)};
}

bool write_all_at(int fd, std::string_view bytes, std::int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += written;
  }
  return true;
}

bool write_all(int fd, const char* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(fd, data, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    data += written;
    bytes -= static_cast<std::size_t>(written);
  }
  return true;
}

}  // namespace finesweep::storage
