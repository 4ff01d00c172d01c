#pragma once

#include <cuda_runtime.h>

#include <cstddef>

// Launches that overlap: a kernel may begin while the one before it runs (programmatic dependent launch), and waits
// itself until that one is done.

namespace finesweep::cuda {

/// Before this a kernel that overlaps reads nothing that others write, and writes nothing.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_successor_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// What this process knows of its devices.
struct DeviceFacts {
  int processors = 1;
  bool overlaps = false;  // has programmatic dependent launch
};
inline const DeviceFacts& device_facts() {
  constexpr int kDevices = 64;
  static DeviceFacts facts[kDevices];
  static bool known[kDevices] = {};
  int device = 0;
  cudaGetDevice(&device);
  if (device >= kDevices) device = 0;
  if (!known[device]) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&facts[device].processors, cudaDevAttrMultiProcessorCount, device);
    facts[device].overlaps = major >= 9;
    known[device] = true;
  }
  return facts[device];
}

/// Most shared memory that a block may ask for.
inline int shared_memory_limit() {
  static const int limit = [] {
    int device = 0, bytes = 48 << 10;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return bytes;
  }();
  return limit;
}

/// `overlaps`: it may begin while the kernel before it runs.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared, void* stream, bool overlaps,
           Arguments... arguments) {
  // Beyond 48 KB a kernel has to ask.
  if (shared > 40 * 1024) {
    const cudaError_t failed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (failed != cudaSuccess) return failed;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlaps && device_facts().overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace finesweep::cuda
