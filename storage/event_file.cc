#include "storage/event_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace finesweep::storage {

namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;

/// Whether the line is in the file where it belongs.
bool holds(int fd, const EventFile::Line& line) {
  const std::string expected = line.json + "\n";
  std::string found(expected.size(), '\0');
  const off_t begin = line.end - static_cast<off_t>(expected.size());
  if (begin < 0) return false;
  const ssize_t got = ::pread(fd, found.data(), found.size(), begin);
  return got == static_cast<ssize_t>(found.size()) && found == expected;
}

}  // namespace

Status EventFile::open_and_repair(const Source& source) {
  file_ = open_file(path_, O_RDWR | O_CREAT);
  if (!file_.ok()) return system_error("open", path_);
  struct stat info;
  if (::fstat(file_.get(), &info) != 0) return system_error("read", path_);
  // Events know where their lines end, so the last one that fits says whether all bytes before it are there.
  const std::optional<Line> last = source.last_before(info.st_size);
  const bool usable = last && holds(file_.get(), *last);
  end_ = usable ? last->end : 0;
  if (::ftruncate(file_.get(), end_) != 0) return system_error("shorten", path_);
  return append_after(source, usable ? last->n : 0);
}

Status EventFile::append_after(const Source& source, std::int64_t n) {
  std::string lines;
  bool written = true;
  const auto flush = [&] {
    written = written && write_all_at(file_.get(), lines, end_);
    if (written) end_ += static_cast<std::int64_t>(lines.size());
    lines.clear();
  };
  source.after(n, [&](const Line& line) {
    lines.append(line.json).append("\n");
    if (lines.size() >= kChunk) flush();
  });
  flush();
  if (!written) return system_error("write", path_);
  return {};
}

void EventFile::append(std::int64_t begin, const std::string& lines) {
  // After a failed write the file lacks what is in behind_, which ends where `lines` begin.
  if (begin != end_ + static_cast<std::int64_t>(behind_.size())) return;
  behind_ += lines;
  if (!write_all_at(file_.get(), behind_, end_)) return;
  end_ += static_cast<std::int64_t>(behind_.size());
  behind_.clear();
}

}  // namespace finesweep::storage
