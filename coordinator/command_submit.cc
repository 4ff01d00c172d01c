#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/fail.h"
#include "coordinator/slurm_record.h"
#include "coordinator/sweep_input.h"
#include "coordinator/unix_time.h"
#include "jobs/counted.h"
#include "jobs/sha256.h"
#include "slurm/batch_script.h"
#include "slurm/submission.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

namespace {

slurm::BatchJob batch_job(const SubmitOptions& options, const storage::RunDirectory& run, const Plan& plan) {
  slurm::BatchJob job;
  job.sweep = plan.name;
  job.program = options.program;
  job.run = run.path();
  job.nodes = options.nodes;
  job.gpus_per_node = options.gpus_per_node;
  job.workers_per_node = options.workers;
  // On a CPU results depend on the number of threads: ranks get what the run began with.
  if (options.gpus_per_node == 0) job.cpus_per_task = chosen_threads(run, plan).value_or(1);
  job.time = options.time;
  job.arguments = options.listen.arguments();
  return job;
}

/// Where the text of a sweep is kept for jobs: other texts have other names, so a job that comes back finds its
/// own.
std::filesystem::path file_for(const storage::RunDirectory& run, const std::string& sweep_text) {
  return run.path() / "submitted" / (to_hex(sha256(sweep_text)).substr(0, 16) + ".yaml");
}

/// The job reads the sweep as it stands now, wherever it is started from and whatever becomes of the file.
Status prepare(const storage::RunDirectory& run, const std::filesystem::path& file, const std::string& sweep_text,
               const std::string& script) {
  if (Status created = run.create(); !created) return created;
  std::error_code ignored;  // the writing says it
  std::filesystem::create_directories(file.parent_path(), ignored);
  if (Status written = storage::write_file_atomically(file, sweep_text); !written) return written;
  return storage::write_file_atomically(run.path() / "slurm.sh", script);
}

void warn_of_running_sweep(const storage::RunDirectory& run) {
  const auto status = storage::read_status(run.status_file());
  if (!status || status->state != storage::StatusSnapshot::State::running ||
      storage::looks_dead(*status, unix_ms()))
    return;
  std::cerr << fmt::format(
      "finesweep: this sweep runs already, on {}{}: the new job will be refused unless that one has ended when it "
      "starts (-- --dependency=afterany:ID lets it wait)\n",
      status->host, status->slurm_job.empty() ? "" : " as job " + status->slurm_job);
}

}  // namespace

int submit_command(const SubmitOptions& options) {
  const auto sweep = parse_sweep_file(options.sweep, options.overrides);
  if (!sweep) return 2;
  const storage::RunDirectory run(run_directory_of(options.out, sweep->plan));
  slurm::BatchJob job = batch_job(options, run, sweep->plan);
  job.file = file_for(run, sweep->resolved_text);
  if (const Status checked = slurm::check(job); !checked) return fail(2, checked.error().message);
  const int workers = options.gpus_per_node > 0 ? options.gpus_per_node : std::max(1, options.workers);
  if (workers < devices_needed(sweep->plan))
    return fail(
        2, fmt::format("{} {}: a training of this sweep needs {} devices of one node together (resources.gpus)",
                       options.gpus_per_node > 0 ? "--gpus-per-node" : "--workers", workers,
                       devices_needed(sweep->plan)));
  const std::string script = slurm::batch_script(job);
  if (options.dry_run) {
    std::cout << script;
    return 0;
  }
  warn_of_running_sweep(run);
  if (const Status prepared = prepare(run, job.file, sweep->resolved_text, script); !prepared)
    return fail(4, prepared.error().message);
  const std::int64_t submitted_ms = unix_ms();
  const auto id = slurm::submit(run.path() / "slurm.sh", options.sbatch_arguments);
  if (!id) return fail(4, id.error().message);
  if (const Status written = write_slurm_record(run, {*id, submitted_ms}); !written)
    std::cerr << "finesweep: " << written.error().message << "\n";
  std::cout << fmt::format("submitted as job {}: {} in {}\n", *id,
                           counted(static_cast<std::int64_t>(sweep->plan.trials.size()), "trial"),
                           run.path().string());
  return 0;
}

}  // namespace finesweep::coordinator
