#pragma once

#include <climits>
#include <cstddef>

namespace finesweep::worker {

// What finesweep uses of NCCL (https://docs.nvidia.com/deeplearning/nccl), declared as nccl.h has it since 2.18, so
// that no header of NCCL is needed to build. Numbers and layouts are part of its interface and stay.

struct NcclCommunicator;  // opaque
struct NcclUniqueId {
  char bytes[128];
};

enum NcclResult : int { kNcclSuccess = 0, kNcclInProgress = 7 };
enum NcclType : int { kNcclUint8 = 1, kNcclFloat32 = 7, kNcclFloat64 = 8 };
inline constexpr int kNcclSum = 0;

/// ncclConfig_t of 2.18. What later versions added they take from their defaults, since `size` says where this
/// ends.
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21801;
  int blocking = 0;
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

/// NCCL's functions. Streams are cudaStream_t.
struct NcclLibrary {
  NcclResult (*get_version)(int*) = nullptr;
  NcclResult (*get_unique_id)(NcclUniqueId*) = nullptr;
  NcclResult (*init_rank)(NcclCommunicator**, int ranks, NcclUniqueId, int rank, NcclConfig*) = nullptr;
  NcclResult (*async_error)(NcclCommunicator*, NcclResult*) = nullptr;
  NcclResult (*all_reduce)(const void* from, void* to, std::size_t count, NcclType, int operation,
                           NcclCommunicator*, void* stream) = nullptr;
  NcclResult (*reduce_scatter)(const void* from, void* to, std::size_t count_of_a_rank, NcclType, int operation,
                               NcclCommunicator*, void* stream) = nullptr;
  NcclResult (*all_gather)(const void* from, void* to, std::size_t count_of_a_rank, NcclType, NcclCommunicator*,
                           void* stream) = nullptr;
  NcclResult (*broadcast)(const void* from, void* to, std::size_t count, NcclType, int root, NcclCommunicator*,
                          void* stream) = nullptr;
  NcclResult (*finalize)(NcclCommunicator*) = nullptr;
  NcclResult (*destroy)(NcclCommunicator*) = nullptr;
  NcclResult (*abort)(NcclCommunicator*) = nullptr;
  const char* (*error_string)(NcclResult) = nullptr;
  const char* (*last_error)(NcclCommunicator*) = nullptr;
};

/// The NCCL that libtorch's CUDA library brought with it, else the system's; loaded at the first call. Null where
/// there is none.
const NcclLibrary* nccl_library();

}  // namespace finesweep::worker
