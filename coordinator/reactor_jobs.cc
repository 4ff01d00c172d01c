#include "coordinator/reactor_jobs.h"

#include <algorithm>
#include <stdexcept>

namespace finesweep::coordinator {

namespace {
std::int64_t& count(Counts& counts, JobPhase phase) {
  switch (phase) {
    case JobPhase::waiting:
      return counts.waiting;
    case JobPhase::ready:
      return counts.ready;
    case JobPhase::running:
      return counts.running;
    case JobPhase::publishing:
      return counts.publishing;
    case JobPhase::succeeded:
      return counts.succeeded;
    case JobPhase::failed:
      return counts.failed;
    case JobPhase::cancelled:
      return counts.cancelled;
  }
  throw std::logic_error("a job phase without a count");
}
}  // namespace

ReactorJobs::ReactorJobs(const std::vector<Job>& jobs, const std::map<JobId, JobHistory>& history)
    : jobs_(jobs), states_(jobs_.size()), needs_(jobs_.size()) {
  index_.reserve(jobs_.size());
  counts_.waiting = size();
  first_dependent_.assign(jobs_.size() + 1, 0);
  for (int i = 0; i < size(); ++i) {
    const Job& job = jobs_[i];
    if (!index_.emplace(job.id, i).second)
      throw std::invalid_argument("the plan holds job " + job.id.hex() + " twice");
    const auto need = [&](const JobId& id) {
      const int needed = find(id);
      if (needed < 0 || needed == i)
        throw std::invalid_argument("the plan has job " + job.id.hex() + " before " + id.hex() +
                                    ", which it needs");
      if (std::find(needs_[i].begin(), needs_[i].end(), needed) == needs_[i].end()) needs_[i].push_back(needed);
    };
    for (const JobId& input : job.inputs) need(input);
    if (job.continues) need(*job.continues);
    for (int needed : needs_[i]) ++first_dependent_[needed + 1];
  }
  for (int i = 0; i < size(); ++i) first_dependent_[i + 1] += first_dependent_[i];
  dependents_.resize(first_dependent_.back());
  std::vector<std::size_t> next(first_dependent_.begin(), first_dependent_.end() - 1);
  for (int i = 0; i < size(); ++i)
    for (int needed : needs_[i]) dependents_[next[needed]++] = i;

  for (const auto& [id, past] : history) {
    const int i = find(id);
    if (i < 0) continue;
    states_[i].attempts = past.attempts;
    states_[i].failures = past.failures;
    states_[i].losses = past.losses;
    const bool over =
        past.phase == JobPhase::succeeded || past.phase == JobPhase::failed || past.phase == JobPhase::cancelled;
    if (over) set_phase(i, past.phase);
    if (over && past.phase != JobPhase::succeeded) set_error(i, past.error);
  }
  for (int i = 0; i < size(); ++i)
    for (int needed : needs_[i])
      if (states_[needed].phase != JobPhase::succeeded) ++states_[i].missing;
}

int ReactorJobs::find(const JobId& id) const {
  const auto found = index_.find(id);
  return found == index_.end() ? -1 : found->second;
}

const std::string& ReactorJobs::error(int index) const {
  static const std::string none;
  const auto found = errors_.find(index);
  return found == errors_.end() ? none : found->second;
}

void ReactorJobs::set_phase(int index, JobPhase phase) {
  --count(counts_, states_[index].phase);
  states_[index].phase = phase;
  ++count(counts_, phase);
}

bool ReactorJobs::all_ended() const {
  return counts_.succeeded + counts_.failed + counts_.cancelled == size();
}

void ReactorJobs::release_dependents(int index, const std::function<void(int)>& ready) {
  for (std::size_t d = first_dependent_[index]; d < first_dependent_[index + 1]; ++d) {
    State& dependent = states_[dependents_[d]];
    if (--dependent.missing == 0 && dependent.phase == JobPhase::waiting) ready(dependents_[d]);
  }
}

void ReactorJobs::visit_dependents(int index, const std::function<void(int)>& visit) {
  std::vector<int> todo{index};
  for (std::size_t next = 0; next < todo.size(); ++next) {
    const int needed = todo[next];
    for (std::size_t d = first_dependent_[needed]; d < first_dependent_[needed + 1]; ++d) {
      const int dependent = dependents_[d];
      if (states_[dependent].phase != JobPhase::waiting) continue;
      visit(dependent);
      todo.push_back(dependent);
    }
  }
}

std::vector<JobTraits> ReactorJobs::traits(const std::vector<PackTraits>& packing) const {
  if (!packing.empty() && packing.size() != jobs_.size())
    throw std::invalid_argument("packing is not known of every job");
  std::vector<JobTraits> traits(jobs_.size());
  std::unordered_map<std::string, int> models;
  for (int i = 0; i < size(); ++i) {
    const Job& job = jobs_[i];
    const auto model = job.context.find("model");
    std::string name;
    if (model != job.context.end() && model->is_string()) name = model->get<std::string>();
    traits[i].model = models.emplace(std::move(name), static_cast<int>(models.size())).first->second;
    traits[i].isolate = job.isolate;
    traits[i].gpus = job.gpus;
    if (!packing.empty() && !job.isolate && job.gpus == 1) traits[i].pack = packing[i];
  }
  return traits;
}

void ReactorJobs::sanity_check() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("jobs: ") + what);
  };
  Counts recount;
  for (int i = 0; i < size(); ++i) {
    const State& state = states_[i];
    ++count(recount, state.phase);
    int missing = 0;
    for (int needed : needs_[i]) {
      missing += states_[needed].phase == JobPhase::succeeded ? 0 : 1;
      const bool hopeless =
          states_[needed].phase == JobPhase::failed || states_[needed].phase == JobPhase::cancelled;
      require(!hopeless || state.phase != JobPhase::waiting, "a job waits for one that will not succeed");
    }
    require(missing == state.missing, "what a job waits for is miscounted");
    const bool under_way =
        state.phase == JobPhase::ready || state.phase == JobPhase::running || state.phase == JobPhase::publishing;
    require(!under_way || missing == 0, "a job is under way before what it needs");
    require(state.phase != JobPhase::waiting || missing > 0, "a job waits for nothing");
  }
  require(counts_ == recount, "phases are miscounted");
}

}  // namespace finesweep::coordinator
