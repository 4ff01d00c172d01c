#include "sweeps/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "jobs/json.h"
#include "jobs/sha256.h"
#include "jobs/user_cache.h"

namespace finesweep::sweeps {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostCached = 10'000;
constexpr int kCacheVersion = 1;

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

Error failure(const fs::path& path, const char* what) {
  return Error{path.string() + ": " + what + ": " + std::strerror(errno)};
}

/// Reads in pieces until `use` has had `most` bytes or the file ends.
template <typename Use>
Status read_pieces(const fs::path& path, std::uint64_t most, Use use) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return failure(path, "cannot be opened");
  std::vector<char> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(most, 1 << 20)));
  while (most > 0) {
    const ssize_t got = ::read(file.fd, buffer.data(), std::min<std::uint64_t>(buffer.size(), most));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(path, "cannot be read");
    if (got == 0) break;
    use(buffer.data(), static_cast<std::size_t>(got));
    most -= static_cast<std::uint64_t>(got);
  }
  return {};
}

class DiskFiles : public SweepFiles {
 public:
  explicit DiskFiles(fs::path cache_file) : cache_file_(std::move(cache_file)) { load_cache(); }
  ~DiskFiles() override { save_cache(); }

  Info info(const fs::path& path) override {
    struct stat s {};
    if (::stat(path.c_str(), &s) != 0) return {};
    if (S_ISDIR(s.st_mode)) return {Kind::directory, 0};
    if (S_ISREG(s.st_mode)) return {Kind::file, static_cast<std::uint64_t>(s.st_size)};
    return {};
  }

  Result<std::string> read_start(const fs::path& path, std::size_t most) override {
    std::string text;
    const Status status = read_pieces(path, most, [&](const char* data, std::size_t n) { text.append(data, n); });
    if (!status) return status.error();
    return text;
  }

  Result<std::vector<std::string>> list(const fs::path& folder) override {
    std::error_code error;
    std::vector<std::string> names;
    fs::directory_iterator it(folder, error);
    for (; !error && it != fs::directory_iterator(); it.increment(error))
      if (std::error_code ignored; it->is_regular_file(ignored)) names.push_back(it->path().filename().string());
    if (error) return Error{folder.string() + ": cannot be listed: " + error.message()};
    std::sort(names.begin(), names.end());
    return names;
  }

  Result<std::string> sha256(const fs::path& path) override {
    struct stat before {};
    if (::stat(path.c_str(), &before) != 0) return failure(path, "cannot be read");
    const Known now{static_cast<std::uint64_t>(before.st_size), nanoseconds(before), ""};
    if (const auto known = cache_.find(path.string());
        known != cache_.end() && known->second.bytes == now.bytes && known->second.changed_ns == now.changed_ns) {
      return known->second.sha256;
    }
    Sha256 hash;
    const Status status =
        read_pieces(path, UINT64_MAX, [&](const char* data, std::size_t n) { hash.update(data, n); });
    if (!status) return status.error();
    const std::string hex = to_hex(hash.finish());
    struct stat after {};
    // A file that was just written may change again within the resolution of its time: not remembered then.
    const bool settled = ::stat(path.c_str(), &after) == 0 && nanoseconds(after) == now.changed_ns &&
                         after.st_size == before.st_size && after.st_mtim.tv_sec + 2 < std::time(nullptr);
    if (settled) {
      cache_[path.string()] = {now.bytes, now.changed_ns, hex};
      changed_ = true;
    }
    return hex;
  }

 private:
  struct Known {
    std::uint64_t bytes = 0;
    std::int64_t changed_ns = 0;
    std::string sha256;
  };

  static std::int64_t nanoseconds(const struct stat& s) {
    return std::int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec;
  }

  void load_cache() {
    if (cache_file_.empty()) return;
    const auto text = read_start(cache_file_, 64 << 20);
    if (!text) return;
    const Json json = Json::parse(*text, nullptr, false);
    if (!json.is_object() || json.value("version", Json()) != kCacheVersion) return;
    const Json files = json.value("files", Json::object());
    for (const auto& [path, entry] : files.items()) {
      if (!entry.is_array() || entry.size() != 3 || !entry[0].is_number_unsigned() ||
          !entry[1].is_number_integer() || !entry[2].is_string() ||
          entry[2].get_ref<const std::string&>().size() != 64)
        continue;
      cache_[path] = {entry[0].get<std::uint64_t>(), entry[1].get<std::int64_t>(), entry[2].get<std::string>()};
    }
  }

  void save_cache() noexcept try {
    if (cache_file_.empty() || !changed_) return;
    if (cache_.size() > kMostCached)
      std::erase_if(cache_, [this](const auto& entry) { return info(entry.first).kind == Kind::missing; });
    if (cache_.size() > kMostCached) cache_.clear();
    Json files = Json::object();
    for (const auto& [path, known] : cache_) files[path] = {known.bytes, known.changed_ns, known.sha256};
    const std::string text = Json{{"version", kCacheVersion}, {"files", files}}.dump();
    std::error_code error;
    fs::create_directories(cache_file_.parent_path(), error);
    const fs::path beside = cache_file_.string() + "." + std::to_string(::getpid()) + ".tmp";
    {
      std::ofstream out(beside, std::ios::binary | std::ios::trunc);
      out << text;
      out.close();
      if (!out) {
        fs::remove(beside, error);
        return;
      }
    }
    fs::rename(beside, cache_file_, error);
    if (error) fs::remove(beside, error);
  } catch (const std::exception&) {
    // A path that is not UTF-8 cannot stand in JSON: then nothing is remembered this time.
  }

  fs::path cache_file_;
  std::map<std::string, Known> cache_;
  bool changed_ = false;
};

}  // namespace

std::unique_ptr<SweepFiles> make_sweep_files(fs::path cache_file) {
  return std::make_unique<DiskFiles>(std::move(cache_file));
}

fs::path default_checksum_cache() {
  const fs::path cache = user_cache();
  return cache.empty() ? fs::path() : cache / "sha256.json";
}

SweepFiles::Info MemoryFiles::info(const fs::path& path) {
  if (const auto found = files.find(path); found != files.end()) return {Kind::file, found->second.size()};
  const std::string prefix = path.string() + "/";
  for (const auto& [name, bytes] : files)
    if (name.string().starts_with(prefix)) return {Kind::directory, 0};
  return {};
}

Result<std::string> MemoryFiles::read_start(const fs::path& path, std::size_t most) {
  const auto found = files.find(path);
  if (found == files.end()) return Error{path.string() + ": no such file"};
  return found->second.substr(0, most);
}

Result<std::vector<std::string>> MemoryFiles::list(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& [path, bytes] : files)
    if (path.parent_path() == folder) names.push_back(path.filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::string> MemoryFiles::sha256(const fs::path& path) {
  const auto found = files.find(path);
  if (found == files.end()) return Error{path.string() + ": no such file"};
  ++hashed;
  return to_hex(finesweep::sha256(found->second));
}

}  // namespace finesweep::sweeps
