#include "worker/collectives/nccl_group.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "worker/collectives/gloo_group.h"
#include "worker/collectives/nccl_library.h"
#include "worker/kernels/gpu/library.h"

namespace finesweep::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kPoll{50};
constexpr std::chrono::milliseconds kWatchEvery{100}, kFarewell{5000};

void check_library(int failed, const char* what) {
  if (failed != 0) throw std::runtime_error(std::string(what) + ": " + graph_module()->error());
}

/// An event that captured work records whenever it is replayed.
class GraphMark final : public ProcessGroup::Mark {
 public:
  explicit GraphMark(c10::Device device) : device_(device), event_(graph_module()->mark_new()) {
    if (event_ == nullptr) check_library(1, "an event for sums");
  }
  ~GraphMark() override { graph_module()->mark_delete(event_); }
  void record() override {
    check_library(graph_module()->mark_record(event_, device_.index()), "marking what is to be summed");
  }
  void wait_on(void* stream) const {
    check_library(graph_module()->mark_wait(event_, stream), "waiting for what is to be summed");
  }

 private:
  const c10::Device device_;
  void* event_;
};

class NcclGroup final : public ProcessGroup {
 public:
  explicit NcclGroup(const GroupOptions& options)
      : ProcessGroup(options),
        words_(join_gloo_group(options)),
        guard_(options.device),
        stream_(c10::impl::VirtualGuardImpl(c10::kCUDA).getStreamFromGlobalPool(options.device, true)) {
    const c10::impl::VirtualGuardImpl streams(c10::kCUDA);
    const c10::Stream before = streams.exchangeStream(stream_);
    const int failed = graph_module()->stream_handle(options.device.index(), &native_stream_);
    streams.exchangeStream(before);
    check_library(failed, "the stream for sums");
    connect();
    watchdog_ = std::thread([this] { watch(); });
  }

  ~NcclGroup() override {
    {
      const std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    wake_.notify_all();
    watchdog_.join();
    if (communicator_ != nullptr) say_goodbye();
  }

  std::unique_ptr<Mark> make_mark() override { return std::make_unique<GraphMark>(options_.device); }

  void start_sum(const at::Tensor& values, const Mark* after) override {
    begin(after);
    launch("all-reduce", [&](NcclCommunicator* communicator) {
      return nccl_.all_reduce(values.const_data_ptr(), values.mutable_data_ptr(),
                              static_cast<std::size_t>(values.numel()), type_of(values), kNcclSum, communicator,
                              native_stream_);
    });
  }

  void start_scattered_sum(const at::Tensor& values, const Mark* after) override {
    begin(after);
    const at::Tensor mine = part_of(values, rank());
    launch("reduce-scatter", [&](NcclCommunicator* communicator) {
      return nccl_.reduce_scatter(values.const_data_ptr(), mine.mutable_data_ptr(),
                                  static_cast<std::size_t>(mine.numel()), type_of(values), kNcclSum, communicator,
                                  native_stream_);
    });
    const c10::impl::VirtualGuardImpl streams(c10::kCUDA);
    const c10::Stream before = streams.exchangeStream(stream_);
    const at::Tensor all = values.view({-1});
    const std::int64_t begin = rank() * mine.numel(), end = begin + mine.numel();
    if (begin > 0) all.narrow(0, 0, begin).zero_();
    if (end < all.numel()) all.narrow(0, end, all.numel() - end).zero_();
    streams.exchangeStream(before);
  }

  void start_gather(const at::Tensor& values) override {
    begin(nullptr);
    const at::Tensor mine = part_of(values, rank());
    launch("all-gather", [&](NcclCommunicator* communicator) {
      return nccl_.all_gather(mine.const_data_ptr(), values.mutable_data_ptr(), mine.nbytes(), kNcclUint8,
                              communicator, native_stream_);
    });
  }

  void broadcast(const at::Tensor& values, int root) override {
    begin(nullptr);
    launch("broadcast", [&](NcclCommunicator* communicator) {
      return nccl_.broadcast(values.const_data_ptr(), values.mutable_data_ptr(), values.nbytes(), kNcclUint8, root,
                             communicator, native_stream_);
    });
    finish_sums();
  }

  void finish_sums() override {
    c10::Event end(c10::kCUDA);
    end.record(stream_);
    end.block(current_stream());
    const std::lock_guard lock(mutex_);
    under_way_.push_back({std::move(*begun_), std::move(end), {}});
    begun_.reset();
  }

  void start_word(std::int64_t word) override { words_->start_word(word); }
  std::int64_t finish_word() override {
    const std::int64_t word = words_->finish_word();
    check_alive();
    return word;
  }
  double greatest(double value) override { return words_->greatest(value); }

 private:
  struct UnderWay {
    c10::Event begun, end;
    std::optional<Clock::time_point> seen_begun;
  };

  static NcclType type_of(const at::Tensor& values) {
    return values.scalar_type() == at::kDouble ? kNcclFloat64 : kNcclFloat32;
  }
  c10::Stream current_stream() const { return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(options_.device); }

  /// NCCL's sums come behind the mark, or behind all that the device was given.
  void begin(const Mark* after) {
    if (after != nullptr) {
      static_cast<const GraphMark*>(after)->wait_on(native_stream_);
    } else {
      c10::Event now(c10::kCUDA);
      now.record(current_stream());
      now.block(stream_);
    }
    if (begun_) return;
    begun_.emplace(c10::kCUDA);
    begun_->record(stream_);
  }

  void connect() {
    // The leader makes the id; the words' own way passes it on.
    const at::Tensor id = at::empty({static_cast<std::int64_t>(sizeof(NcclUniqueId))}, at::kByte);
    NcclUniqueId unique{};
    if (leads()) {
      check(nccl_.get_unique_id(&unique), "making an id");
      std::memcpy(id.mutable_data_ptr(), &unique, sizeof unique);
    }
    words_->broadcast(id);
    std::memcpy(&unique, id.const_data_ptr(), sizeof unique);
    NcclConfig config;
    const NcclResult begun = nccl_.init_rank(&communicator_, options_.size, unique, options_.rank, &config);
    settle(begun, "joining", options_.join_patience);
  }

  template <typename Call>
  void launch(const char* what, const Call& call) {
    check_alive();
    const std::lock_guard lock(mutex_);
    if (communicator_ == nullptr) throw PeerLost(lost_);
    settle(call(communicator_), what, options_.sum_patience);
  }

  /// Waits until what a call began is under way; not until the device has done it.
  void settle(NcclResult result, const char* what, Clock::duration patience) {
    const auto until = Clock::now() + patience;
    while (result == kNcclInProgress) {
      if (Clock::now() > until) give_up(std::string("NCCL did not come to an end with ") + what);
      std::this_thread::sleep_for(kPoll);
      NcclResult state = kNcclSuccess;
      check(nccl_.async_error(communicator_, &state), what);
      result = state;
    }
    check(result, what);
  }

  void check(NcclResult result, const char* what) {
    if (result == kNcclSuccess || result == kNcclInProgress) return;
    give_up(std::string("NCCL failed at ") + what + ": " + nccl_.error_string(result) + " (" +
            nccl_.last_error(communicator_) + ")");
  }

  [[noreturn]] void give_up(const std::string& why) {
    abort(why);
    throw PeerLost(lost_);
  }

  /// With mutex_ held, or before the watchdog runs.
  void abort(const std::string& why) {
    lost_ = "Another process of this job was lost: " + why + ".";
    if (NcclCommunicator* communicator = std::exchange(communicator_, nullptr)) nccl_.abort(communicator);
  }

  void check_alive() {
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) throw PeerLost(lost_);
  }

  void watch() {
    const c10::DeviceGuard guard(options_.device);
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kWatchEvery, [this] { return leaving_; })) {
      if (communicator_ == nullptr) return;
      NcclResult state = kNcclSuccess;
      if (nccl_.async_error(communicator_, &state) != kNcclSuccess ||
          (state != kNcclSuccess && state != kNcclInProgress)) {
        return abort(std::string("NCCL reports ") + nccl_.error_string(state) + " (" +
                     nccl_.last_error(communicator_) + ")");
      }
      while (!under_way_.empty() && under_way_.front().end.query()) under_way_.pop_front();
      if (under_way_.empty() || !under_way_.front().begun.query()) continue;
      UnderWay& first = under_way_.front();
      if (!first.seen_begun) first.seen_begun = Clock::now();
      if (Clock::now() - *first.seen_begun > options_.sum_patience) {
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options_.sum_patience).count();
        return abort("its part of a sum did not come within " + std::to_string(seconds) + " s");
      }
    }
  }

  /// The watchdog has ended.
  void say_goodbye() {
    const bool idle = !begun_ && (under_way_.empty() || under_way_.back().end.query());
    NcclResult state = idle ? nccl_.finalize(communicator_) : kNcclInProgress;
    const auto until = Clock::now() + kFarewell;
    while (idle && state == kNcclInProgress && Clock::now() < until) {
      std::this_thread::sleep_for(kPoll);
      if (nccl_.async_error(communicator_, &state) != kNcclSuccess) break;
    }
    if (state == kNcclSuccess)
      nccl_.destroy(communicator_);
    else
      nccl_.abort(communicator_);
  }

  const NcclLibrary& nccl_ = *nccl_library();
  std::unique_ptr<ProcessGroup> words_;
  const c10::DeviceGuard guard_;
  const c10::Stream stream_;
  void* native_stream_ = nullptr;
  std::optional<c10::Event> begun_;  // the first sum since the last finish_sums()

  std::mutex mutex_;  // of what the watchdog shares
  std::condition_variable wake_;
  NcclCommunicator* communicator_ = nullptr;  // null once aborted
  std::string lost_;
  std::deque<UnderWay> under_way_;
  bool leaving_ = false;
  std::thread watchdog_;
};

}  // namespace

std::unique_ptr<ProcessGroup> join_nccl_group(const GroupOptions& options) {
  if (nccl_library() == nullptr)
    throw std::runtime_error(
        "training on several GPUs needs NCCL (libnccl.so.2), which was not found: see finesweep "
        "doctor");
  if (graph_module() == nullptr)
    throw std::runtime_error(
        "training on several GPUs needs libfinesweep-graph.so beside finesweep-runner: build it "
        "where nvcc is");
  // All ranks are on this host: nobody else is to reach their sockets.
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  return std::make_unique<NcclGroup>(options);
}

}  // namespace finesweep::worker
