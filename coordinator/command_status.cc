#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <iostream>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/console.h"
#include "coordinator/slurm_record.h"
#include "coordinator/status_page.h"
#include "coordinator/unix_time.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

namespace {

using storage::StatusSnapshot;

std::string counts_text(const StatusSnapshot::Counts& counts) {
  std::string text = fmt::format("{} of {} succeeded", counts.succeeded, counts.total());
  if (counts.running) text += fmt::format(", {} running", counts.running);
  if (counts.failed) text += fmt::format(", {} failed", counts.failed);
  if (counts.cancelled) text += fmt::format(", {} cancelled", counts.cancelled);
  if (counts.pending) text += fmt::format(", {} pending", counts.pending);
  return text;
}

std::string describe(const StatusSnapshot& status) {
  const double age = static_cast<double>(unix_ms() - status.heartbeat_ms) / 1000;
  const bool running = status.state == StatusSnapshot::State::running;
  std::string text = fmt::format("{}: {}", status.sweep, storage::status_state_name(status.state));
  if (running && storage::looks_dead(status, unix_ms()))
    text += fmt::format(
        ", but its last sign of life is {} old: it looks dead. `finesweep run` on the same sweep goes on with it.",
        format_duration(age));
  else if (running)
    text += fmt::format(" for {} on {} (pid {})",
                        format_duration(static_cast<double>(status.heartbeat_ms - status.started_ms) / 1000),
                        status.host, status.pid);
  text += "\n";
  if (!status.message.empty()) text += "  " + status.message + "\n";
  text += "  trials: " + counts_text(status.trials) + "\n";
  text += "  jobs:   " + counts_text(status.jobs) + "\n";
  if (running && status.seconds_left) text += "  about " + format_duration(*status.seconds_left) + " left\n";
  if (running)
    for (const auto& worker : status.workers) {
      text += fmt::format("  worker {} ({}, {}): ", worker.rank, worker.host, worker.device);
      if (!worker.attempt) {
        text += "idle\n";
        continue;
      }
      text += worker.title;
      if (worker.pack > 1) text += fmt::format(" and {} more in a pack", worker.pack - 1);
      if (worker.progress.total > 0) text += fmt::format(", {} of {}", worker.progress.done, worker.progress.total);
      if (std::isfinite(worker.progress.loss)) text += fmt::format(", loss {:.4f}", worker.progress.loss);
      text += "\n";
    }
  return text;
}

/// "  Slurm job 17, requeued 2 times, time limit in 1:02:03\n" of the job whose coordinator is at work, and what
/// waits in Slurm's queue; empty where Slurm has no part in it.
std::string describe(const storage::RunDirectory& run, const SlurmRecord& record,
                     const std::optional<SlurmLife>& at_work) {
  std::string text;
  if (at_work) {
    text = "  Slurm job " + at_work->job;
    if (at_work->restarts > 0) text += fmt::format(", requeued {} times", at_work->restarts);
    if (at_work->ends_ms)
      text += ", time limit in " + format_duration(static_cast<double>(*at_work->ends_ms - unix_ms()) / 1000);
    text += "\n";
  }
  if (waits_in_queue(run, record)) {
    const double age = static_cast<double>(unix_ms() - record.submitted_ms) / 1000;
    text += fmt::format("  submitted {} ago as Slurm job {}, which has not started (squeue -j {} says why)\n",
                        format_duration(age), record.submitted_job, record.submitted_job);
  }
  return text;
}

/// Of the job whose coordinator is at work.
std::optional<SlurmLife> life_at_work(const storage::RunDirectory& run, const StatusSnapshot& status) {
  if (status.state != StatusSnapshot::State::running || status.slurm_job.empty()) return std::nullopt;
  auto life = read_slurm_life(run, status.slurm_job);
  return life ? std::move(*life) : std::nullopt;
}

std::optional<SlurmRecord> slurm_record_of(const storage::RunDirectory& run) {
  auto record = read_slurm_record(run);
  return record ? std::move(*record) : std::nullopt;
}

}  // namespace

int status_command(const StatusOptions& options) {
  const storage::RunDirectory run(options.directory);
  std::size_t lines = 0;
  while (true) {
    const auto status = storage::read_status(run.status_file());
    const auto slurm = slurm_record_of(run);
    std::error_code ignored;
    if (slurm && !std::filesystem::exists(run.status_file(), ignored)) {
      if (options.json)
        std::cout << Json{{"state", "submitted"}, {"slurm_job", slurm->submitted_job}}.dump() << std::endl;
      else
        std::cout << "not begun\n" << describe(run, *slurm, std::nullopt);
      return 0;
    }
    if (!status) {
      std::cerr << "finesweep: " << status.error().message << "\n";
      return 2;
    }
    if (options.json) {
      std::cout << Json(*status).dump() << std::endl;
    } else {
      if (lines > 0 && isatty(STDOUT_FILENO)) std::cout << fmt::format("\x1b[{}A\x1b[J", lines);
      std::string text = describe(*status);
      if (slurm) text += describe(run, *slurm, life_at_work(run, *status));
      if (status->state == StatusSnapshot::State::running)
        if (const auto page = read_status_page_ticket(run)) text += "  page: " + page->url + "\n";
      lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
      std::cout << text << std::flush;
    }
    if (!options.watch || status->state != StatusSnapshot::State::running) return 0;
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

}  // namespace finesweep::coordinator
