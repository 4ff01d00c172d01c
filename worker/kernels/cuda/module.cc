#include "worker/kernels/cuda/module.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace finesweep::worker {
namespace {

constexpr const char* kFile = "libfinesweep-cuda.so";

void* open_beside_program() {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  // The bundle keeps libraries in lib/, test programs two folders below it.
  for (const char* place : {"", "../lib", "../../../lib"}) {
    const std::filesystem::path file = folder / place / kFile;
    if (!std::filesystem::exists(file, ignored)) continue;
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    std::fprintf(stderr, "kernels for the GPU cannot be loaded: %s\n", dlerror());
  }
  return nullptr;
}

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

const CudaModule* load() {
  const char* wish = std::getenv("FINESWEEP_CUDA_KERNELS");
  if (wish != nullptr && std::strcmp(wish, "off") == 0) return nullptr;
  void* library = open_beside_program();
  if (library == nullptr) {
    std::fprintf(stderr, "no %s beside this program: the GPU runs plain tensor operations, which are slower\n",
                 kFile);
    return nullptr;
  }
  static CudaModule module;
  decltype(&finesweep_cuda_version) version = nullptr;
  if (!find(library, "finesweep_cuda_version", version) || version() != kFinesweepCudaVersion ||
      !find(library, "finesweep_cuda_error", module.error) ||
      !find(library, "finesweep_nf4_dequantize", module.nf4_dequantize) ||
      !find(library, "finesweep_nf4_product", module.nf4_product)) {
    std::fprintf(stderr, "%s is of another version of finesweep: build both together\n", kFile);
    return nullptr;
  }
  return &module;
}

}  // namespace

const CudaModule* cuda_module() {
  static const CudaModule* module = load();
  return module;
}

void* current_stream(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStreamNativeHandle(guard.getStream(device));
}

void check_cuda(int error, const char* call) {
  if (error == 0) return;
  const CudaModule* module = cuda_module();
  throw std::runtime_error(std::string(call) + " failed on the GPU: " +
                           (module != nullptr ? module->error(error) : std::to_string(error)));
}

}  // namespace finesweep::worker
