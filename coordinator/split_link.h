#pragma once

#include <utility>

#include "coordinator/worker_link.h"

namespace finesweep::coordinator {

/// Two links as one: those below `first_joined` were started with the sweep, the others joined it.
class SplitLink final : public WorkerLink {
 public:
  /// Both outlive it.
  SplitLink(WorkerLink& started, WorkerLink& joined, int first_joined)
      : started_(started), joined_(joined), first_joined_(first_joined) {}

  void send(int rank, Bytes frame) override { link_of(rank).send(rank, std::move(frame)); }
  void forget(int rank) override { link_of(rank).forget(rank); }
  std::vector<Received> receive() override {
    auto received = started_.receive();
    for (Received& joined : joined_.receive()) received.push_back(std::move(joined));
    return received;
  }
  std::vector<std::string> refused() override { return joined_.refused(); }

 private:
  WorkerLink& link_of(int rank) { return rank < first_joined_ ? started_ : joined_; }

  WorkerLink& started_;
  WorkerLink& joined_;
  int first_joined_;
};

}  // namespace finesweep::coordinator
