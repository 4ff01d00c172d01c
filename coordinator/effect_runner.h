#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "coordinator/publisher.h"
#include "coordinator/reactor.h"
#include "coordinator/sweep_view.h"
#include "coordinator/worker_link.h"
#include "jobs/json.h"
#include "storage/run_directory.h"
#include "storage/store.h"

namespace finesweep::coordinator {

/// Workers that are there, by rank.
using WorkersByRank = std::map<int, SweepView::WorkerEntry>;

/// Carries out what the reactor decided. All that one round decides is recorded in one durable transaction before
/// anything of it is sent, so a worker never hears of what a crash could undo.
class EffectRunner {
 public:
  /// All but `run` outlive it.
  EffectRunner(storage::Store& store, const storage::RunDirectory& run, WorkerLink& link,
               const WorkersByRank& workers, SweepView& view, const std::function<void(const Json&)>& show);

  /// An event beside state changes: shown at once, recorded with the next round.
  void remark(Json event);
  /// An attempt has shown a sign of life; passed over where it has ended meanwhile.
  void note_start(const WorkerId& worker, const AttemptKey& attempt);

  bool has_remarks() const { return !remarks_.empty(); }
  /// One round. Returns what the reactor must hear of it. The Error: the store failed, nothing was sent, nothing
  /// can go on.
  Result<std::vector<Event>> carry_out(const Reactor& reactor, const std::vector<Effect>& effects);
  /// The same for artifacts that have been verified meanwhile.
  Result<std::vector<Event>> record_published(const Reactor& reactor);

  /// Removes what the attempts of recorded results left in staging.
  void clear_staging();

  std::int64_t finished_jobs = 0;

 private:
  struct Round {
    std::vector<storage::Change> changes;
    std::vector<std::pair<int, Bytes>> sends;
    std::vector<Event> answers;
    std::vector<Json> shown;
  };
  void add(const Reactor&, const RecordAttempt&, Round&);
  void add(const Reactor&, const RecordAttemptEnd&, Round&);
  void add(const Reactor&, const RecordJobEnd&, Round&);
  void add(const Reactor&, const Publish&, Round&);
  void add(const Reactor&, const RecordJoin&, Round&);
  void add(const Reactor&, const SendDispatch&, Round&);
  void add(const Reactor&, const SendLend&, Round&);
  void add(const Reactor&, const SendAcknowledge&, Round&);
  void add(const Reactor&, const SendRevoke&, Round&);
  void add(const Reactor&, const SendStop&, Round&);
  void add(const Reactor&, const SendRejoin&, Round&);
  void add(const Reactor&, const SweepEnded&, Round&) {}
  void add_success(const Reactor& reactor, const AttemptKey& attempt, const Outcome& outcome, Round& round);
  template <typename Message>
  void send(const WorkerId& worker, const Message& message, Round& round);
  Result<std::vector<Event>> commit(Round round);

  storage::Store& store_;
  storage::RunDirectory run_;
  WorkerLink& link_;
  const WorkersByRank& workers_;
  SweepView& view_;
  const std::function<void(const Json&)>& show_;
  Publisher publisher_;
  std::vector<storage::Change> remarks_;
  std::map<AttemptKey, int> out_;          // recorded, and not ended: how many jobs its pack had
  std::map<AttemptKey, Instant> started_;  // when an attempt was seen to have begun
  std::vector<JobId> recorded_;            // their staging folders are no longer needed
};

}  // namespace finesweep::coordinator
