#include "coordinator/publisher.h"

#include <exception>
#include <utility>

namespace finesweep::coordinator {

Publisher::Publisher(storage::RunDirectory run) : run_(std::move(run)), thread_([this] { work(); }) {}

Publisher::~Publisher() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Publisher::submit(const AttemptKey& attempt) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(attempt);
  }
  wake_.notify_one();
}

std::vector<Publisher::Done> Publisher::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

void Publisher::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (closing_) return;
    const AttemptKey attempt = queue_.front();
    queue_.pop_front();
    lock.unlock();
    Result<storage::Manifest> manifest = [&]() -> Result<storage::Manifest> {
      try {
        return run_.publish(attempt);
      } catch (const std::exception& error) {
        return Error{std::string("the artifact cannot be published: ") + error.what()};
      }
    }();
    lock.lock();
    done_.push_back({attempt, std::move(manifest)});
  }
}

}  // namespace finesweep::coordinator
