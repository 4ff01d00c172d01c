#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace finesweep {

/// Where a process can be made to end at once, as `kill -9` would end it: before and after each write, sync,
/// rename, commit and send that must not be half done. Tests visit every one (tests/system/crash_test.cc):
///
///   FINESWEEP_CRASH_AT=name[:n][,…]   the process that passes `name` for the n-th time (default: the first) ends
///   FINESWEEP_CRASH_MARKS=folder      it leaves folder/name, with its program's name and pid; a point that has its
///                                     mark there does not fire again, in no process
///
/// Always compiled in; costs one look at a variable where nothing is asked for.
inline constexpr auto kCrashPoints = std::to_array<std::string_view>({
    // finesweep run, outside of MPI
    "supervisor.before_launch",
    "supervisor.launched",
    "supervisor.launcher_ended",

    // The coordinator begins.
    "lock.before_write",
    "lock.written",  // and heartbeats
    "lock.synced",
    "store.created",  // the database; its folder is not synced
    "generation.before_commit",
    "generation.committed",
    "resume.before_record",  // what an earlier life left is known, and not recorded
    "resume.recorded",

    // A file that is written whole (storage/files.h), by whatever process
    "file.before_write",
    "file.written",
    "file.synced",
    "file.renamed",  // its folder is not synced
    "file.durable",
    "rename.before",  // of folders: checkpoints, artifacts
    "rename.renamed",
    "rename.durable",
    "status.written",
    "status.replaced",

    // A round of the coordinator
    "mpi.received",
    "commit.begun",
    "commit.before",
    "commit.done",  // events.jsonl lags behind
    "commit.logged",
    "round.recorded",  // and not sent
    "mpi.before_send",
    "mpi.sent",
    "round.sent",
    "publish.verified",
    "publish.renamed",  // and not recorded
    "staging.before_clear",
    "staging.cleared",
    "control.before_answer",
    "control.answered",  // the request is still there
    "control.done",

    // The worker
    "worker.dispatched",  // jobs are in its queue, no runner knows
    "worker.started",
    "worker.before_result",
    "worker.result_sent",
    "worker.acknowledged",
    "worker.before_goodbye",
    "worker.left",

    // The runner
    "runner.begun",
    "runner.ready",
    "runner.sent",  // a frame; the first says that it is ready
    "runner.before_job",
    "checkpoint.begun",
    "checkpoint.written",
    "checkpoint.sealed",
    "checkpoint.renamed",
    "checkpoint.tidied",
    "artifact.written",
    "artifact.synced",  // without a manifest
    "artifact.sealed",
    "runner.before_result",

    // The coordinator ends.
    "reports.before_write",
    "reports.written",
    "sweep.before_end",  // the final status is not written
    "sweep.ended",
});

/// The index of a name in kCrashPoints. One that is not there does not compile.
class CrashPoint {
 public:
  consteval CrashPoint(const char* name) : index_(index_of(name)) {}
  constexpr std::size_t index() const { return index_; }

 private:
  static consteval std::size_t index_of(std::string_view name) {
    for (std::size_t i = 0; i < kCrashPoints.size(); ++i)
      if (kCrashPoints[i] == name) return i;
    throw "no such crash point";
  }
  std::size_t index_;
};

/// Set before main(), by the environment.
extern const bool crash_points_armed;

/// Ends the process where this point's turn has come. Any thread.
void pass_armed_crash_point(CrashPoint point);

inline void crash_point(CrashPoint point) {
  if (crash_points_armed) [[unlikely]]
    pass_armed_crash_point(point);
}

}  // namespace finesweep
