#include "storage/sealed_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdexcept>
#include <vector>

#include "jobs/sha256.h"
#include "storage/files.h"
#include "storage/posix.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

constexpr int kMaxDepth = 100;

/// The names in a relative path; empty where it could lead out of its folder.
std::vector<std::string> safe_components(const std::string& path) {
  std::vector<std::string> names;
  std::size_t begin = 0;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    std::string name = path.substr(begin, end - begin);
    if (name.empty() || name == "." || name == ".." || name.find('\0') != std::string::npos) return {};
    names.push_back(std::move(name));
    begin = end + 1;
  }
  return names;
}

/// Opens a plain file below `folder` without following a link at any level below it.
Result<Descriptor> open_below(const fs::path& folder, const std::string& path) {
  const std::vector<std::string> names = safe_components(path);
  if (names.empty()) return Error{"the path '" + path + "' leaves " + folder.string()};
  Descriptor at = open_file(folder, O_RDONLY | O_DIRECTORY);
  if (!at.ok()) return system_error("read", folder);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const int kind = i + 1 < names.size() ? O_DIRECTORY : O_NONBLOCK;
    Descriptor next(::openat(at.get(), names[i].c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | kind));
    if (!next.ok() && errno == ELOOP)
      return Error{(folder / path).string() + " is a link; only plain files are taken"};
    if (!next.ok()) return system_error("read", folder / path);
    at = std::move(next);
  }
  struct stat info;
  if (::fstat(at.get(), &info) != 0) return system_error("read", folder / path);
  if (!S_ISREG(info.st_mode)) return Error{(folder / path).string() + " is not a plain file"};
  return at;
}

/// Size and checksum of an open file.
Result<SealedFile> measure(const Descriptor& file, const fs::path& path) {
  SealedFile measured;
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 18);
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("read", path);
    if (got == 0) break;
    hash.update(buffer.data(), static_cast<std::size_t>(got));
    measured.bytes += static_cast<std::uint64_t>(got);
  }
  measured.sha256 = to_hex(hash.finish());
  return measured;
}

}  // namespace

Result<SealedFiles> seal_files(const fs::path& folder, const std::string& except) {
  SealedFiles files;
  std::vector<fs::path> folders{folder};
  std::error_code failure;
  fs::recursive_directory_iterator entries(folder, failure);
  for (; !failure && entries != fs::recursive_directory_iterator(); entries.increment(failure)) {
    const fs::path& path = entries->path();
    const fs::file_type type = entries->symlink_status(failure).type();
    if (failure) break;
    if (type == fs::file_type::directory) {
      folders.push_back(path);
      continue;
    }
    if (type != fs::file_type::regular)
      return Error{path.string() + " is not a plain file; only plain files are kept"};
    const std::string relative = path.lexically_relative(folder).generic_string();
    if (relative == except) continue;
    const Result<Descriptor> file = open_below(folder, relative);
    if (!file) return file.error();
    Result<SealedFile> measured = measure(*file, path);
    if (!measured) return measured.error();
    if (::fsync(file->get()) != 0) return system_error("sync", path);
    files[relative] = std::move(*measured);
  }
  if (failure) return system_error("list", folder, failure.value());
  // Deepest first, so that a folder is durable before the name that leads to it.
  for (auto at = folders.rbegin(); at != folders.rend(); ++at)
    if (Status synced = sync_path(*at); !synced) return synced.error();
  return files;
}

Status verify_files(const fs::path& folder, const SealedFiles& files) {
  for (const auto& [path, expected] : files) {
    const Result<Descriptor> file = open_below(folder, path);
    if (!file) return file.error();
    // A wrong size needs no reading.
    struct stat info;
    if (::fstat(file->get(), &info) != 0) return system_error("read", folder / path);
    if (static_cast<std::uint64_t>(info.st_size) != expected.bytes)
      return Error{(folder / path).string() + " has " + std::to_string(info.st_size) + " bytes instead of " +
                   std::to_string(expected.bytes) + ": it is torn or was changed"};
    const Result<SealedFile> measured = measure(*file, folder / path);
    if (!measured) return measured.error();
    if (measured->sha256 != expected.sha256)
      return Error{(folder / path).string() + " does not match its SHA-256: it is damaged or was changed"};
  }
  return {};
}

Json with_checksum(Json object) {
  object.erase("sha256");
  object["sha256"] = to_hex(sha256(object.dump()));
  return object;
}

Result<Json> parse_with_checksum(const std::string& text, const std::string& what) {
  Json parsed;
  try {
    // Writing JSON out recurses, so its depth is bounded while it is read.
    parsed = Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) throw std::length_error("nested too deeply");
      return true;
    });
  } catch (const std::exception& e) {
    return Error{what + ": not valid JSON: " + e.what()};
  }
  if (!parsed.is_object() || !parsed.contains("sha256") || !parsed["sha256"].is_string())
    return Error{what + " has no checksum: it is damaged or not ours"};
  const std::string expected = parsed["sha256"].get<std::string>();
  parsed.erase("sha256");
  if (to_hex(sha256(parsed.dump())) != expected)
    return Error{what + " does not match its checksum: it is damaged or was changed"};
  return parsed;
}

Json files_to_json(const SealedFiles& files) {
  Json json = Json::object();
  for (const auto& [path, file] : files) json[path] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  return json;
}

SealedFiles files_from_json(const Json& json) {
  SealedFiles files;
  for (const auto& [path, file] : json.items())
    files[path] = {file.at("bytes").get<std::uint64_t>(), file.at("sha256").get<std::string>()};
  return files;
}

}  // namespace finesweep::storage
