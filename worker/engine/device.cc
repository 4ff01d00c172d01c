#include "worker/engine/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <malloc.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "worker/collectives/nccl_library.h"
#include "worker/executor.h"

namespace finesweep::worker {
namespace {

constexpr double bytes_per_mb = 1024.0 * 1024.0;

/// The number before " kB" in a line `key: 123 kB` of a file of /proc; 0 where there is none.
double proc_kilobytes(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key + ":")) continue;
    std::istringstream value(line.substr(key.size() + 1));
    double kilobytes = 0;
    value >> kilobytes;
    return kilobytes;
  }
  return 0;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "CPU";
}

bool cpu_has_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

/// The driver's own interface, whose functions keep their meaning from version to version.
struct CudaDriver {
  int (*device_get)(int*, int) = nullptr;
  int (*device_get_name)(char*, int, int) = nullptr;
  int (*device_get_attribute)(int*, int, int) = nullptr;

  CudaDriver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr) return;
    device_get = reinterpret_cast<decltype(device_get)>(dlsym(library, "cuDeviceGet"));
    device_get_name = reinterpret_cast<decltype(device_get_name)>(dlsym(library, "cuDeviceGetName"));
    device_get_attribute = reinterpret_cast<decltype(device_get_attribute)>(dlsym(library, "cuDeviceGetAttribute"));
  }

  void describe(int index, Json& json) const {
    constexpr int compute_capability_major = 75, compute_capability_minor = 76;
    int device = 0, major = 0, minor = 0;
    char name[256] = "";
    if (device_get == nullptr || device_get_name == nullptr || device_get_attribute == nullptr) return;
    if (device_get(&device, index) != 0 || device_get_name(name, sizeof name, device) != 0) return;
    json["name"] = name;
    if (device_get_attribute(&major, compute_capability_major, device) != 0) return;
    if (device_get_attribute(&minor, compute_capability_minor, device) != 0) return;
    json["compute_capability"] = std::to_string(major) + "." + std::to_string(minor);
    json["bf16"] = major >= 8;
  }
};

/// "2.28.9"; empty where there is no NCCL.
std::string nccl_version() {
  const NcclLibrary* nccl = nccl_library();
  int number = 0;
  if (nccl == nullptr || nccl->get_version(&number) != kNcclSuccess) return "";
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100);
}

std::string cuda_version(long number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

Result<c10::Device> find_device(const std::string& name) {
  try {
    const c10::Device device(name);
    if (device.is_cpu()) return c10::Device(c10::kCPU);
    if (!device.is_cuda()) return Error{"The device '" + name + "' is neither cpu nor cuda:N."};
    const int count = at::detail::getCUDAHooks().hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0;
    if (device.index() >= count) {
      return Error{"The device '" + name + "' is not there: libtorch sees " + std::to_string(count) + " GPUs."};
    }
    at::globalContext().lazyInitDevice(c10::kCUDA);  // before that, the allocator knows no device
    return c10::Device(c10::kCUDA, device.has_index() ? device.index() : c10::DeviceIndex{0});
  } catch (const std::exception&) {
    return Error{"The device '" + name + "' is neither cpu nor cuda:N."};
  }
}

void synchronize(c10::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

void begin_memory_peak(c10::Device device) {
  if (!device.is_cpu()) c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
}

bool restart_memory_peak(c10::Device device) {
  begin_memory_peak(device);
  if (!device.is_cpu()) return true;
  ::malloc_trim(0);
  // proc(5): "5" resets the peak resident set size (VmHWM) to what is resident now.
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

double peak_memory_mb(c10::Device device) {
  if (device.is_cpu()) return proc_kilobytes("/proc/self/status", "VmHWM") / 1024;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<double>(stats.allocated_bytes[all].peak) / bytes_per_mb;
}

void release_cached_memory(c10::Device device) {
  if (!device.is_cpu()) c10::getDeviceAllocator(device.type())->emptyCache();
}

double free_share(c10::Device device) {
  if (device.is_cpu()) return 1;
  const auto [free, total] = c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index());
  return static_cast<double>(free) / static_cast<double>(total);
}

OwnShare own_share(c10::Device device) {
  if (device.is_cpu()) return {};
  c10::DeviceAllocator& allocator = *c10::getDeviceAllocator(device.type());
  constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto stats = allocator.getDeviceStats(device.index());
  const auto total = static_cast<double>(allocator.getMemoryInfo(device.index()).second);
  return {static_cast<double>(stats.allocated_bytes[all].current) / total,
          static_cast<double>(stats.reserved_bytes[all].current) / total,
          static_cast<double>(stats.reserved_bytes[all].peak) / total};
}

Json describe_device(const std::string& name) {
  Json json = {{"device", name}, {"libtorch", TORCH_VERSION}};
  const auto device = find_device(name);
  if (!device) {
    json["error"] = device.error().message;
    return json;
  }
  try {
    if (device->is_cpu()) {
      json["name"] = cpu_name();
      json["memory_mb"] = proc_kilobytes("/proc/meminfo", "MemTotal") / 1024;
      json["bf16"] = cpu_has_bf16();
      return json;
    }
    json["cuda"] = cuda_version(at::detail::getCUDAHooks().versionCUDART());
    if (const std::string nccl = nccl_version(); !nccl.empty()) json["nccl"] = nccl;
    const auto [free, total] = c10::getDeviceAllocator(c10::kCUDA)->getMemoryInfo(device->index());
    json["memory_mb"] = static_cast<double>(total) / bytes_per_mb;
    CudaDriver().describe(device->index(), json);
  } catch (const std::exception& exception) {
    json["error"] = exception.what();
  }
  return json;
}

}  // namespace finesweep::worker
