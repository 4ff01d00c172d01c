#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>

namespace finesweep::worker {

/// Another process of the job is gone or silent, or the network between them broke: what this one computes is worth
/// nothing any more.
class PeerLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct GroupOptions {
  /// From 0; rank 0 leads: it alone evaluates, writes checkpoints and brings the result.
  int rank = 0;
  int size = 1;
  /// A file by which the ranks find each other: not there before, the same for all, used once. On a file system
  /// that has flock(2).
  std::filesystem::path rendezvous;
  c10::Device device = c10::kCPU;
  /// How long one waits for all others to come.
  std::chrono::milliseconds join_patience = std::chrono::minutes(5);
  /// How long a rank on a GPU waits for the others inside a sum before it gives them up. On a CPU, where a step may
  /// take any time, and for words there is no such limit: the worker ends the ranks when one of them dies or falls
  /// silent.
  std::chrono::milliseconds sum_patience = std::chrono::minutes(1);
};

/// The processes that train one model together, on devices of one host. All ranks call the same in the same order.
/// Not thread-safe. Where a peer is lost every call throws PeerLost; then the group is good for nothing more.
class ProcessGroup {
 public:
  /// A place in the work of a GPU.
  class Mark {
   public:
    virtual ~Mark() = default;
    /// Here, behind what the current stream has been given; in a capture, behind what was captured so far, whenever
    /// that is replayed.
    virtual void record() = 0;
  };

  /// Waits until all ranks are there.
  static std::unique_ptr<ProcessGroup> join(const GroupOptions& options);
  virtual ~ProcessGroup() = default;

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }
  bool leads() const { return options_.rank == 0; }

  /// Adds up `values` over all ranks, in place: contiguous, fp32 or fp64, on the group's device. Every rank gets
  /// the same bits. Done by the next finish_sums() at the latest; until then nobody touches them. `after`: on a
  /// GPU, work behind this mark is not waited for; null: all is that was given to the current stream.
  virtual void start_sum(const at::Tensor& values, const Mark* after = nullptr) = 0;
  /// The same of one part alone: `values` are as many equal parts as there are ranks, and of its own each rank gets
  /// the sum. The other parts become 0.
  virtual void start_scattered_sum(const at::Tensor& values, const Mark* after = nullptr) = 0;
  /// Of such parts, of any dtype, each becomes its rank's. Done as a sum is.
  virtual void start_gather(const at::Tensor& values) = 0;
  /// On a CPU waits for the sums. On a GPU what the current stream is given from here on does.
  virtual void finish_sums() = 0;
  /// The root's values, of any dtype, become everybody's. As start_sum; waits likewise.
  virtual void broadcast(const at::Tensor& values, int root = 0) = 0;
  /// Null on a CPU.
  virtual std::unique_ptr<Mark> make_mark() { return nullptr; }

  /// A number from the leader to all; what others give is not looked at. Words arrive in the order in which they
  /// were started.
  virtual void start_word(std::int64_t word) = 0;
  virtual std::int64_t finish_word() = 0;
  std::int64_t word(std::int64_t word) {
    start_word(word);
    return finish_word();
  }
  /// The greatest of all ranks' values.
  virtual double greatest(double value) = 0;

 protected:
  explicit ProcessGroup(const GroupOptions& options) : options_(options) {}
  /// Flat, of values of start_scattered_sum.
  at::Tensor part_of(const at::Tensor& values, int rank) const {
    const std::int64_t count = values.numel() / size();
    return values.view({-1}).narrow(0, rank * count, count);
  }
  const GroupOptions options_;
};

}  // namespace finesweep::worker
