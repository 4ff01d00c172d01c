// Large sweeps: work per event must not grow with the number of jobs or workers.

#include <cstdlib>
#include <deque>

#include "coordinator/reactor.h"
#include "tests/coordinator/reactor_fixture.h"

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;

// FINESWEEP_SCALE_JOBS=n: so many jobs instead of as many as the sanitizers can bear.
TEST(ReactorScaleTest, a_large_sweep_on_a_thousand_workers_ends) {
  const char* wanted = std::getenv("FINESWEEP_SCALE_JOBS");
  const int chains = (wanted ? std::atoi(wanted) : 20'000) / 4, workers = 1000;
  std::vector<Job> jobs;
  for (int chain = 0; chain < chains; ++chain)
    for (int link = 0; link < 4; ++link) {
      Job job;
      job.id = JobId::of(std::to_string(chain) + "." + std::to_string(link));
      job.context = {{"model", "/models/" + std::to_string(chain % 7)}};
      if (link > 0) job.inputs.push_back(jobs.back().id);
      jobs.push_back(std::move(job));
    }

  Reactor reactor({}, jobs, {});
  Instant now{0};
  std::deque<std::pair<WorkerId, AttemptKey>> held;
  std::vector<AttemptKey> published;
  std::int64_t events = 0;
  const auto handle = [&](const Event& event) {
    ++events;
    for (Effect& effect : reactor.handle(event, now)) {
      if (const auto* dispatch = std::get_if<SendDispatch>(&effect))
        held.emplace_back(dispatch->worker, dispatch->pack.front());
      if (const auto* publish = std::get_if<Publish>(&effect)) published.push_back(publish->attempt);
    }
  };
  const auto started = std::chrono::steady_clock::now();
  for (int rank = 1; rank <= workers; ++rank)
    handle(WorkerJoined{{rank, 1}, {"host" + std::to_string(rank / 8), "cpu"}});
  Outcome success;
  success.kind = OutcomeKind::succeeded;
  while (!held.empty()) {
    now += 10us;
    const auto [worker, attempt] = held.front();
    held.pop_front();
    handle(AttemptFinished{worker, attempt, success, false});
    if (published.size() >= 64 || held.empty()) {
      for (const AttemptKey& key : std::exchange(published, {})) handle(Published{key});
    }
    if (events % 100 == 0) handle(HeartbeatArrived{worker, {}});
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - started;
  std::cout << chains * 4 << " jobs, " << workers << " workers: " << took.count() / static_cast<double>(events)
            << " us an event\n";
  EXPECT_TRUE(reactor.ended());
  EXPECT_EQ(reactor.counts().succeeded, chains * 4);
  reactor.sanity_check();
}

}  // namespace
}  // namespace finesweep::coordinator
