#include "worker/kernels/cuda/device.cuh"

// The last product of a head: as many outputs as there are classes, for which a library's tiles are mostly empty.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

/// A warp for each row and output.
template <typename T>
__global__ void few_outputs(const T* x, const float* weight, const float* bias, std::int64_t in, int out, float* y,
                            std::int64_t count) {
  wait_for_predecessor();
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (number >= count) return;
  const T* row = x + number / out * in;
  const int output = static_cast<int>(number % out);
  const float* of_output = weight + output * in;
  float sum = 0;
#pragma unroll 4
  for (std::int64_t i = lane; i < in; i += 32) sum += from(row[i]) * of_output[i];
  sum = warp_sum(sum);
  if (lane == 0) y[number] = sum + (bias != nullptr ? bias[output] : 0.0f);
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" int finesweep_few_outputs(const void* x, std::int64_t rows, std::int64_t in, const float* weight,
                                     const float* bias, std::int64_t out, float* y, int type, void* stream) {
  const std::int64_t count = rows * out;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    return launch(few_outputs<T>, dim3(blocks_for(count, kWarps)), kThreads, 0, stream, true,
                  static_cast<const T*>(x), weight, bias, in, static_cast<int>(out), y, count);
  });
}
