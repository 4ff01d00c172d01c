#include "worker/engine/loaded_base.h"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <vector>

#include "worker/engine/device.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// Name, size and time: another file gives another text.
std::string fingerprint_of_file(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return "";
  return file.filename().string() + " " + std::to_string(info.st_size) + " " + std::to_string(info.st_mtim.tv_sec) +
         "." + std::to_string(info.st_mtim.tv_nsec) + " " + std::to_string(info.st_ino);
}

std::string text_of(const std::optional<BaseQuantization>& quantization) {
  if (!quantization) return "as it is";
  if (quantization->format == QuantizedFormat::int8) return "int8";
  if (quantization->format == QuantizedFormat::fp8) return "fp8";
  return "nf4 " + std::to_string(quantization->block_size) + (quantization->double_quantization ? " double" : "");
}

struct Kept {
  std::string key;
  std::shared_ptr<const Pretrained> base;
  std::shared_ptr<void> beside;
};

/// One job at a time runs in a process, on one thread.
Kept& kept() {
  static Kept instance;
  return instance;
}

}  // namespace

std::string fingerprint(const fs::path& path) {
  std::vector<std::string> lines;
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) lines.push_back(fingerprint_of_file(path));
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".json") || name.ends_with(".txt") ||
        name.ends_with(".model"))
      lines.push_back(fingerprint_of_file(entry.path()));
  }
  std::sort(lines.begin(), lines.end());
  std::string text = path.string();
  for (const auto& line : lines) text += "\n" + line;
  return text;
}

Result<std::shared_ptr<const Pretrained>> load_base(const BaseRequest& request, c10::Device device,
                                                    KeepLoaded keep) {
  auto& [loaded_key, loaded, beside] = kept();
  const std::string key = fingerprint(request.path) + "\n" + std::string(c10::toString(request.storage)) + " " +
                          text_of(request.quantization) + " " + device.str();
  if (keep == KeepLoaded::no || loaded_key != key) {
    beside.reset();
    loaded.reset();
  }
  begin_memory_peak(device);  // without the model of another job
  if (loaded) return loaded;
  auto base = load_pretrained(request.path, request.storage, device, request.quantization);
  if (base && keep == KeepLoaded::yes) {
    loaded = *base;
    loaded_key = key;
  }
  return base;
}

void forget_base() {
  kept_beside_base().reset();
  kept() = {};
}

std::shared_ptr<void>& kept_beside_base() {
  return kept().beside;
}

}  // namespace finesweep::worker
