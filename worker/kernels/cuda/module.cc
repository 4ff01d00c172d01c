#include "worker/kernels/cuda/module.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "worker/kernels/cuda/library.h"

namespace finesweep::worker {
namespace {

constexpr const char* kFile = "libfinesweep-cuda.so";

const CudaModule* load() {
  const char* wish = std::getenv("FINESWEEP_CUDA_KERNELS");
  if (wish != nullptr && std::strcmp(wish, "off") == 0) return nullptr;
  void* library = open_beside_program(kFile);
  if (library == nullptr) {
    std::fprintf(stderr, "no %s beside this program: the GPU runs plain tensor operations, which are slower\n",
                 kFile);
    return nullptr;
  }
  static CudaModule module;
  decltype(&finesweep_cuda_version) version = nullptr;
  bool training = true;
#define FINESWEEP_FIND(name) training &= find_function(library, "finesweep_" #name, module.name);
  FINESWEEP_TRAINING_FUNCTIONS(FINESWEEP_FIND)
#undef FINESWEEP_FIND
  if (!training || !find_function(library, "finesweep_cuda_version", version) ||
      version() != kFinesweepCudaVersion || !find_function(library, "finesweep_cuda_error", module.error) ||
      !find_function(library, "finesweep_nf4_dequantize", module.nf4_dequantize) ||
      !find_function(library, "finesweep_nf4_product", module.nf4_product) ||
      !find_function(library, "finesweep_decode_linear", module.decode_linear) ||
      !find_function(library, "finesweep_decode_norm", module.decode_norm) ||
      !find_function(library, "finesweep_decode_gate", module.decode_gate) ||
      !find_function(library, "finesweep_decode_embed", module.decode_embed) ||
      !find_function(library, "finesweep_decode_attention", module.decode_attention) ||
      !find_function(library, "finesweep_decode_choose", module.decode_choose)) {
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
