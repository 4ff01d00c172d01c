#include "worker/engine/loaded_base.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <sys/stat.h>

#include <algorithm>
#include <exception>
#include <future>
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

using LoadedBase = Result<std::shared_ptr<const Pretrained>>;

struct Kept {
  std::string key;
  std::shared_ptr<const Pretrained> base;
  std::shared_ptr<void> beside;
  std::future<LoadedBase> coming;  // of that key

  /// What there is of another model goes first: they would stand in memory together.
  void become(const std::string& wanted) {
    if (key == wanted) return;
    *this = {};
    key = wanted;
  }
  /// Waits for what is coming. Why it did not come, who loads it again says.
  void settle() {
    if (!coming.valid()) return;
    try {
      if (auto loaded = coming.get()) base = std::move(*loaded);
    } catch (const std::exception&) {
    }
  }
};

/// One job at a time runs in a process, on one thread.
Kept& kept() {
  static Kept instance;
  return instance;
}

std::string key_of(const BaseRequest& request, c10::Device device) {
  return fingerprint(request.path) + "\n" + std::string(c10::toString(request.storage)) + " " +
         text_of(request.quantization) + " " + device.str();
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
  Kept& here = kept();
  here.settle();
  here.become(keep == KeepLoaded::yes ? key_of(request, device) : "");
  begin_memory_peak(device);  // without the model of another job
  if (here.base) return here.base;
  LoadedBase base = load_pretrained(request.path, request.storage, device, request.quantization);
  if (base && keep == KeepLoaded::yes) here.base = *base;
  return base;
}

void begin_load_base(const BaseRequest& request, c10::Device device) {
  if (device.is_cpu()) return;
  Kept& here = kept();
  here.settle();
  here.become(key_of(request, device));
  if (here.base) return;
  here.coming = std::async(std::launch::async, [request, device, threads = at::get_num_threads()] {
    const c10::DeviceGuard guard(device);
    const at::NoGradGuard no_graph;
    at::set_num_threads(threads);
    return load_pretrained(request.path, request.storage, device, request.quantization);
  });
}

void forget_base() {
  kept().settle();
  kept() = {};
}

std::shared_ptr<void>& kept_beside_base() {
  return kept().beside;
}

}  // namespace finesweep::worker
