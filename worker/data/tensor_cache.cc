#include "worker/data/tensor_cache.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <utility>
#include <vector>

#include "jobs/sha256.h"
#include "storage/files.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

std::string digest_of(const NamedTensors& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    const std::string head = name + ":" + std::to_string(tensor.nbytes()) + ";";
    hash.update(head.data(), head.size());
    hash.update(tensor.const_data_ptr(), tensor.nbytes());
  }
  return to_hex(hash.finish());
}

/// A name that no other process or thread uses, not even on another host.
fs::path beside(const fs::path& file) {
  static std::atomic<unsigned> counter{0};
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  std::string name = ".";
  name.append(file.filename().string()).append(".tmp-").append(host).append("-").append(std::to_string(::getpid()));
  return file.parent_path() / name.append("-").append(std::to_string(counter.fetch_add(1)));
}

/// What a process left that died while it wrote.
void remove_abandoned(const fs::path& folder) {
  std::error_code error;
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(24);
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(".") || name.find(".safetensors.tmp-") == std::string::npos) continue;
    std::error_code ignored;
    if (entry.last_write_time(ignored) < long_ago && !ignored) fs::remove(entry.path(), ignored);
  }
}

}  // namespace

std::optional<NamedTensors> TensorCache::read(const std::string& key) const {
  std::error_code error;
  if (!is_on() || !fs::exists(file(key), error)) return std::nullopt;
  const auto damaged = [&](const std::string& reason) {
    std::fprintf(stderr, "tokenised rows are made anew: %s: %s\n", file(key).c_str(), reason.c_str());
    return std::nullopt;
  };
  const auto opened = SafetensorsFile::open(file(key));
  if (!opened) return damaged(opened.error().message);
  const auto& described = opened->metadata();
  const auto known_key = described.find("key"), checksum = described.find("sha256");
  if (known_key == described.end() || checksum == described.end() || known_key->second != key) {
    return damaged("it belongs to something else");
  }
  NamedTensors tensors;
  for (const auto& name : opened->names()) {
    auto tensor = opened->tensor(name);
    if (!tensor) return damaged(tensor.error().message);
    tensors.emplace(name, std::move(*tensor));
  }
  if (digest_of(tensors) != checksum->second) return damaged("its checksum does not match");
  return tensors;
}

Status TensorCache::write(const std::string& key, const NamedTensors& tensors) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return Error{"cannot make the folder " + folder_.string() + ": " + error.message()};
  remove_abandoned(folder_);
  const fs::path temporary = beside(file(key));
  Status written = write_safetensors(temporary, {tensors.begin(), tensors.end()},
                                     {{"key", key}, {"sha256", digest_of(tensors)}});
  if (written) written = storage::sync_path(temporary);
  if (written) {
    fs::rename(temporary, file(key), error);
    if (error) written = Error{"cannot rename " + temporary.string() + ": " + error.message()};
  }
  if (!written) {
    fs::remove(temporary, error);
    return written;
  }
  return storage::sync_path(folder_);
}

}  // namespace finesweep::worker
