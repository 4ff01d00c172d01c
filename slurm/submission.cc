#include "slurm/submission.h"

#include <algorithm>
#include <chrono>
#include <sstream>

#include "slurm/command.h"

namespace finesweep::slurm {

namespace {

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\r')) text.pop_back();
  return text;
}

}  // namespace

Result<std::string> parse_job_id(const std::string& answer) {
  std::istringstream lines(answer);
  std::string last;
  for (std::string line; std::getline(lines, line);)
    if (!trimmed(line).empty()) last = trimmed(line);
  const std::string id = last.substr(0, last.find(';'));
  if (id.empty() || !std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return Error{"sbatch answered '" + trimmed(answer) + "', which names no job"};
  return id;
}

Result<std::string> submit(const std::filesystem::path& script, const std::vector<std::string>& arguments) {
  std::vector<std::string> command{"sbatch", "--parsable"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.push_back(script.string());
  const auto answer = run_command(command, std::chrono::seconds(120));
  if (!answer)
    return Error{answer.error().message + "; on a machine without Slurm: finesweep run, or submit --dry-run"};
  if (answer->exit_code != 0) return Error{"sbatch refused the job: " + trimmed(answer->errors + answer->output)};
  return parse_job_id(answer->output);
}

Status requeue(const std::string& job) {
  const auto state = run_command({"squeue", "--noheader", "--jobs", job, "--format", "%T"});
  if (!state) return state.error();
  if (state->exit_code == 0 && trimmed(state->output) != "RUNNING")
    return Error{"job " + job + " is " + (state->output.empty() ? "gone" : trimmed(state->output)) +
                 ": not requeued"};
  const auto answer = run_command({"scontrol", "requeue", job});
  if (!answer) return answer.error();
  if (answer->exit_code != 0)
    return Error{"scontrol did not requeue job " + job + ": " + trimmed(answer->errors + answer->output)};
  return {};
}

Status cancel(const std::string& job) {
  const auto answer = run_command({"scancel", job});
  if (!answer) return answer.error();
  if (answer->exit_code != 0) return Error{"scancel did not end job " + job + ": " + trimmed(answer->errors)};
  return {};
}

}  // namespace finesweep::slurm
