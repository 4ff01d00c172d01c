#include "coordinator/presence.h"

#include <chrono>

namespace finesweep::coordinator {

namespace {

constexpr std::chrono::seconds kBeyondLease{5};
/// A call so much later than the one before shows that the coordinator itself stood still.
constexpr std::chrono::seconds kStall{5};
/// A worker that stood still may come back, and one that starts may be slow: so long nobody needs to be there.
constexpr std::chrono::seconds kDesertedAfter{60};

}  // namespace

Presence::Presence(Duration lease) : silence_(lease + kBeyondLease) {}

void Presence::heard(int rank, Instant now) {
  heard_[rank] = now;
}

void Presence::left(int rank) {
  heard_.erase(rank);
}

std::vector<int> Presence::lost(Instant now) {
  const bool first_look = !last_looked_;
  // What workers said while the coordinator stood still lies unread.
  const bool stood_still = last_looked_ && now - *last_looked_ > kStall;
  if (stood_still)
    for (auto& [rank, heard] : heard_) heard = now;
  last_looked_ = now;
  if (first_look || stood_still || !heard_.empty()) alone_since_ = now;
  std::vector<int> lost;
  for (const auto& [rank, heard] : heard_)
    if (now - heard > silence_) lost.push_back(rank);
  for (const int rank : lost) heard_.erase(rank);
  return lost;
}

bool Presence::deserted(Instant now) const {
  return last_looked_ && heard_.empty() && now - alone_since_ > kDesertedAfter;
}

}  // namespace finesweep::coordinator
