// libfinesweep-graph.so: see matmul_api.h.

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "worker/kernels/cuda/api.h"
#include "worker/kernels/gpu/kept_choices.h"
#include "worker/kernels/gpu/library_error.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/matmul_api.h"

namespace {

using finesweep::worker::gpu::KeptChoices;

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string(call) + ": " + cublasLtGetStatusString(status));
}
void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

cudaDataType_t type_of(int type) {
  switch (type) {
    case kFinesweepFloat32:
      return CUDA_R_32F;
    case kFinesweepBFloat16:
      return CUDA_R_16BF;
    case kFinesweepFloat8E4M3:
      return CUDA_R_8F_E4M3;
  }
  return CUDA_R_16F;
}

/// What a choice of kernel depends on, on one device.
using Key = KeptChoices::Question;

Key key_of(const FinesweepMatmul& w) {
  const auto aligned = [](const void* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    return address % 16 == 0 ? 2 : address % 8 == 0 ? 1 : 0;
  };
  const std::int64_t places = aligned(w.a) + 3 * aligned(w.b) + 9 * aligned(w.c) + 27 * aligned(w.d);
  return {w.m,
          w.n,
          w.k,
          w.lda,
          w.ldb,
          w.ldc,
          w.ldd,
          w.transpose_a * 2 + w.transpose_b,
          w.type * 3 + w.out_type,
          w.epilogue,
          (w.beta != 0 ? 1 : 0) + (w.scale_a != nullptr ? 2 : 0),
          w.ld_aux,
          places};
}

/// A product as cuBLASLt wants it: column-major, so the transpose, with the operands exchanged.
class Plan {
 public:
  explicit Plan(const FinesweepMatmul& w) {
    const cudaDataType_t type = type_of(w.type), out = type_of(w.out_type);
    check(cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t first = w.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = w.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, first);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second);
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (w.epilogue == kEpilogueBias) epilogue = CUBLASLT_EPILOGUE_BIAS;
    if (w.epilogue == kEpilogueGeluTanhBias) epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    if (w.epilogue == kEpilogueGeluTanhGradient) epilogue = CUBLASLT_EPILOGUE_DGELU;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (w.aux != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, w.ld_aux);
    }
    if (w.type == kFinesweepFloat8E4M3 && w.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(out));
    }
    if (w.scale_a != nullptr) set_scales(w);
    layout(a_, type, w.transpose_b ? w.k : w.n, w.transpose_b ? w.n : w.k, w.ldb);
    layout(b_, type, w.transpose_a ? w.m : w.k, w.transpose_a ? w.k : w.m, w.lda);
    layout(c_, out, w.n, w.m, w.ldc);
    layout(d_, out, w.n, w.m, w.ldd);
  }
  ~Plan() {
    for (cublasLtMatrixLayout_t l : {a_, b_, c_, d_}) {
      if (l != nullptr) cublasLtMatrixLayoutDestroy(l);
    }
    if (product_ != nullptr) cublasLtMatmulDescDestroy(product_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle, std::size_t workspace,
                                                          int most) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, product_, a_, b_, c_, d_, preference, most, found.data(), &count);
    cublasLtMatmulPreferenceDestroy(preference);
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    if (count == 0) throw std::runtime_error("cuBLASLt has no kernel for the product");
    found.resize(static_cast<std::size_t>(count));
    return found;
  }

  /// Whether cuBLASLt computes the product by it.
  bool takes(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm, std::size_t workspace) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle, product_, a_, b_, c_, d_, &algorithm, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace;
  }

  cublasStatus_t run(const FinesweepMatmul& w, cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                     void* workspace, std::size_t bytes, cudaStream_t stream) {
    if (w.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, w.bias);
    if (w.aux != nullptr) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, w.aux);
    const float one = 1;
    return cublasLtMatmul(handle, product_, &one, w.b, a_, w.a, b_, &w.beta, w.c != nullptr ? w.c : w.d, c_, w.d,
                          d_, &algorithm, workspace, bytes, stream);
  }

 private:
  /// One of each row of both operands, whose order is cuBLASLt's.
  void set_scales(const FinesweepMatmul& w) {
#if CUBLAS_VERSION >= 120900
    const std::int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w.scale_b);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, w.scale_a);
#else
    (void)w;
    throw std::runtime_error("this cuBLASLt has no scales of rows: finesweep was built with CUDA before 12.9");
#endif
  }

  template <typename V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value) {
    check(cublasLtMatmulDescSetAttribute(product_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }
  static void layout(cublasLtMatrixLayout_t& to, cudaDataType_t type, std::int64_t rows, std::int64_t columns,
                     std::int64_t stride) {
    check(cublasLtMatrixLayoutCreate(&to, type, static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(columns), stride),
          "cublasLtMatrixLayoutCreate");
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr, d_ = nullptr;
};

/// Microseconds of a candidate, the least of `times` measurements of `in_row` each; negative where it fails.
float time_of(Plan& plan, const FinesweepMatmul& w, cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
              void* workspace, std::size_t bytes, cudaStream_t stream, cudaEvent_t begin, cudaEvent_t end,
              int times, int in_row) {
  if (plan.run(w, handle, algorithm, workspace, bytes, stream) != CUBLAS_STATUS_SUCCESS) return -1;
  float least = -1;
  for (int i = 0; i < times; ++i) {
    cudaEventRecord(begin, stream);
    for (int k = 0; k < in_row; ++k) plan.run(w, handle, algorithm, workspace, bytes, stream);
    cudaEventRecord(end, stream);
    if (cudaEventSynchronize(end) != cudaSuccess) {
      cudaGetLastError();
      return -1;
    }
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (least < 0 || ms < least) least = ms;
  }
  return least / static_cast<float>(in_row) * 1e3f;
}

cublasLtMatmulAlgo_t fastest(Plan& plan, const FinesweepMatmul& w, cublasLtHandle_t handle, void* workspace,
                             std::size_t bytes, cudaStream_t stream) {
  constexpr int kCandidates = 12;
  auto candidates = plan.candidates(handle, bytes, kCandidates);
  if (candidates.size() == 1) return candidates.front().algo;
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  // All of them twice, and then those that are worth it.
  constexpr std::size_t kFinalists = 4;
  std::vector<std::pair<float, cublasLtMatmulAlgo_t>> timed;
  const auto time_all = [&](const std::vector<cublasLtMatmulAlgo_t>& algorithms, int times, int in_row) {
    timed.clear();
    for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
      const float us = time_of(plan, w, handle, algorithm, workspace, bytes, stream, begin, end, times, in_row);
      if (us > 0) timed.emplace_back(us, algorithm);
    }
    std::stable_sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  };
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (const auto& candidate : candidates) algorithms.push_back(candidate.algo);
  time_all(algorithms, 2, 1);
  algorithms.clear();
  for (std::size_t i = 0; i < std::min(timed.size(), kFinalists); ++i) algorithms.push_back(timed[i].second);
  time_all(algorithms, 4, 3);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return timed.empty() ? candidates.front().algo : timed.front().second;
}

/// What products of one shape are computed by.
struct Choice {
  cublasLtMatmulAlgo_t algorithm;
  bool is_first = true;        // of cuBLASLt's proposals; else the fastest
  std::int64_t announced = 0;  // how often they are computed
};
constexpr std::int64_t kWorthTrying = finesweep::worker::gpu::RepeatedProducts::kWorthTrying;

/// The file in which a device's choices are kept. What makes another kernel the fastest makes another name: the
/// GPU, the version, the workspace.
std::string file_for(int device, std::size_t workspace) {
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(device));
  std::string name = properties->name;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '-');
  return "products-" + name + "-" + std::to_string(properties->multiProcessorCount) + "-" +
         std::to_string(cublasLtGetVersion()) + "-" + std::to_string(workspace >> 10);
}

/// What is known of products, by their shapes, on one device.
struct Choices {
  std::map<Key, Choice> chosen;
  std::optional<KeptChoices> kept;
};

std::mutex choices_mutex;
std::string choices_folder;  // empty: nothing is kept
std::map<int, Choices> choices_of_devices;

Choices& choices_of(int device, std::size_t workspace) {
  Choices& choices = choices_of_devices[device];
  if (!choices.kept) {
    choices.kept.emplace(choices_folder.empty()
                             ? std::filesystem::path()
                             : std::filesystem::path(choices_folder) / file_for(device, workspace));
  }
  return choices;
}

static_assert(sizeof(KeptChoices::Answer) == sizeof(cublasLtMatmulAlgo_t));

}  // namespace

extern "C" void finesweep_matmul_keep_choices(const char* folder) {
  const std::scoped_lock lock(choices_mutex);
  choices_folder = folder;
  for (auto& [device, choices] : choices_of_devices) choices.kept.reset();
}

extern "C" int finesweep_matmul(const FinesweepMatmul* what) {
  return finesweep::guarded([&] {
    const FinesweepMatmul& w = *what;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    cublasLtHandle_t handle = at::cuda::getCurrentCUDABlasLtHandle();
    void* workspace = at::cuda::getCUDABlasLtWorkspace();
    const std::size_t bytes = at::cuda::getCUDABlasLtWorkspaceSize();
    Plan plan(w);
    const Key key = key_of(w);
    const std::scoped_lock lock(choices_mutex);
    Choices& choices = choices_of(stream.device_index(), bytes);
    const auto kept = [&]() -> std::optional<Choice> {
      const auto answer = choices.kept->find(key);
      if (!answer) return std::nullopt;
      Choice choice{};
      std::memcpy(&choice.algorithm, &*answer, sizeof *answer);
      choice.is_first = false;
      return plan.takes(handle, choice.algorithm, bytes) ? std::optional(choice) : std::nullopt;
    };
    auto found = choices.chosen.find(key);
    if (found == choices.chosen.end()) {
      const std::optional<Choice> known = kept();
      found = choices.chosen.emplace(key, known ? *known : Choice{plan.candidates(handle, bytes, 1).front().algo})
                  .first;
    }
    Choice& choice = found->second;
    const bool captures = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
    const bool overwrites = w.beta != 0 && w.c == w.d;
    if (choice.is_first && !captures && !overwrites) {
      choice.announced += w.repeats > 0 ? w.repeats : kWorthTrying;
      if (choice.announced >= kWorthTrying) {
        if (const std::optional<Choice> known = kept()) {  // another process was sooner
          choice = *known;
        } else {
          choice.algorithm = fastest(plan, w, handle, workspace, bytes, stream);
          choice.is_first = false;
          KeptChoices::Answer answer;
          std::memcpy(&answer, &choice.algorithm, sizeof answer);
          choices.kept->add(key, answer);
        }
      }
    }
    check(plan.run(w, handle, choice.algorithm, workspace, bytes, stream), "cublasLtMatmul");
  });
}
