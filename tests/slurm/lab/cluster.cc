#include "tests/slurm/lab/cluster.h"

#include <stdlib.h>
#include <unistd.h>

#include <set>
#include <sstream>

#include "tests/system/sweep_process.h"

namespace finesweep::tests {

namespace fs = std::filesystem;

namespace {

std::string words_of(const Result<slurm::CommandResult>& result) {
  return result ? result->output + result->errors : result.error().message;
}

}  // namespace

std::string Cluster::missing() {
  if (geteuid() != 0) return "it needs root: Slurm's daemons start jobs as their users";
  std::string programs;
  for (const char* program : {"slurmctld", "slurmd", "srun", "sbatch"}) {
    const auto found =
        slurm::run_command({"bash", "-c", std::string("PATH=$PATH:/usr/sbin; command -v ") + program});
    if (!found || found->exit_code != 0) programs += std::string(" ") + program;
  }
  return programs.empty() ? ""
                          : "these programs are missing:" + programs + " (scripts/setup --tests installs them)";
}

slurm::CommandResult Cluster::lab(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), fs::path(FINESWEEP_SOURCE_DIR) / "tests/slurm/lab/slurm-lab");
  const auto result = slurm::run_command(arguments, std::chrono::seconds(60));
  return result ? *result : slurm::CommandResult{127, "", result.error().message};
}

Cluster::Cluster() {
  std::string name = (fs::temp_directory_path() / "finesweep-lab-XXXXXX").string();
  if (!mkdtemp(name.data())) {
    problem_ = "no temporary folder";
    return;
  }
  folder_ = name;
  setenv("SLURM_LAB_DIR", name.c_str(), 1);
  setenv("SLURM_LAB_SLURMD_TIMEOUT", "10", 1);
  const auto up = lab({"up", "--nodes", "2", "--gpus-per-node", "2", "--cpus-per-node", "4"});
  if (up.exit_code != 0) {
    problem_ = up.output + up.errors;
    return;
  }
  std::istringstream exports(lab({"env"}).output);
  for (std::string line; std::getline(exports, line);) {
    const auto equals = line.find('=');
    if (line.starts_with("export ") && equals != std::string::npos)
      setenv(line.substr(7, equals - 7).c_str(), line.substr(equals + 1).c_str(), 1);
  }
}

Cluster::~Cluster() {
  if (folder_.empty()) return;
  lab({"down"});
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

std::string Cluster::field(const std::string& job, const std::string& name) {
  const auto shown = slurm::run_command({"scontrol", "show", "job", job});
  std::istringstream words(words_of(shown));
  for (std::string word; words >> word;)
    if (word.starts_with(name + "=")) return word.substr(name.size() + 1);
  return "";
}

std::string Cluster::state(const std::string& job) {
  return field(job, "JobState");
}

bool Cluster::is_over(const std::string& job) {
  static const std::set<std::string> over{"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"};
  return over.contains(state(job));
}

std::optional<std::string> Cluster::wait(const std::string& job, std::chrono::seconds deadline) {
  if (!wait_for([&] { return is_over(job); }, deadline)) return std::nullopt;
  return state(job);
}

}  // namespace finesweep::tests
