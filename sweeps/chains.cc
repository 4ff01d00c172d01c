#include "sweeps/chains.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

namespace finesweep::sweeps {

namespace {

/// What a job reads or continues comes before it; otherwise the order stays.
void sort_jobs(std::vector<Job>& jobs) {
  std::unordered_map<JobId, std::size_t> index;
  for (std::size_t i = 0; i < jobs.size(); ++i) index[jobs[i].id] = i;
  std::vector<Job> sorted;
  std::vector<bool> placed(jobs.size(), false);
  std::vector<std::size_t> waiting;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    waiting.push_back(i);
    while (!waiting.empty()) {
      const std::size_t next = waiting.back();
      if (placed[next]) {
        waiting.pop_back();
        continue;
      }
      const std::size_t before = waiting.size();
      for (const JobId& input : jobs[next].inputs)
        if (!placed[index.at(input)]) waiting.push_back(index.at(input));
      if (jobs[next].continues && !placed[index.at(*jobs[next].continues)])
        waiting.push_back(index.at(*jobs[next].continues));
      if (waiting.size() > before) continue;
      placed[next] = true;
      sorted.push_back(std::move(jobs[next]));
      waiting.pop_back();
    }
  }
  jobs = std::move(sorted);
}

}  // namespace

std::optional<ChainCandidate> chain_candidate(const SweepDeclaration& declaration, const ResolvedStep& step,
                                              const JobDescription& description) {
  if (step.kind != StepKind::finetune && step.kind != StepKind::distill) return std::nullopt;
  const std::string path = step.name + ".epochs";
  const bool swept = std::any_of(declaration.swept.begin(), declaration.swept.end(),
                                 [&](const Target& target) { return target.path == path; });
  const auto epochs = step.settings.find("epochs");
  if (!swept || epochs == step.settings.end()) return std::nullopt;
  ChainCandidate candidate;
  candidate.path = path;
  candidate.epochs = epochs->get<std::int64_t>();
  const std::string schedule = step.settings.at("schedule").get<std::string>();
  if (schedule != "constant") {
    candidate.reason = "the " + schedule + " schedule depends on the total";
  } else if (!step.settings.at("warmup").is_number_integer()) {
    candidate.reason = "a warm-up that is a share depends on the total";
  } else {
    JobDescription shared = description;
    shared.settings.erase("epochs");
    candidate.key = canonical_text(shared);
  }
  return candidate;
}

void form_chains(const SweepDeclaration& declaration, Plan& plan,
                 const std::vector<std::pair<std::size_t, ChainCandidate>>& candidates) {
  std::map<std::string, std::vector<std::pair<std::int64_t, std::size_t>>> groups;
  std::map<std::string, std::set<std::string>> separate;  // reasons by path
  std::map<std::string, std::set<std::int64_t>> chained;  // epochs by path
  for (const auto& [index, candidate] : candidates) {
    if (candidate.key.empty()) {
      separate[candidate.path].insert(candidate.reason);
      continue;
    }
    // Kept for the longest too: a sweep that is extended later starts from it.
    plan.jobs[index].keep_training_state = true;
    groups[candidate.key].push_back({candidate.epochs, index});
    chained[candidate.path].insert(candidate.epochs);
  }
  for (auto& [key, group] : groups) {
    std::sort(group.begin(), group.end());
    for (std::size_t i = 1; i < group.size(); ++i)
      plan.jobs[group[i].second].continues = plan.jobs[group[i - 1].second].id;
  }
  for (const auto& [path, epochs] : chained) {
    std::string list;
    for (std::int64_t value : epochs) list += (list.empty() ? "" : ", ") + std::to_string(value);
    plan.notes.push_back(path + ": " + list + " train as one chain, each continuing the one before");
  }
  for (const auto& [path, reasons] : separate)
    for (const std::string& reason : reasons)
      plan.notes.push_back(path + ": each value is a run of its own, since " + reason);
  sort_jobs(plan.jobs);
}

}  // namespace finesweep::sweeps
