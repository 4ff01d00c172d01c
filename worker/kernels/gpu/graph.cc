#include "worker/kernels/gpu/graph.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <cstdio>
#include <stdexcept>
#include <string>

#include "worker/kernels/gpu/library.h"
#include "worker/kernels/gpu/warm_up.h"

namespace finesweep::worker {
namespace {

void check(int failed, const char* what) {
  if (failed != 0) throw std::runtime_error(std::string(what) + ": " + graph_module()->error());
}

/// The memory of all graphs that are alive. A pool that no graph uses any more is not used again.
class Pool {
 public:
  static std::shared_ptr<Pool> shared() {
    static std::weak_ptr<Pool> current;
    std::shared_ptr<Pool> pool = current.lock();
    if (!pool) current = pool = std::make_shared<Pool>();
    return pool;
  }
  Pool() : pool_(graph_module()->pool_new()) {
    if (pool_ == nullptr) check(1, "memory for captured graphs");
  }
  ~Pool() { graph_module()->pool_delete(pool_); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  void* get() const { return pool_; }

 private:
  void* pool_;
};

/// The stream that captures is the current one while this lives.
class OnCaptureStream {
 public:
  explicit OnCaptureStream(c10::Device device) : device_(device.has_index() ? device.index() : 0) {
    check(graph_module()->stream_begin(device_), "the stream for captures");
  }
  ~OnCaptureStream() {
    if (graph_module()->stream_end(device_) != 0) std::fprintf(stderr, "%s\n", graph_module()->error());
  }
  OnCaptureStream(const OnCaptureStream&) = delete;
  OnCaptureStream& operator=(const OnCaptureStream&) = delete;
  int device() const { return device_; }

 private:
  int device_;
};

}  // namespace

struct CapturedGraph::Handle {
  std::shared_ptr<Pool> pool;
  void* graph = nullptr;

  ~Handle() {
    if (graph != nullptr) graph_module()->graph_delete(graph);
  }
};

bool CapturedGraph::available() {
  return graph_module() != nullptr;
}

void CapturedGraph::warm_up(c10::Device device, const std::function<void()>& work) {
  const OnCaptureStream stream(device);
  work();
}

Result<CapturedGraph> CapturedGraph::capture(c10::Device device, const std::function<void()>& work) {
  gpu::finish_warm_up();
  // During a capture the allocator cannot give unused memory back to make room. To give it back and to ask for it
  // again takes longer than the capture.
  c10::DeviceAllocator& allocator = *c10::getDeviceAllocator(device.type());
  const auto [free, total] = allocator.getMemoryInfo(device.index());
  if (free >= total / 2) {
    Result<CapturedGraph> captured = capture_once(device, work);
    if (captured) return captured;
  }
  allocator.emptyCache();
  return capture_once(device, work);
}

Result<CapturedGraph> CapturedGraph::capture_once(c10::Device device, const std::function<void()>& work) try {
  CapturedGraph result;
  result.handle_ = std::make_shared<Handle>();
  result.handle_->pool = Pool::shared();
  const OnCaptureStream stream(device);
  check(graph_module()->capture_begin(stream.device(), result.handle_->pool->get()), "the capture did not begin");
  try {
    work();
  } catch (...) {
    graph_module()->capture_abandon();
    throw;
  }
  result.handle_->graph = graph_module()->capture_end();
  if (result.handle_->graph == nullptr) check(1, "the capture did not end well");
  return result;
} catch (const std::exception& error) {
  std::string reason = error.what();
  return Error{reason.substr(0, reason.find('\n'))};
}

void CapturedGraph::replay() const {
  check(graph_module()->replay(handle_->graph), "replaying a captured graph");
}

}  // namespace finesweep::worker
