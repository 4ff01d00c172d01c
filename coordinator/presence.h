#pragma once

#include <map>
#include <optional>
#include <vector>

#include "coordinator/instant.h"

namespace finesweep::coordinator {

/// Which workers give signs of life, by rank. The reactor gives up a silent worker's jobs by itself; this tells the
/// driver whom to stop speaking to (what is sent to a dead rank stays with MPI for ever), and when nobody is left.
class Presence {
 public:
  /// A worker is lost some seconds after `lease`, later than the reactor gives it up.
  explicit Presence(Duration lease);

  void heard(int rank, Instant now);
  void left(int rank);
  /// Those lost since the last call; one that is heard again is there again.
  std::vector<int> lost(Instant now);
  /// No worker has been there for long: the last one was lost or left, or none has come since the first look.
  bool deserted(Instant now) const;

 private:
  Duration silence_;
  std::map<int, Instant> heard_;
  std::optional<Instant> last_looked_;
  Instant alone_since_{};
};

}  // namespace finesweep::coordinator
