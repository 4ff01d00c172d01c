#include "slurm/batch_script.h"

#include <algorithm>
#include <regex>
#include <string_view>

#include "jobs/version.h"
#include "slurm/quoting.h"

namespace finesweep::slurm {

namespace {

// minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds
const char* const kTime = R"(\d+|\d+:\d\d?|\d+:\d\d?:\d\d?|\d+-\d\d?(:\d\d?){0,2})";

/// Slurm has rules of its own for quotes, backslashes and % in file names; names that need none are given to it.
bool is_plain(const std::string& path) {
  return std::all_of(path.begin(), path.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("/._-+=@,:").find(c) != std::string_view::npos;
  });
}

// What follows the directives; the variables above it are finesweep, run, sweep, devices and arguments.
constexpr const char* kBody = R"(
step= warned= told_to_end= srun_code=4
# USR1 comes some time before the time limit: srun passes it on, and the coordinator has checkpoints written.
trap 'warned=yes; [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1
# TERM comes where the job is cancelled, preempted or at its time limit, and to every rank as well.
trap 'told_to_end=yes' TERM

"$finesweep" slurm-life begin "$run" || exit

# A lost node costs its jobs and nothing else: --no-kill here and above, and -K0 and --wait=0 for sites that end all
# ranks with the first one.
srun --mpi=pmix --no-kill -K0 --wait=0 --export=ALL ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
  "$finesweep" run "$sweep" --out "$run" --devices "$devices" "${arguments[@]}" </dev/null &
step=$!
[ -z "$warned" ] || kill -USR1 "$step" 2>/dev/null

# Ends with srun or, where a lost node keeps srun waiting, soon after the sweep. A signal ends `wait` early, but one that
# comes just before it begins is seen only after it: hence the short waits.
"$finesweep" slurm-life await "$run" "$step" &
watcher=$!
while kill -0 "$watcher" 2>/dev/null; do
  sleep 1 &
  wait $!
done
wait "$watcher" && { wait "$step"; srun_code=$?; }

# Says how the sweep stands. Where it was interrupted and this life brought something, the job is requeued.
[ -z "$told_to_end" ] || exit 3
exec "$finesweep" slurm-life end "$run" "$srun_code"
)";

}  // namespace

Status check(const BatchJob& job) {
  if (job.nodes < 1) return Error{"--nodes: at least 1"};
  if (job.gpus_per_node < 0) return Error{"--gpus-per-node: 0 or more"};
  if (job.workers_per_node < 1) return Error{"--workers: at least 1"};
  if (!job.time.empty() && !std::regex_match(job.time, std::regex(kTime)))
    return Error{"--time " + job.time +
                 ": expected minutes, minutes:seconds, hours:minutes:seconds, days-hours, or "
                 "days-hours:minutes:seconds"};
  return {};
}

std::string batch_script(const BatchJob& job) {
  const std::string log = (job.run / "logs/slurm-%j.log").string();
  const bool slurm_opens_log = is_plain(job.run.string());
  std::string text = "#!/bin/bash\n# Written by finesweep " + std::string(kVersion) +
                     ". Submitting it again goes on with the sweep.\n";
  const auto directive = [&text](const std::string& option) { text += "#SBATCH --" + option + "\n"; };
  directive("job-name=finesweep-" + job_name_of(job.sweep));
  directive("nodes=" + std::to_string(job.nodes));
  const int workers = job.gpus_per_node > 0 ? job.gpus_per_node : job.workers_per_node;
  directive("ntasks-per-node=" + std::to_string(workers + 1));
  if (job.gpus_per_node > 0) directive("gpus-per-node=" + std::to_string(job.gpus_per_node));
  if (job.cpus_per_task > 0) directive("cpus-per-task=" + std::to_string(job.cpus_per_task));
  if (!job.time.empty()) directive("time=" + job.time);
  directive("signal=B:USR1@" + std::to_string(kWarningSeconds));
  directive("requeue");
  directive("open-mode=append");
  directive("no-kill");
  directive("output=" + (slurm_opens_log ? log : std::string("/dev/null")));
  text += "\nfinesweep=" + shell_word(job.program.string()) + "\n";
  text += "run=" + shell_word(job.run.string()) + "\n";
  text += "sweep=" + shell_word(job.file.string()) + "\n";
  text += std::string("devices=") + (job.gpus_per_node > 0 ? "auto" : "cpu") + "\n";
  text += "arguments=(";
  for (std::size_t i = 0; i < job.arguments.size(); ++i) text += (i > 0 ? " " : "") + shell_word(job.arguments[i]);
  text += ")\n";
  // Bash opens what Slurm would read otherwise than it is meant.
  if (!slurm_opens_log) text += "exec >>\"$run/logs/slurm-$SLURM_JOB_ID.log\" 2>&1\n";
  return text + kBody;
}

}  // namespace finesweep::slurm
