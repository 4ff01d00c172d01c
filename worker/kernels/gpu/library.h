#pragma once

#include "worker/kernels/gpu/graph_api.h"
#include "worker/kernels/gpu/matmul_api.h"

namespace finesweep::worker {

/// The functions of libfinesweep-graph.so.
struct GraphModule {
  decltype(&finesweep_graph_error) error = nullptr;
  decltype(&finesweep_graph_pool_new) pool_new = nullptr;
  decltype(&finesweep_graph_pool_delete) pool_delete = nullptr;
  decltype(&finesweep_graph_stream_begin) stream_begin = nullptr;
  decltype(&finesweep_graph_stream_end) stream_end = nullptr;
  decltype(&finesweep_graph_capture_begin) capture_begin = nullptr;
  decltype(&finesweep_graph_capture_end) capture_end = nullptr;
  decltype(&finesweep_graph_capture_abandon) capture_abandon = nullptr;
  decltype(&finesweep_graph_stream_handle) stream_handle = nullptr;
  decltype(&finesweep_graph_mark_new) mark_new = nullptr;
  decltype(&finesweep_graph_mark_record) mark_record = nullptr;
  decltype(&finesweep_graph_mark_wait) mark_wait = nullptr;
  decltype(&finesweep_graph_mark_delete) mark_delete = nullptr;
  decltype(&finesweep_graph_replay) replay = nullptr;
  decltype(&finesweep_graph_delete) graph_delete = nullptr;
  decltype(&finesweep_matmul) matmul = nullptr;
  decltype(&finesweep_matmul_keep_choices) matmul_keep_choices = nullptr;
};

/// Loaded at the first call. Null where it is not there or of another version; why is said once on stderr. Any
/// thread.
const GraphModule* graph_module();

}  // namespace finesweep::worker
