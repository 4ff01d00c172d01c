// How packs are shown: one bar each, one line in `status`, and lines of events.

#include "coordinator/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/sweep_view.h"

namespace finesweep::coordinator {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

/// Three jobs of which two run in one pack on a GPU; the third waits.
class PackViewTest : public testing::Test {
 protected:
  void SetUp() override {
    plan.name = "packs";
    for (int i = 0; i < 3; ++i) {
      Job job;
      job.id = JobId::of(std::to_string(i));
      job.title = "LoRA";
      Trial trial;
      trial.name = trial.configuration = trial.label = "rank " + std::to_string(1 << i);
      trial.steps.push_back({"finetune", job.kind, job.id});
      plan.trials.push_back(trial);
      plan.jobs.push_back(job);
    }
    ReactorOptions options;
    options.max_pack_jobs = 2;
    reactor.emplace(options, plan.jobs, std::map<JobId, JobHistory>(),
                    std::vector<PackTraits>(3, {.key = 0, .tokens = 1}));
    reactor->handle(WorkerJoined{worker, {"host", "cuda:0", 80'000}}, Instant(0));
    HeartbeatArrived heartbeat{worker, {}};
    heartbeat.held.push_back({{plan.jobs[0].id, 1}, {30, 40, "training", 0.5}});
    heartbeat.held.push_back({{plan.jobs[1].id, 1}, {10, 40, "training", 0.25}});
    heartbeat.held.push_back({{plan.jobs[2].id, 1}, {}});
    reactor->handle(heartbeat, Instant(1));
  }

  const WorkerId worker{1, 1};
  Plan plan;
  std::optional<Reactor> reactor;
};

TEST_F(PackViewTest, a_running_pack_is_one_bar_that_of_the_member_with_most_before_it) {
  SweepView view(plan);
  const Json record = view.progress_record(*reactor, 1);
  ASSERT_THAT(record["running"], SizeIs(1));
  const Json& running = record["running"][0];
  EXPECT_EQ(running["title"], "rank 2 finetune");
  EXPECT_EQ(running["done"], 10);
  EXPECT_EQ(running["pack"], 2);
  const auto lines = bar_lines(record, 100);
  ASSERT_THAT(lines, SizeIs(2)) << "the pack and the sweep";
  EXPECT_THAT(lines[0], HasSubstr("rank 2 finetune + 1 "));
  EXPECT_THAT(lines[0], HasSubstr("10/40"));
}

TEST_F(PackViewTest, status_names_the_pack) {
  SweepView view(plan);
  const auto status = view.snapshot(*reactor, {{1, {worker, {"host", "cuda:0", 80'000}}}});
  ASSERT_THAT(status.workers, SizeIs(1));
  EXPECT_EQ(status.workers[0].pack, 2);
  EXPECT_EQ(status.workers[0].title, "rank 2 finetune");
  EXPECT_EQ(Json(status).get<storage::StatusSnapshot>().workers[0].pack, 2);
}

TEST_F(PackViewTest, a_member_that_is_done_leaves_the_bar_where_it_is) {
  SweepView view(plan);
  Outcome done;
  done.kind = OutcomeKind::succeeded;
  reactor->handle(AttemptFinished{worker, {plan.jobs[0].id, 1}, done, false}, Instant(2));
  const Json running = view.progress_record(*reactor, 1)["running"];
  ASSERT_THAT(running, SizeIs(1));
  EXPECT_EQ(running[0]["done"], 10);
  EXPECT_FALSE(running[0].contains("pack")) << "the others are gone";
}

TEST(ConsoleTest, a_long_title_keeps_room_for_what_it_stands_for) {
  const Json running{{"title", std::string(200, 'x')}, {"done", 1}, {"total", 2}, {"pack", 12}};
  const auto lines = bar_lines({{"running", {running}}, {"done", 0}, {"jobs", 12}}, 80);
  EXPECT_THAT(lines[0], HasSubstr("xxx + 11 "));
}

TEST(ConsoleTest, a_start_in_a_pack_says_so) {
  Json record{{"event", "attempt_started"}, {"title", "LoRA"}, {"attempt", 1}, {"worker", "1"}};
  EXPECT_THAT(event_line(record), Not(HasSubstr("pack")));
  record["pack"] = 4;
  EXPECT_THAT(event_line(record), HasSubstr("LoRA in a pack of 4 on worker 1"));
}

}  // namespace
}  // namespace finesweep::coordinator
