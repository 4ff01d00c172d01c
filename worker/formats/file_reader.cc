#include "worker/formats/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace finesweep::worker {

struct FileReader::Contents {
  int descriptor = -1;
  std::uint64_t bytes = 0;
  Contents() = default;
  Contents(const Contents&) = delete;
  Contents& operator=(const Contents&) = delete;
  ~Contents() {
    if (descriptor >= 0) ::close(descriptor);
  }
};

Result<FileReader> FileReader::open(const std::filesystem::path& path) {
  auto contents = std::make_shared<Contents>();
  contents->descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (contents->descriptor < 0 || ::fstat(contents->descriptor, &info) != 0) return Error{std::strerror(errno)};
  if (!S_ISREG(info.st_mode)) return Error{"it is not a regular file"};
  contents->bytes = static_cast<std::uint64_t>(info.st_size);
  FileReader reader;
  reader.contents_ = std::move(contents);
  return reader;
}

std::uint64_t FileReader::bytes() const {
  return contents_->bytes;
}

std::string FileReader::read(void* into, std::uint64_t bytes, std::uint64_t offset) const {
  char* out = static_cast<char*>(into);
  while (bytes > 0) {
    const ssize_t got =
        ::pread(contents_->descriptor, out, std::min<std::uint64_t>(bytes, 1u << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::strerror(errno);
    if (got == 0) return "the file became shorter while it was read";
    out += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::uint64_t>(got);
  }
  return {};
}

std::string printable(std::string_view name) {
  std::string out;
  for (char c : name.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (name.size() > 200) out += "…";
  return out;
}

}  // namespace finesweep::worker
