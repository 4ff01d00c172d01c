#include "coordinator/dispatch_policy.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace finesweep::coordinator {

namespace {
// The mean duration follows the latest so many packs.
constexpr double kMeanOver = 8;
// Queues that theft() looks at, longest first.
constexpr int kTheftCandidates = 8;
// Packs of a queue whose running one others are sent to join.
constexpr std::size_t kQueueOfJoiners = 4;
}  // namespace

DispatchPolicy::DispatchPolicy(DispatchOptions options, std::vector<JobTraits> jobs)
    : options_(options), jobs_(std::move(jobs)) {
  has_gangs_ = std::any_of(jobs_.begin(), jobs_.end(), [](const JobTraits& job) { return job.gpus > 1; });
}

// ---- workers and hosts ----

void DispatchPolicy::add_worker(int worker, const std::string& host, bool on_cpu, double memory_mb) {
  const auto [number, is_new] = host_numbers_.emplace(host, static_cast<int>(hosts_.size()));
  if (is_new) hosts_.emplace_back();
  Worker& added = workers_[worker];
  added.host = number->second;
  added.on_cpu = on_cpu;
  added.memory_mb = memory_mb;
  ++active_workers_;
  hosts_[added.host].workers.insert(worker);
  by_load_.insert({0, worker});
  relist(worker);
  relist_host(added.host);
}

void DispatchPolicy::remove_worker(int worker) {
  const Worker& removed = workers_.at(worker);
  if (!removed.packs.empty()) throw std::logic_error("a worker was removed with work in its queue");
  set_unconfirmed(worker, 0);
  set_leaving(worker, true);
  take_back_lent(worker);
  if (removed.leader >= 0) workers_.at(removed.leader).lent.erase(worker);
  const int host = removed.host;
  by_load_.erase({0, worker});
  if (removed.roomy_for >= 0) roomy_.erase({removed.roomy_for, worker});
  workers_.erase(worker);
  hosts_[host].workers.erase(worker);
  relist_host(host);
}

void DispatchPolicy::set_leaving(int worker, bool leaving) {
  Worker& changed = workers_.at(worker);
  if (changed.leaving == leaving) return;
  changed.leaving = leaving;
  active_workers_ += leaving ? -1 : 1;
  if (changed.claimed_for >= 0) unclaim(changed.claimed_for);
  relist(worker);
  relist_host(changed.host);
}

void DispatchPolicy::set_unconfirmed(int worker, int jobs) {
  Worker& changed = workers_.at(worker);
  hosts_[changed.host].busy += jobs - changed.unconfirmed;
  changed.unconfirmed = jobs;
  if (jobs == 0 && changed.lent_pack == 0) take_back_lent(worker);
  relist_host(changed.host);
  if (changed.claimed_for >= 0) look_at_claim(changed.claimed_for);
}

int DispatchPolicy::backlog_packs(const Worker& worker) const {
  if (!worker.mean_ns) return 1;
  const double packs = std::ceil(static_cast<double>(options_.backlog.count()) / std::max(*worker.mean_ns, 1.0));
  return static_cast<int>(std::clamp(packs, 1.0, std::max(1.0, static_cast<double>(options_.max_backlog_jobs))));
}

/// Brings the worker's place in the ordered sets up to date.
void DispatchPolicy::relist(int number) {
  Worker& worker = workers_.at(number);
  const int device = worker.on_cpu ? 0 : 1;
  if (worker.open) {
    open_[device].erase({worker.listed_load, number});
    const auto same_model = open_by_model_[device].find(worker.listed_model);
    same_model->second.erase({worker.listed_load, number});
    if (same_model->second.empty()) open_by_model_[device].erase(same_model);
  }
  const std::size_t load = worker.packs.size();
  if (load != worker.listed_load) {
    by_load_.erase({worker.listed_load, number});
    by_load_.insert({load, number});
  }
  worker.listed_load = load;
  worker.listed_model = worker.model;
  worker.open = !worker.leaving && hosts_[worker.host].reserved_for < 0 && worker.claimed_for < 0 &&
                worker.leader < 0 && load < 1 + static_cast<std::size_t>(backlog_packs(worker));
  if (worker.open) {
    open_[device].insert({load, number});
    open_by_model_[device][worker.model].insert({load, number});
  }
  relist_room(number);
}

/// The pack key of ready jobs that could join what the worker runs; negative: none could.
int DispatchPolicy::room_for(const Worker& worker) const {
  const bool takes_more =
      !worker.leaving && hosts_[worker.host].reserved_for < 0 && worker.claimed_for < 0 && worker.leader < 0;
  if (!takes_more || max_pack_jobs(worker.on_cpu) < 2 || worker.packs.empty() ||
      worker.packs.size() > kQueueOfJoiners)
    return -1;
  const std::vector<int>& head = packs_.at(*worker.packs.begin()).jobs;
  const int key = joining_traits(head.front()).key;
  if (key < 0) return -1;
  for (auto waiting = std::next(worker.packs.begin()); waiting != worker.packs.end(); ++waiting)
    if (joining_traits(packs_.at(*waiting).jobs.front()).key == key) return -1;
  PackFill fill(max_pack_jobs(worker.on_cpu), worker.memory_mb);
  for (int job : head) fill.add(jobs_[job].pack);
  return fill.has_room() ? key : -1;
}

void DispatchPolicy::relist_room(int number) {
  Worker& worker = workers_.at(number);
  if (worker.roomy_for >= 0) roomy_.erase({worker.roomy_for, number});
  worker.roomy_for = room_for(worker);
  if (worker.roomy_for >= 0) roomy_.insert({worker.roomy_for, number});
}

std::optional<DispatchPolicy::Choice> DispatchPolicy::send_joiners(Instant now) {
  for (const ByLoad& open : open_)
    if (!open.empty() && open.begin()->first == 0) return std::nullopt;
  for (auto [key, number] : roomy_) {
    const auto ready = ready_by_group_.find({0, key});
    if (ready == ready_by_group_.end()) continue;
    const Worker& worker = workers_.at(number);
    PackFill fill(max_pack_jobs(worker.on_cpu), worker.memory_mb);
    for (int job : packs_.at(*worker.packs.begin()).jobs) fill.add(jobs_[job].pack);
    std::vector<int> joiners;
    for (int job : ready->second) {
      if (joining_traits(job).key != key || !fill.admits(jobs_[job].pack)) break;
      fill.add(jobs_[job].pack);
      joiners.push_back(job);
    }
    if (joiners.empty()) continue;
    for (int job : joiners) erase_ready(job);
    return place(number, std::move(joiners), now);
  }
  return std::nullopt;
}

void DispatchPolicy::relist_host(int number) {
  Host& host = hosts_[number];
  if (host.listed) reservable_.erase(*host.listed);
  host.listed.reset();
  drained_.erase(number);
  if (has_gangs_) relist_sizes(number);
  const int wanted = host.reserved_for < 0 ? 1 : jobs_[host.reserved_for].gpus;
  const bool usable = std::count_if(host.workers.begin(), host.workers.end(),
                                    [this](int worker) { return can_isolate(workers_.at(worker)); }) >= wanted;
  if (host.reserved_for < 0) {
    if (!usable) return;
    host.listed = {host.busy, host.workers.size(), number};
    reservable_.insert(*host.listed);
  } else if (!host.isolating) {
    if (usable && host.busy == 0 && host.claims == 0) drained_.insert(number);
    if (!usable) {
      const int job = host.reserved_for;
      release(number);
      add_ready(job);
    }
  }
}

void DispatchPolicy::reserve(int number, int job) {
  hosts_[number].reserved_for = job;
  reserved_host_[job] = number;
  for (int worker : hosts_[number].workers) relist(worker);
  relist_host(number);
}

void DispatchPolicy::release(int number) {
  Host& host = hosts_[number];
  reserved_host_.erase(host.reserved_for);
  host.reserved_for = -1;
  host.isolating = false;
  for (int worker : host.workers) relist(worker);
  relist_host(number);
}

// ---- ready jobs ----

void DispatchPolicy::add_ready(int job) {
  if (jobs_[job].gpus > 1) {
    ready_gangs_[jobs_[job].gpus].insert(job);
    return;
  }
  ready_.insert(job);
  if (jobs_[job].pack.key >= 0) ready_by_group_[{jobs_[job].group, jobs_[job].pack.key}].insert(job);
}

void DispatchPolicy::erase_ready(int job) {
  if (const auto gangs = ready_gangs_.find(jobs_[job].gpus); gangs != ready_gangs_.end()) {
    gangs->second.erase(job);
    if (gangs->second.empty()) ready_gangs_.erase(gangs);
    return;
  }
  ready_.erase(job);
  const auto group = ready_by_group_.find({jobs_[job].group, jobs_[job].pack.key});
  if (group == ready_by_group_.end()) return;
  group->second.erase(job);
  if (group->second.empty()) ready_by_group_.erase(group);
}

bool DispatchPolicy::waits(int job) const {
  const auto gangs = ready_gangs_.find(jobs_[job].gpus);
  return ready_.contains(job) || reserved_host_.contains(job) || claims_.contains(job) ||
         (gangs != ready_gangs_.end() && gangs->second.contains(job));
}

void DispatchPolicy::remove_ready(int job) {
  if (claims_.contains(job)) unclaim(job);
  const auto reserved = reserved_host_.find(job);
  if (reserved != reserved_host_.end()) {
    release(reserved->second);
  } else {
    erase_ready(job);
  }
}

/// How many jobs like this one a pack holds where there are enough of them.
int DispatchPolicy::usual_pack_jobs(int job, bool on_cpu) const {
  const PackTraits& pack = jobs_[job].pack;
  if (pack.key < 0) return 1;
  const std::int64_t most = std::max(1, max_pack_jobs(on_cpu));
  if (pack.most_tokens <= 0) return static_cast<int>(most);
  return static_cast<int>(
      std::clamp(pack.most_tokens / std::max<std::int64_t>(1, pack.tokens), std::int64_t{1}, most));
}

/// The job and those ready that share its pack; none where it is better put together later.
std::vector<int> DispatchPolicy::choose_pack(int job, const Worker& worker) const {
  std::vector<int> pack{job};
  PackFill fill(max_pack_jobs(worker.on_cpu), worker.memory_mb);
  fill.add(jobs_[job].pack);
  if (jobs_[job].pack.key >= 0) {
    std::size_t share = ready_.size();
    if (jobs_[job].group == 0) {  // parts of a crashed pack stay together
      const auto workers = static_cast<std::size_t>(std::max(active_workers_, 1));
      const std::size_t equal = (ready_.size() + placed_.size() + workers - 1) / workers;
      share = std::max(equal, worker.jobs + 1) - worker.jobs;
    }
    const auto& mates = ready_by_group_.at({jobs_[job].group, jobs_[job].pack.key});
    for (auto mate = mates.upper_bound(job); mate != mates.end() && pack.size() < share; ++mate) {
      if (!fill.admits(jobs_[*mate].pack)) break;
      fill.add(jobs_[*mate].pack);
      pack.push_back(*mate);
    }
    if (worker.packs.size() > 1 && max_pack_jobs(worker.on_cpu) > 1 && fill.has_room()) return {};
  }
  return pack;
}

// ---- choices ----

std::optional<int> DispatchPolicy::pick_worker(int job) const {
  const bool gpu_only = jobs_[job].isolate;
  const ByLoad* best = nullptr;
  int best_device = 0;
  for (int device = gpu_only ? 1 : 0; device < 2; ++device) {
    if (open_[device].empty()) continue;
    if (!best || *open_[device].begin() < *best->begin()) best = &open_[device], best_device = device;
  }
  if (!best) return std::nullopt;
  const auto [load, number] = *best->begin();
  // A queue may hold as many waiting packs as the ready jobs would make for every worker.
  const auto pack_jobs = static_cast<std::size_t>(usual_pack_jobs(job, best_device == 0));
  const std::size_t share =
      (ready_.size() / static_cast<std::size_t>(std::max(active_workers_, 1)) + pack_jobs - 1) / pack_jobs;
  if (load > 0 && load - 1 >= share) return std::nullopt;
  const auto same_model = open_by_model_[best_device].find(jobs_[job].model);
  if (same_model != open_by_model_[best_device].end() && same_model->second.begin()->first == load)
    return same_model->second.begin()->second;
  return number;
}

std::optional<DispatchPolicy::Choice> DispatchPolicy::start_isolated(Instant now) {
  if (drained_.empty()) return std::nullopt;
  Host& host = hosts_[*drained_.begin()];
  const int job = host.reserved_for;
  int chosen = -1;
  for (int number : host.workers) {
    const Worker& worker = workers_.at(number);
    if (!can_isolate(worker)) continue;
    if (chosen < 0 || (worker.model == jobs_[job].model && workers_.at(chosen).model != worker.model))
      chosen = number;
  }
  host.isolating = true;
  reserved_host_.erase(job);
  Choice choice = place(chosen, {job}, now);
  // The others of the host are idle as it is.
  for (auto other = host.workers.begin(); static_cast<int>(choice.lent.size()) < jobs_[job].gpus - 1; ++other) {
    if (*other != chosen && can_isolate(workers_.at(*other))) choice.lent.push_back(*other);
  }
  lend(chosen, choice.lent, placed_.at(job));
  return choice;
}

std::optional<DispatchPolicy::Choice> DispatchPolicy::next(Instant now) {
  while (true) {
    if (auto isolated = start_isolated(now)) return isolated;
    if (auto gang = start_gang(now)) return gang;
    const auto gang = first_gang();
    if (gang && (ready_.empty() || *gang < *ready_.begin()) && claim(*gang)) continue;
    if (ready_.empty()) return std::nullopt;
    if (auto joiners = send_joiners(now)) return joiners;
    const int job = *ready_.begin();
    const bool isolate = jobs_[job].isolate;
    if (const auto worker = pick_worker(job)) {
      std::vector<int> pack = isolate ? std::vector{job} : choose_pack(job, workers_.at(*worker));
      if (pack.empty()) return std::nullopt;
      for (int taken : pack) erase_ready(taken);
      return place(*worker, std::move(pack), now);
    }
    if (!isolate || reservable_.empty()) return std::nullopt;
    erase_ready(job);
    reserve(std::get<2>(*reservable_.begin()), job);
  }
}

// ---- jobs on several devices ----

/// Brings the host's place by its numbers of workers up to date.
void DispatchPolicy::relist_sizes(int number) {
  Host& host = hosts_[number];
  usable_.erase({host.usable, number});
  claimable_.erase({host.claimable, number});
  host.usable = host.claimable = 0;
  for (const int worker_number : host.workers) {
    const Worker& worker = workers_.at(worker_number);
    if (worker.leaving) continue;
    ++host.usable;
    if (worker.claimed_for < 0 && host.reserved_for < 0) ++host.claimable;
  }
  usable_.insert({host.usable, number});
  claimable_.insert({host.claimable, number});
}

int DispatchPolicy::largest_host() const {
  return usable_.empty() ? 0 : usable_.rbegin()->first;
}

bool DispatchPolicy::has_unplaceable() const {
  return !ready_gangs_.empty() && ready_gangs_.rbegin()->first > largest_host();
}

std::vector<int> DispatchPolicy::unplaceable() const {
  std::vector<int> jobs;
  for (auto gangs = ready_gangs_.upper_bound(largest_host()); gangs != ready_gangs_.end(); ++gangs)
    jobs.insert(jobs.end(), gangs->second.begin(), gangs->second.end());
  return jobs;
}

std::optional<int> DispatchPolicy::job_on_lent(int worker) const {
  const int leader = workers_.at(worker).leader;
  if (leader < 0 || workers_.at(leader).lent_pack == 0) return std::nullopt;
  return packs_.at(workers_.at(leader).lent_pack).jobs.front();
}

void DispatchPolicy::lend_again(int number, int leader_number) {
  Worker& leader = workers_.at(leader_number);
  if (leader.lent_pack == 0 && leader.unconfirmed == 0) return;
  leader.lent.insert(number);
  workers_.at(number).leader = leader_number;
  relist(number);
}

bool DispatchPolicy::is_idle(const Worker& worker) const {
  return worker.packs.empty() && worker.unconfirmed == 0 && worker.leader < 0 && worker.lent.empty();
}

/// The first in plan order of those that some host is large enough for.
std::optional<int> DispatchPolicy::first_gang() const {
  std::optional<int> first;
  for (const auto& [gpus, jobs] : ready_gangs_) {
    if (gpus > largest_host()) break;
    first = std::min(first.value_or(*jobs.begin()), *jobs.begin());
  }
  return first;
}

/// False where too few workers are without a claim.
bool DispatchPolicy::claim(int job) {
  int chosen = -1;
  for (auto at = claimable_.lower_bound({jobs_[job].gpus, 0}); at != claimable_.end(); ++at) {
    if (chosen < 0 || hosts_[at->second].busy < hosts_[chosen].busy) chosen = at->second;
  }
  if (chosen < 0) return false;
  Host& host = hosts_[chosen];
  if (jobs_[job].isolate && workers_.at(*host.workers.begin()).on_cpu) {
    erase_ready(job);
    reserve(chosen, job);
    return true;
  }
  std::set<std::pair<std::size_t, int>> by_work;
  for (const int number : host.workers) {
    const Worker& worker = workers_.at(number);
    if (worker.leaving || worker.claimed_for >= 0) continue;
    by_work.insert({worker.packs.size() + (worker.leader >= 0 || !worker.lent.empty() ? 1 : 0), number});
  }
  Claim& claim = claims_[job];
  claim.host = chosen;
  for (auto worker = by_work.begin(); static_cast<int>(claim.workers.size()) < jobs_[job].gpus; ++worker)
    claim.workers.insert(worker->second);
  erase_ready(job);
  ++host.claims;
  for (const int number : claim.workers) {
    workers_.at(number).claimed_for = job;
    relist(number);
  }
  relist_host(chosen);
  look_at_claim(job);
  return true;
}

/// The job is ready as before.
void DispatchPolicy::unclaim(int job) {
  const Claim claim = claims_.at(job);
  claims_.erase(job);
  startable_.erase(job);
  --hosts_[claim.host].claims;
  for (const int number : claim.workers) {
    workers_.at(number).claimed_for = -1;
    relist(number);
  }
  relist_host(claim.host);
  add_ready(job);
}

void DispatchPolicy::look_at_claim(int job) {
  const auto& workers = claims_.at(job).workers;
  if (std::all_of(workers.begin(), workers.end(), [this](int number) { return is_idle(workers_.at(number)); }))
    startable_.insert(job);
}

std::optional<DispatchPolicy::Choice> DispatchPolicy::start_gang(Instant now) {
  if (startable_.empty()) return std::nullopt;
  const int job = *startable_.begin();
  const Claim claim = claims_.at(job);
  claims_.erase(job);
  startable_.erase(job);
  --hosts_[claim.host].claims;
  const auto has_model = [&](int number) { return workers_.at(number).model == jobs_[job].model; };
  const auto best = std::find_if(claim.workers.begin(), claim.workers.end(), has_model);
  const int leader = best == claim.workers.end() ? *claim.workers.begin() : *best;
  std::vector<int> others;
  for (const int number : claim.workers) {
    workers_.at(number).claimed_for = -1;
    if (number != leader) others.push_back(number);
  }
  Choice choice = place(leader, {job}, now);
  lend(leader, others, placed_.at(job));
  choice.lent = std::move(others);
  return choice;
}

void DispatchPolicy::lend(int leader, const std::vector<int>& others, PackNumber pack) {
  if (others.empty()) return;
  workers_.at(leader).lent_pack = pack;
  for (const int number : others) {
    Worker& worker = workers_.at(number);
    worker.leader = leader;
    worker.model = -1;  // it lets go of what it has loaded
    workers_.at(leader).lent.insert(number);
    relist(number);
  }
}

void DispatchPolicy::take_back_lent(int leader) {
  Worker& worker = workers_.at(leader);
  worker.lent_pack = 0;
  for (const int number : std::exchange(worker.lent, {})) {
    Worker& lent = workers_.at(number);
    lent.leader = -1;
    relist(number);
    if (lent.claimed_for >= 0) look_at_claim(lent.claimed_for);
  }
  if (worker.claimed_for >= 0) look_at_claim(worker.claimed_for);
}

DispatchPolicy::Choice DispatchPolicy::place(int number, std::vector<int> jobs, Instant now) {
  Worker& worker = workers_.at(number);
  const PackNumber pack = next_pack_++;
  packs_[pack] = {number, jobs, false};
  for (int job : jobs) placed_[job] = pack;
  if (worker.packs.empty()) worker.head_since = now;
  worker.packs.insert(pack);
  worker.jobs += jobs.size();
  worker.model = jobs_[jobs.front()].model;
  ++hosts_[worker.host].busy;
  relist(number);
  relist_host(worker.host);
  return {number, std::move(jobs), {}};
}

std::optional<DispatchPolicy::Choice> DispatchPolicy::theft(Instant now) const {
  if (!ready_.empty()) return std::nullopt;
  const auto idle = [](const ByLoad& open) { return !open.empty() && open.begin()->first == 0; };
  if (!idle(open_[0]) && !idle(open_[1])) return std::nullopt;
  auto candidate = by_load_.rbegin();
  for (int i = 0; i < kTheftCandidates && candidate != by_load_.rend() && candidate->first > 1; ++i, ++candidate) {
    const Worker& victim = workers_.at(candidate->second);
    const Pack& last = packs_.at(*victim.packs.rbegin());
    if (last.begun || jobs_[last.jobs.front()].isolate) continue;
    const auto limit = static_cast<double>(options_.backlog.count());
    const bool soon = victim.mean_ns && *victim.mean_ns * static_cast<double>(candidate->first - 1) < limit &&
                      static_cast<double>((now - victim.head_since).count()) < limit;
    if (!soon) return Choice{candidate->second, last.jobs, {}};
  }
  return std::nullopt;
}

// ---- ends ----

DispatchPolicy::PackNumber DispatchPolicy::leave(int job, Instant now) {
  const PackNumber number = placed_.at(job);
  placed_.erase(job);
  const int worker = packs_.at(number).worker;
  std::erase(packs_.at(number).jobs, job);
  --workers_.at(worker).jobs;
  if (!packs_.at(number).jobs.empty()) relist_room(worker);
  return number;
}

void DispatchPolicy::close_pack(PackNumber number, Instant now) {
  const int worker_number = packs_.at(number).worker;
  Worker& worker = workers_.at(worker_number);
  if (*worker.packs.begin() == number) worker.head_since = now;
  worker.packs.erase(number);
  packs_.erase(number);
  Host& host = hosts_[worker.host];
  --host.busy;
  if (number == worker.lent_pack) {
    worker.lent_pack = 0;
    if (worker.unconfirmed == 0) take_back_lent(worker_number);
  }
  relist(worker_number);
  if (worker.claimed_for >= 0) look_at_claim(worker.claimed_for);
  if (host.isolating) {
    release(worker.host);
  } else {
    relist_host(worker.host);
  }
}

void DispatchPolicy::finished(int job, Instant now) {
  const PackNumber number = leave(job, now);
  const Pack& pack = packs_.at(number);
  if (!pack.jobs.empty()) return;
  Worker& worker = workers_.at(pack.worker);
  if (*worker.packs.begin() == number) {
    const auto duration = static_cast<double>((now - worker.head_since).count());
    worker.mean_over = std::min(worker.mean_over + 1, kMeanOver);
    worker.mean_ns = worker.mean_ns.value_or(0) + (duration - worker.mean_ns.value_or(0)) / worker.mean_over;
  }
  close_pack(number, now);
}

void DispatchPolicy::withdraw(int job, Instant now) {
  const PackNumber number = leave(job, now);
  if (packs_.at(number).jobs.empty()) close_pack(number, now);
}

void DispatchPolicy::mark_begun(int job) {
  packs_.at(placed_.at(job)).begun = true;
}

bool DispatchPolicy::join(int job, int member, Instant now) {
  const PackNumber from = placed_.at(job), to = placed_.at(member);
  const PackTraits mine = joining_traits(job), its = joining_traits(member);
  if (packs_.at(from).worker != packs_.at(to).worker || mine.key < 0 || mine.key != its.key) return false;
  mark_begun(member);
  if (from == to) return true;
  withdraw(job, now);
  Pack& pack = packs_.at(to);
  pack.jobs.insert(std::lower_bound(pack.jobs.begin(), pack.jobs.end(), job), job);
  placed_[job] = to;
  ++workers_.at(pack.worker).jobs;
  relist_room(pack.worker);
  return true;
}

PackTraits DispatchPolicy::joining_traits(int job) const {
  PackTraits traits = jobs_[job].pack;
  if (jobs_[job].group != 0 || jobs_[job].isolate || jobs_[job].gpus > 1) traits.key = -1;
  return traits;
}

bool DispatchPolicy::begun(int job) const {
  const PackNumber number = placed_.at(job);
  const Pack& pack = packs_.at(number);
  const Worker& worker = workers_.at(pack.worker);
  return pack.begun || (!worker.leaving && *worker.packs.begin() == number);
}

const std::vector<int>& DispatchPolicy::pack_of(int job) const {
  return packs_.at(placed_.at(job)).jobs;
}

std::vector<int> DispatchPolicy::queue(int worker) const {
  std::vector<int> jobs;
  for (PackNumber number : workers_.at(worker).packs) {
    const Pack& pack = packs_.at(number);
    jobs.insert(jobs.end(), pack.jobs.begin(), pack.jobs.end());
  }
  return jobs;
}

void DispatchPolicy::sanity_check() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("dispatch policy: ") + what);
  };
  std::vector<int> busy(hosts_.size(), 0);
  std::size_t packs = 0, open = 0;
  int active = 0;
  for (const auto& [number, worker] : workers_) {
    active += worker.leaving ? 0 : 1;
    busy[worker.host] += static_cast<int>(worker.packs.size()) + worker.unconfirmed;
    packs += worker.packs.size();
    open += worker.open ? 1 : 0;
    require(hosts_[worker.host].workers.contains(number), "a worker is not of its host");
    require(by_load_.contains({worker.packs.size(), number}), "a worker is listed with another load");
    require(!worker.open || open_[worker.on_cpu ? 0 : 1].contains({worker.packs.size(), number}),
            "an open worker is not listed");
    require(!worker.open || hosts_[worker.host].reserved_for < 0, "a worker of a reserved host is open");
    require(!worker.open || (worker.claimed_for < 0 && worker.leader < 0), "a claimed or lent worker is open");
    require(worker.claimed_for < 0 || claims_.at(worker.claimed_for).workers.contains(number),
            "a worker is claimed for a job that does not claim it");
    require(worker.leader < 0 || (worker.packs.empty() && workers_.at(worker.leader).lent.contains(number)),
            "a lent worker works, or its leader does not know it");
    require(worker.lent_pack == 0 || worker.packs.contains(worker.lent_pack), "workers are lent for nothing");
    for (int lent : worker.lent) require(workers_.at(lent).leader == number, "a worker is lent to another one");
    std::size_t jobs = 0;
    for (PackNumber pack : worker.packs) {
      require(packs_.at(pack).worker == number, "a pack is in another worker's queue");
      require(!packs_.at(pack).jobs.empty(), "a pack is empty");
      jobs += packs_.at(pack).jobs.size();
    }
    require(jobs == worker.jobs, "a worker's jobs are miscounted");
    require(worker.roomy_for == room_for(worker), "room in a worker's pack is not noted");
    require(worker.roomy_for < 0 || roomy_.contains({worker.roomy_for, number}),
            "a worker with room is not listed");
  }
  require(active == active_workers_, "workers are miscounted");
  require(by_load_.size() == workers_.size() && open_[0].size() + open_[1].size() == open,
          "a stale worker is listed");
  require(packs == packs_.size(), "a pack has no worker");
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    const Host& host = hosts_[i];
    require(host.busy == busy[i], "a host's work is miscounted");
    require(!host.isolating || host.reserved_for >= 0, "a host isolates no job");
    if (host.isolating) {
      std::size_t held = 0;
      for (int worker : host.workers) held += workers_.at(worker).packs.size();
      require(held == 1 && placed_.contains(host.reserved_for), "an isolated job is not alone on its host");
    }
    if (host.reserved_for >= 0 && !host.isolating)
      require(!ready_.contains(host.reserved_for) && !placed_.contains(host.reserved_for),
              "a job that waits for its host is somewhere else too");
  }
  for (const auto& [job, claim] : claims_) {
    require(!placed_.contains(job), "a job that waits for its workers is placed");
    bool idle = true;
    for (int number : claim.workers) {
      require(workers_.at(number).claimed_for == job, "a claim is not known to its worker");
      require(!workers_.at(number).leaving, "a claimed worker leaves");
      idle &= is_idle(workers_.at(number));
    }
    require(idle == startable_.contains(job), "a job that could start is not listed, or one that could not is");
  }
  for (const auto& [job, pack] : placed_) {
    const auto& jobs = packs_.at(pack).jobs;
    require(std::find(jobs.begin(), jobs.end(), job) != jobs.end(), "a job is not in its pack");
    require(!ready_.contains(job), "a placed job is ready");
  }
}

}  // namespace finesweep::coordinator
