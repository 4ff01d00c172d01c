#include "worker/collectives/gloo_group.h"

#include <ATen/ops/full.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace finesweep::worker {
namespace {

using Work = c10::intrusive_ptr<c10d::Work>;

/// Longer than anything takes: who waits for a peer that is alive waits as long as it needs.
constexpr std::chrono::milliseconds kAlways = std::chrono::hours(24 * 30);

/// Runs `call`; what libtorch or Gloo throws becomes PeerLost.
template <typename Call>
auto through_gloo(const char* what, const Call& call) {
  try {
    return call();
  } catch (const std::exception& error) {
    const std::string words = error.what();
    throw PeerLost(std::string("Another process of this job was lost (") + what + ": " +
                   words.substr(0, words.find('\n')) + ").");
  }
}

class GlooGroup final : public ProcessGroup {
 public:
  explicit GlooGroup(const GroupOptions& options) : ProcessGroup(options) {
    through_gloo("joining", [&] {
      auto store = c10::make_intrusive<c10d::FileStore>(options.rendezvous.string(), options.size);
      store->setTimeout(options.join_patience);
      auto how = c10d::ProcessGroupGloo::Options::create(options.join_patience);
      how->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(std::move(store), options.rank, options.size, how);
    });
  }

  ~GlooGroup() override {
    // Where something failed, sums are under way that may never end; the group's threads would be waited for. The
    // worker ends this process.
    if (!sums_.empty() || !words_.empty()) group_.release();
  }

  void start_sum(const at::Tensor& values, const Mark*) override {
    std::vector<at::Tensor> tensors{values};
    c10d::AllreduceOptions how;
    how.timeout = kAlways;
    sums_.push_back(through_gloo("a sum", [&] { return group_->allreduce(tensors, how); }));
  }

  void start_scattered_sum(const at::Tensor& values, const Mark* after) override {
    start_sum(values, after);
    scattered_.push_back(values);
  }

  void start_gather(const at::Tensor& values) override {
    through_gloo("a gathering", [&] {
      for (int rank = 0; rank < size(); ++rank) sums_.push_back(start_broadcast(part_of(values, rank), rank));
    });
  }

  void finish_sums() override {
    through_gloo("a sum", [&] {
      for (const Work& sum : sums_) sum->wait();
    });
    sums_.clear();
    for (const at::Tensor& values : std::exchange(scattered_, {})) {
      for (int other = 0; other < size(); ++other) {
        if (other != rank()) part_of(values, other).zero_();
      }
    }
  }

  void broadcast(const at::Tensor& values, int root) override {
    through_gloo("a broadcast", [&] { start_broadcast(values, root)->wait(); });
  }

  void start_word(std::int64_t word) override {
    const at::Tensor value = at::full({1}, word, at::kLong);
    words_.emplace_back(value, through_gloo("a word", [&] { return start_broadcast(value); }));
  }

  std::int64_t finish_word() override {
    through_gloo("a word", [&] { words_.front().second->wait(); });
    const auto word = words_.front().first.item<std::int64_t>();
    words_.pop_front();
    return word;
  }

  double greatest(double value) override {
    const at::Tensor all = at::full({1}, value, at::kDouble);
    std::vector<at::Tensor> tensors{all};
    c10d::AllreduceOptions how;
    how.timeout = kAlways;
    how.reduceOp = c10d::ReduceOp::MAX;
    through_gloo("a maximum", [&] { group_->allreduce(tensors, how)->wait(); });
    return all.item<double>();
  }

 private:
  Work start_broadcast(const at::Tensor& values, int root = 0) {
    std::vector<at::Tensor> tensors{values};
    c10d::BroadcastOptions how;
    how.rootRank = root;
    how.timeout = kAlways;
    return group_->broadcast(tensors, how);
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::vector<Work> sums_;
  std::vector<at::Tensor> scattered_;  // of sums that are under way
  std::deque<std::pair<at::Tensor, Work>> words_;
};

}  // namespace

std::unique_ptr<ProcessGroup> join_gloo_group(const GroupOptions& options) {
  return std::make_unique<GlooGroup>(options);
}

}  // namespace finesweep::worker
