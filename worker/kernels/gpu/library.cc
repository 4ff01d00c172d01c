#include "worker/kernels/gpu/library.h"

#include <cstdio>

#include "worker/kernels/cuda/library.h"

namespace finesweep::worker {
namespace {

constexpr const char* kFile = "libfinesweep-graph.so";

const GraphModule* load() {
  void* library = open_beside_program(kFile);
  if (library == nullptr) {
    std::fprintf(stderr, "no %s beside this program: nothing is captured, and small steps are slower\n", kFile);
    return nullptr;
  }
  static GraphModule module;
  decltype(&finesweep_graph_version) version = nullptr;
  const bool whole = find_function(library, "finesweep_graph_version", version) &&
                     version() == kFinesweepGraphVersion &&
                     find_function(library, "finesweep_graph_error", module.error) &&
                     find_function(library, "finesweep_graph_pool_new", module.pool_new) &&
                     find_function(library, "finesweep_graph_pool_delete", module.pool_delete) &&
                     find_function(library, "finesweep_graph_stream_begin", module.stream_begin) &&
                     find_function(library, "finesweep_graph_stream_end", module.stream_end) &&
                     find_function(library, "finesweep_graph_capture_begin", module.capture_begin) &&
                     find_function(library, "finesweep_graph_capture_end", module.capture_end) &&
                     find_function(library, "finesweep_graph_capture_abandon", module.capture_abandon) &&
                     find_function(library, "finesweep_graph_stream_handle", module.stream_handle) &&
                     find_function(library, "finesweep_graph_mark_new", module.mark_new) &&
                     find_function(library, "finesweep_graph_mark_record", module.mark_record) &&
                     find_function(library, "finesweep_graph_mark_wait", module.mark_wait) &&
                     find_function(library, "finesweep_graph_mark_delete", module.mark_delete) &&
                     find_function(library, "finesweep_graph_replay", module.replay) &&
                     find_function(library, "finesweep_graph_delete", module.graph_delete) &&
                     find_function(library, "finesweep_matmul", module.matmul) &&
                     find_function(library, "finesweep_matmul_keep_choices", module.matmul_keep_choices);
  if (whole) return &module;
  std::fprintf(stderr, "%s is of another version of finesweep: build both together\n", kFile);
  return nullptr;
}

}  // namespace

const GraphModule* graph_module() {
  static const GraphModule* module = load();
  return module;
}

}  // namespace finesweep::worker
