#pragma once

#include <c10/core/Device.h>

#include "worker/kernels/cuda/api.h"

namespace finesweep::worker {

/// The functions of libfinesweep-cuda.so.
struct CudaModule {
  decltype(&finesweep_cuda_error) error = nullptr;
  decltype(&finesweep_nf4_dequantize) nf4_dequantize = nullptr;
  decltype(&finesweep_nf4_product) nf4_product = nullptr;

#define FINESWEEP_MEMBER(name) decltype(&finesweep_##name) name = nullptr;
  FINESWEEP_TRAINING_FUNCTIONS(FINESWEEP_MEMBER)
#undef FINESWEEP_MEMBER

  decltype(&finesweep_decode_linear) decode_linear = nullptr;
  decltype(&finesweep_decode_norm) decode_norm = nullptr;
  decltype(&finesweep_decode_gate) decode_gate = nullptr;
  decltype(&finesweep_decode_embed) decode_embed = nullptr;
  decltype(&finesweep_decode_attention) decode_attention = nullptr;
  decltype(&finesweep_decode_choose) decode_choose = nullptr;
};

/// Loaded at the first call, from the folder of the program or ../lib beside it. Null where it is not there, is of
/// another version, or FINESWEEP_CUDA_KERNELS=off is set; why is said once on stderr. Any thread.
const CudaModule* cuda_module();

/// The current stream of the device, as CUDA knows it.
void* current_stream(c10::Device device);

/// Throws std::runtime_error with the words for the error, if it is one.
void check_cuda(int error, const char* call);

}  // namespace finesweep::worker
