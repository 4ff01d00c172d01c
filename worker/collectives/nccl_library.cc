#include "worker/collectives/nccl_library.h"

#include <dlfcn.h>

#include "worker/kernels/cuda/library.h"

namespace finesweep::worker {
namespace {

const NcclLibrary* load() {
  // Loaded with libtorch's CUDA library or not, this name finds it.
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  // In a wheel it may lie where only libtorch's own search finds it: then its names are there already.
  if (library == nullptr) library = dlopen(nullptr, RTLD_NOW);
  static NcclLibrary nccl;
  const bool whole = find_function(library, "ncclGetVersion", nccl.get_version) &&
                     find_function(library, "ncclGetUniqueId", nccl.get_unique_id) &&
                     find_function(library, "ncclCommInitRankConfig", nccl.init_rank) &&
                     find_function(library, "ncclCommGetAsyncError", nccl.async_error) &&
                     find_function(library, "ncclAllReduce", nccl.all_reduce) &&
                     find_function(library, "ncclReduceScatter", nccl.reduce_scatter) &&
                     find_function(library, "ncclAllGather", nccl.all_gather) &&
                     find_function(library, "ncclBroadcast", nccl.broadcast) &&
                     find_function(library, "ncclCommFinalize", nccl.finalize) &&
                     find_function(library, "ncclCommDestroy", nccl.destroy) &&
                     find_function(library, "ncclCommAbort", nccl.abort) &&
                     find_function(library, "ncclGetErrorString", nccl.error_string) &&
                     find_function(library, "ncclGetLastError", nccl.last_error);
  return whole ? &nccl : nullptr;
}

}  // namespace

const NcclLibrary* nccl_library() {
  static const NcclLibrary* library = load();
  return library;
}

}  // namespace finesweep::worker
