// What the batch script calls: begin, await, end.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/fail.h"
#include "coordinator/slurm_life.h"
#include "coordinator/unix_time.h"
#include "slurm/allocation.h"
#include "slurm/submission.h"
#include "storage/process_start.h"

namespace finesweep::coordinator {

namespace {

using SteadyClock = std::chrono::steady_clock;
using storage::StatusSnapshot;

constexpr std::chrono::milliseconds kLookEvery{500};
/// srun waits for a lost node until Slurm has marked it down, and at times for ever. After the sweep's end it gets
/// so long…
constexpr std::chrono::seconds kSrunAfterEnd{20};
/// …and so long after the coordinator's last sign of life; its workers end by themselves before that.
constexpr std::chrono::seconds kSrunAfterSilence{180};
/// A silent coordinator is looked for so long in status.json.
constexpr std::chrono::seconds kSecondLook{20};
/// How long a requeued job waits to be ended.
constexpr std::chrono::seconds kUntilEnded{120};

constexpr const char* kOfBatchScript = "slurm-life is for the batch script that `finesweep submit` writes";

std::optional<StatusSnapshot> status_of(const storage::RunDirectory& run) {
  auto status = storage::read_status(run.status_file());
  if (!status) return std::nullopt;
  return std::move(*status);
}

/// Of the job that asks.
Result<std::optional<SlurmLife>> own_life(const storage::RunDirectory& run) {
  const auto allocation = slurm::read_allocation();
  if (!allocation) return Error{kOfBatchScript};
  return read_slurm_life(run, allocation->job);
}

int begin_life(const storage::RunDirectory& run) {
  const auto allocation = slurm::read_allocation();
  if (!allocation) return fail(2, kOfBatchScript);
  const auto status = status_of(run);
  Harvest harvest = take_stock(run);
  SlurmLife life;
  life.job = allocation->job;
  life.restarts = allocation->restarts;
  life.begun_ms = unix_ms();
  if (const auto left = slurm::time_left(*allocation)) life.ends_ms = life.begun_ms + *left * 1000;
  life.heartbeat_before_ms = status ? status->heartbeat_ms : 0;
  life.results_before = harvest.results;
  life.checkpoints_before = std::move(harvest.checkpoints);
  if (const Status written = write_slurm_life(run, life); !written) return fail(4, written.error().message);
  return 0;
}

/// 0 once srun has ended, 1 where it is to be waited for no longer.
int await_life(const storage::RunDirectory& run, pid_t srun) {
  // What is meant for the batch script and for srun is not for the one who watches.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) std::signal(signal, SIG_IGN);
  const auto life = own_life(run);
  const std::int64_t before = life && *life ? (*life)->heartbeat_before_ms : 0;
  const auto started = storage::start_time_of(srun);
  std::int64_t heartbeat = before;
  auto moved = SteadyClock::now();
  while (started && storage::start_time_of(srun) == started) {
    std::this_thread::sleep_for(kLookEvery);
    const auto status = status_of(run);
    if (!status || status->heartbeat_ms == before) continue;
    if (status->heartbeat_ms != heartbeat) moved = SteadyClock::now();
    heartbeat = status->heartbeat_ms;
    const auto patience = status->state == StatusSnapshot::State::running ? kSrunAfterSilence : kSrunAfterEnd;
    if (SteadyClock::now() - moved < patience) continue;
    std::cerr << "finesweep: srun still waits, though "
              << (status->state == StatusSnapshot::State::running ? "the coordinator is silent"
                                                                  : "the sweep has ended")
              << ": a node may be lost; its end is not waited for\n";
    return 1;
  }
  return 0;
}

int end_life(const storage::RunDirectory& run, int srun_code) {
  const auto own = own_life(run);
  if (!own) return fail(4, own.error().message);
  if (!*own) return fail(4, run.path().string() + ": no life of this Slurm job began here");
  const SlurmLife& life = **own;
  const Verdict verdict = judge_life(life, status_of(run), take_stock(run), srun_code);
  if (!verdict.message.empty()) std::cerr << "finesweep: " << verdict.message << std::endl;
  if (!verdict.requeue) return verdict.exit_code;
  if (const Status requeued = slurm::requeue(life.job); !requeued)
    return fail(verdict.exit_code, requeued.error().message + "; submit it again to go on");
  // Slurm ends this job now; one that ended by itself before would count as failed.
  std::this_thread::sleep_for(kUntilEnded);
  return verdict.exit_code;
}

/// Of a worker whose coordinator is silent: where the batch script's node is lost with the coordinator's, nobody
/// else is left to end the job, which --no-kill would keep until its time limit. Seen to end this worker and not
/// the job where the node was lost for good (docs/slurm.md): why Slurm does not act on the request is not known.
int desert_life(const storage::RunDirectory& run) {
  const auto first = status_of(run);
  const auto until = SteadyClock::now() + kSecondLook;
  while (SteadyClock::now() < until) {
    std::this_thread::sleep_for(kLookEvery);
    const auto now = status_of(run);
    // Alive, and out of this worker's reach alone; or it has ended.
    if (!first || !now || now->heartbeat_ms != first->heartbeat_ms || now->state != StatusSnapshot::State::running)
      return 4;
  }
  const auto own = own_life(run);
  if (!own || !*own) return 4;  // not of the batch script
  const SlurmLife& life = **own;
  const Verdict verdict = judge_life(life, status_of(run), take_stock(run), 4);
  std::cerr << "finesweep: " << verdict.message << std::endl;
  const Status done = verdict.requeue ? slurm::requeue(life.job) : slurm::cancel(life.job);
  if (!done) std::cerr << "finesweep: " << done.error().message << std::endl;
  return 4;
}

}  // namespace

int slurm_life_command(const SlurmLifeOptions& options) {
  const storage::RunDirectory run(options.directory);
  if (options.moment == "begin") return begin_life(run);
  if (options.moment == "await") return await_life(run, options.number);
  if (options.moment == "desert") return desert_life(run);
  return end_life(run, options.number);
}

}  // namespace finesweep::coordinator
