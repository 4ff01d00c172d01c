#include "coordinator/presence.h"

#include <chrono>

namespace finesweep::coordinator {

namespace {

constexpr std::chrono::seconds kBeyondLease{5};
/// A call so much later than the one before shows that the coordinator itself stood still.
constexpr std::chrono::seconds kStall{5};
/// A worker that stood still may come back: so long nobody needs to be there.
constexpr std::chrono::seconds kDesertedAfter{60};

}  // namespace

Presence::Presence(Duration lease) : silence_(lease + kBeyondLease) {}

void Presence::heard(int rank, Instant now) {
  heard_[rank] = now;
  somebody_was_lost_ = false;
}

void Presence::left(int rank) {
  heard_.erase(rank);
}

std::vector<int> Presence::lost(Instant now) {
  // What workers said meanwhile lies unread.
  if (last_looked_ != Instant{} && now - last_looked_ > kStall)
    for (auto& [rank, heard] : heard_) heard = now;
  last_looked_ = now;
  std::vector<int> lost;
  for (const auto& [rank, heard] : heard_)
    if (now - heard > silence_) lost.push_back(rank);
  for (const int rank : lost) heard_.erase(rank);
  if (!lost.empty()) {
    somebody_was_lost_ = true;
    alone_since_ = now;
  }
  return lost;
}

bool Presence::deserted(Instant now) const {
  return somebody_was_lost_ && heard_.empty() && now - alone_since_ > kDesertedAfter;
}

}  // namespace finesweep::coordinator
