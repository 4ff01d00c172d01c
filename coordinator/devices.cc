#include "coordinator/devices.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

namespace finesweep::coordinator {

namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

std::vector<std::string> visible_gpus() {
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    auto words = split(visible);
    std::erase(words, "-1");
    return words;
  }
  std::vector<std::string> gpus;
  std::error_code ignored;
  for (int i = 0; std::filesystem::exists("/dev/nvidia" + std::to_string(i), ignored); ++i)
    gpus.push_back(std::to_string(i));
  return gpus;
}

std::int64_t available_memory_mb() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::int64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return kib / 1024;
  }
  return 0;
}

}  // namespace

HostResources read_host_resources() {
  HostResources host;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) host.cores = std::max(1, CPU_COUNT(&allowed));
  host.available_memory_mb = available_memory_mb();
  host.gpus = visible_gpus();
  return host;
}

std::string host_name() {
  if (const char* node = std::getenv("SLURMD_NODENAME"); node && *node) return node;
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

Result<std::vector<std::string>> choose_devices(const std::string& devices, const HostResources& host) {
  if (devices == "cpu" || (devices == "auto" && host.gpus.empty())) return std::vector<std::string>{"cpu"};
  std::vector<std::string> chosen;
  if (devices == "auto") {
    for (const std::string& gpu : host.gpus) chosen.push_back("cuda:" + gpu);
    return chosen;
  }
  std::set<std::string> seen;
  for (const std::string& word : split(devices)) {
    std::size_t index = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), index);
    if (error != std::errc() || end != word.data() + word.size())
      return Error{"--devices " + devices + ": expected auto, cpu, or the indices of GPUs such as 0,1"};
    if (index >= host.gpus.size())
      return Error{"--devices " + devices + ": there is no GPU " + word + " here (" +
                   std::to_string(host.gpus.size()) + " found; see `finesweep doctor`)"};
    if (!seen.insert(word).second) return Error{"--devices " + devices + ": GPU " + word + " is named twice"};
    chosen.push_back("cuda:" + host.gpus[index]);
  }
  if (chosen.empty()) return Error{"--devices: expected auto, cpu, or the indices of GPUs such as 0,1"};
  return chosen;
}

int default_threads(int cores) {
  return cores <= 8 ? 1 : 4;
}

int devices_needed(const Plan& plan) {
  int most = 1;
  for (const Job& job : plan.jobs) most = std::max(most, job.gpus);
  return most;
}

Status check_devices(const Plan& plan, const std::vector<std::string>& devices, int workers) {
  const int needed = devices_needed(plan);
  const bool cpu = devices.front() == "cpu";
  const int there = cpu ? workers : std::min(workers, static_cast<int>(devices.size()));
  if (there >= needed) return {};
  return Error{"resources.gpus: a training needs " + std::to_string(needed) +
               " devices of one machine together, and here " +
               (there == 1 ? "is 1 " : "are " + std::to_string(there) + " ") + (cpu ? "worker" : "GPU") +
               (there == 1 ? "" : "s") + ": run it where there are " + std::to_string(needed) +
               ", or use --set resources.gpus=" + std::to_string(std::max(1, there))};
}

int default_workers(const std::vector<std::string>& devices, const HostResources& host, int threads,
                    std::int64_t memory_mb, const Plan& plan) {
  std::int64_t workers = static_cast<std::int64_t>(devices.size());
  if (devices.front() == "cpu") {
    workers = host.cores / std::max(1, threads);
    if (host.available_memory_mb > 0)
      workers = std::min(workers, host.available_memory_mb / std::max<std::int64_t>(1, memory_mb));
  }
  std::int64_t useful = 0;
  for (const Job& job : plan.jobs) useful += job.gpus;
  workers = std::min(workers, useful);
  if (devices.front() == "cpu") workers = std::max<std::int64_t>(workers, devices_needed(plan));
  return static_cast<int>(std::max<std::int64_t>(1, workers));
}

std::int64_t estimate_worker_memory_mb(const Plan& plan) {
  std::int64_t largest = 0;
  std::set<std::string> seen;
  for (const Job& job : plan.jobs) {
    const std::string model = job.context.value("model", "");
    if (!seen.insert(model).second) continue;
    std::int64_t bytes = 0;
    std::error_code error;
    // A GGUF file keeps a weight in some five bits.
    if (std::filesystem::is_regular_file(model, error))
      bytes = 7 * static_cast<std::int64_t>(std::filesystem::file_size(model, error));
    for (const auto& entry : std::filesystem::directory_iterator(model, error))
      if (entry.path().extension() == ".safetensors") bytes += static_cast<std::int64_t>(entry.file_size(error));
    largest = std::max(largest, bytes);
  }
  return 700 + 4 * (largest >> 20);
}

}  // namespace finesweep::coordinator
