// Any bytes as a sweep file: no crash, no hang, and what a plan promises holds.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "sweeps/describe.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

void require(bool holds, const char* what, const std::string& detail) {
  if (holds) return;
  std::fprintf(stderr, "%s\n%s\n", what, detail.c_str());
  std::abort();
}

/// Checksums are not what is looked for here.
class QuickFiles : public MemoryFiles {
 public:
  explicit QuickFiles(MemoryFiles&& world) : MemoryFiles(std::move(world)) {}
  Result<std::string> sha256(const std::filesystem::path& path) override {
    auto& digest = digests_[path];
    if (digest.empty()) {
      auto computed = MemoryFiles::sha256(path);
      if (!computed) return computed;
      digest = *computed;
    }
    return digest;
  }

 private:
  std::map<std::filesystem::path, std::string> digests_;
};

void check(const std::string& text) {
  static QuickFiles world(make_world());
  SweepRequest request;
  request.file = "/w/sweep.yaml";
  request.override_base = "/elsewhere";
  request.most_trials = 200;
  std::istringstream lines(text);
  for (std::string line; request.overrides.size() < 8 && std::getline(lines, line) && line.starts_with("#set ");)
    request.overrides.push_back(line.substr(5));
  const SweepParse parse = parse_sweep_text(text, request, world);
  const std::string messages = format_diagnostics(parse.diagnostics, "sweep.yaml");
  bool errors = false;
  for (const Diagnostic& d : parse.diagnostics) errors = errors || d.severity == Severity::error;
  require(parse.sweep.has_value() != errors, "a sweep with errors, or none without", messages);
  if (!parse.sweep) return;

  const Plan& plan = parse.sweep->plan;
  std::set<std::string> names, labels, jobs;
  for (const Job& job : plan.jobs) {
    for (const JobId& input : job.inputs) require(jobs.contains(input.hex()), "an input after its reader", text);
    if (job.continues) require(jobs.contains(job.continues->hex()), "a chain out of order", text);
    require(jobs.insert(job.id.hex()).second, "a job twice", text);
  }
  for (const Trial& trial : plan.trials) {
    require(names.insert(trial.name).second, "a trial's name twice", text);
    require(labels.insert(trial.label + "\n" + std::to_string(trial.repeat)).second, "a label twice", text);
    require(trial.swept.size() == plan.swept_paths.size(), "swept values missing", text);
    for (const TrialStep& step : trial.steps)
      require(jobs.contains(step.job.hex()), "a step without its job", text);
  }
  require(!plan_text(plan, world).empty() && plan_json(plan, world).is_object(), "no description", text);

  SweepRequest again = request;
  again.file = "/runs/sweep.yaml";
  again.overrides.clear();
  const SweepParse second = parse_sweep_text(parse.sweep->resolved_text, again, world);
  require(second.sweep.has_value(), "the kept text does not parse",
          parse.sweep->resolved_text + format_diagnostics(second.diagnostics, "kept"));
  require(Json(second.sweep->plan) == Json(plan), "the kept text means something else", parse.sweep->resolved_text);
}

}  // namespace
}  // namespace finesweep::sweeps

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  finesweep::sweeps::check(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
