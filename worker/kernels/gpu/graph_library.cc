// libfinesweep-graph.so: see graph_api.h. The only source that is compiled against libtorch's CUDA headers.

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker/kernels/gpu/graph_api.h"
#include "worker/kernels/gpu/library_error.h"

using finesweep::guarded;
using finesweep::last_library_error;

namespace finesweep {

std::string& last_library_error() {
  static thread_local std::string error;
  return error;
}

}  // namespace finesweep

namespace {

struct Capture {
  c10::DeviceIndex device = 0;
  c10::MempoolId_t pool;
  std::unique_ptr<at::cuda::CUDAGraph> graph;
};

thread_local std::optional<Capture> capture;
thread_local std::map<int, c10::cuda::CUDAStream> streams_before;

c10::cuda::CUDAStream capture_stream(int device) {
  static thread_local std::map<int, c10::cuda::CUDAStream> streams;
  const auto found = streams.find(device);
  if (found != streams.end()) return found->second;
  return streams
      .emplace(device,
               c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device)))
      .first->second;
}

/// Work of `later` that is given from here on waits for that of `earlier`.
void order(const c10::cuda::CUDAStream& earlier, const c10::cuda::CUDAStream& later) {
  c10::Event event(c10::DeviceType::CUDA);
  event.record(earlier.unwrap());
  event.block(later.unwrap());
}

/// Takes the allocator out of a capture that libtorch did not bring to its end.
void leave_pool(const Capture& broken) {
  try {
    c10::cuda::CUDACachingAllocator::endAllocateToPool(broken.device, broken.pool);
  } catch (const std::exception&) {
    // It had left the pool already.
  }
}

}  // namespace

extern "C" {

int finesweep_graph_version() {
  return kFinesweepGraphVersion;
}

const char* finesweep_graph_error() {
  return last_library_error().c_str();
}

void* finesweep_graph_pool_new() {
  c10::MempoolId_t* pool = nullptr;
  guarded([&] { pool = new c10::MempoolId_t(at::cuda::graph_pool_handle()); });
  return pool;
}

void finesweep_graph_pool_delete(void* pool) {
  delete static_cast<c10::MempoolId_t*>(pool);
}

int finesweep_graph_stream_begin(int device) {
  return guarded([&] {
    const auto before = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device));
    const auto mine = capture_stream(device);
    order(before, mine);
    streams_before.insert_or_assign(device, before);
    c10::cuda::setCurrentCUDAStream(mine);
  });
}

int finesweep_graph_stream_end(int device) {
  return guarded([&] {
    const auto before = streams_before.find(device);
    if (before == streams_before.end()) throw std::logic_error("the stream for graphs is not the current one");
    order(capture_stream(device), before->second);
    c10::cuda::setCurrentCUDAStream(before->second);
    streams_before.erase(before);
  });
}

int finesweep_graph_capture_begin(int device, void* pool) {
  return guarded([&] {
    if (capture) throw std::logic_error("a graph is being captured on this thread already");
    capture.emplace();
    capture->device = static_cast<c10::DeviceIndex>(device);
    capture->pool = *static_cast<const c10::MempoolId_t*>(pool);
    capture->graph = std::make_unique<at::cuda::CUDAGraph>();
    try {
      // Other threads of the process may go on with their own work on the device.
      capture->graph->capture_begin(capture->pool, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      capture.reset();
      throw;
    }
  });
}

void* finesweep_graph_capture_end() {
  if (!capture) {
    last_library_error() = "no graph is being captured on this thread";
    return nullptr;
  }
  Capture done = std::move(*capture);
  capture.reset();
  if (guarded([&] { done.graph->capture_end(); }) == 0) return done.graph.release();
  leave_pool(done);
  return nullptr;
}

void finesweep_graph_capture_abandon() {
  if (!capture) return;
  const std::string why = last_library_error();
  if (void* graph = finesweep_graph_capture_end(); graph != nullptr) finesweep_graph_delete(graph);
  last_library_error() = why;
}

int finesweep_graph_stream_handle(int device, void** handle) {
  return guarded(
      [&] { *handle = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream(); });
}

void* finesweep_graph_mark_new() {
  cudaEvent_t event = nullptr;
  guarded([&] { C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming)); });
  return event;
}

int finesweep_graph_mark_record(void* mark, int device) {
  return guarded([&] {
    const auto stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device));
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
    const bool captured = status == cudaStreamCaptureStatusActive;
    C10_CUDA_CHECK(cudaEventRecordWithFlags(static_cast<cudaEvent_t>(mark), stream,
                                            captured ? cudaEventRecordExternal : cudaEventRecordDefault));
  });
}

int finesweep_graph_mark_wait(void* mark, void* stream) {
  return guarded([&] {
    C10_CUDA_CHECK(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(mark), 0));
  });
}

void finesweep_graph_mark_delete(void* mark) {
  guarded([&] { C10_CUDA_CHECK(cudaEventDestroy(static_cast<cudaEvent_t>(mark))); });
}

int finesweep_graph_replay(void* graph) {
  return guarded([&] { static_cast<at::cuda::CUDAGraph*>(graph)->replay(); });
}

void finesweep_graph_delete(void* graph) {
  guarded([&] { delete static_cast<at::cuda::CUDAGraph*>(graph); });
}
}
