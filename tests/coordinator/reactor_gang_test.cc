// Jobs that need several devices of one host.

#include "tests/coordinator/reactor_fixture.h"

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

Job on_devices(const std::string& name, int gpus) {
  Job job = make_job(name);
  job.gpus = gpus;
  return job;
}

class ReactorGangTest : public ReactorTest {
 protected:
  /// Both are there before any of the jobs is ready.
  void start_with_two_workers(std::vector<Job> jobs) {
    for (Job& job : jobs) job.inputs = {id_of("first")};
    jobs.insert(jobs.begin(), make_job("first"));
    start(std::move(jobs));
    leader = join(1, "a", "cuda:4");
    other = join(2, "a", "cuda:6");
    complete(leader, "first");
  }
  WorkerId leader, other;
};

TEST_F(ReactorGangTest, one_worker_gets_the_job_and_the_devices_of_the_others) {
  start_with_two_workers({on_devices("a", 2)});
  const auto dispatch = only<SendDispatch>();
  EXPECT_EQ(dispatch.worker, leader);
  EXPECT_THAT(dispatch.devices, ElementsAre("cuda:4", "cuda:6"));
  EXPECT_EQ(only<SendLend>().worker, other);
  EXPECT_EQ(reactor_->attempts().size(), 1u);
  complete(leader, "a");
  EXPECT_TRUE(reactor_->ended());
}

TEST_F(ReactorGangTest, where_the_worker_of_a_lent_device_is_lost_so_is_the_attempt_and_it_is_charged_once) {
  start_with_two_workers({on_devices("a", 2), make_job("b")});
  const AttemptKey first = attempt("a");
  handle(WorkerLost{other, "killed"});
  EXPECT_EQ(only<SendRevoke>().attempt, first);
  EXPECT_EQ(only<RecordAttemptEnd>().losses, 1);
  EXPECT_EQ(view("a").losses, 1);
  EXPECT_EQ(view("a").failures, 0);
  // What the leader brings after that is too late.
  finish(leader, first);
  EXPECT_TRUE(acknowledged(first, false));
  const WorkerId again = join(2, "a", "cuda:6");
  finish(leader, attempt("b"));
  EXPECT_EQ(attempt("a").number, 2);
  EXPECT_EQ(only<SendLend>().worker, again);
}

TEST_F(ReactorGangTest, a_lent_worker_that_falls_silent_ends_the_attempt_when_its_lease_does) {
  start_with_two_workers({on_devices("a", 2)});
  const AttemptKey first = attempt("a");
  for (now_ = 10s; now_ < 29s; now_ += 10s) beat(leader, {first}, 1);
  EXPECT_EQ(phase("a"), JobPhase::running);
  now_ = 30s;
  beat(leader, {first}, 2);
  ASSERT_FALSE(none<SendRevoke>());
  EXPECT_EQ(all<SendRevoke>().front().attempt, first);
  EXPECT_EQ(phase("a"), JobPhase::ready);
}

TEST_F(ReactorGangTest, where_the_leader_is_lost_the_lent_worker_is_free) {
  start_with_two_workers({on_devices("a", 2), make_job("b")});
  handle(WorkerLost{leader, "killed"});
  EXPECT_EQ(only<SendDispatch>().worker, other);
  EXPECT_EQ(phase("b"), JobPhase::running);
  EXPECT_EQ(view("a").losses, 1);
}

TEST_F(ReactorGangTest, a_failure_is_charged_and_tried_again) {
  start_with_two_workers({on_devices("a", 2)});
  crash(leader, attempt("a"));
  EXPECT_EQ(view("a").failures, 1);
  EXPECT_EQ(attempt("a").number, 2);
  EXPECT_EQ(only<SendDispatch>().devices.size(), 2u);
}

TEST_F(ReactorGangTest, what_no_host_has_devices_enough_for_fails_after_two_leases_and_says_so) {
  start({on_devices("a", 3), make_job("b", {"a"}), make_job("c")});
  const WorkerId one = join(1, "a"), two = join(2, "a");
  complete(one, "c");
  EXPECT_EQ(phase("a"), JobPhase::ready);
  for (now_ = 10s; now_ < 59s; now_ += 10s) {
    beat(one, {});
    beat(two, {});
  }
  EXPECT_FALSE(reactor_->ended());
  now_ = 60s;
  ASSERT_TRUE(reactor_->next_deadline().has_value());
  EXPECT_LE(*reactor_->next_deadline(), now_);
  handle(Tick{});
  EXPECT_EQ(phase("a"), JobPhase::failed);
  EXPECT_THAT(view("a").error, HasSubstr("needs 3 devices of one machine at once"));
  EXPECT_EQ(phase("b"), JobPhase::failed);
  EXPECT_TRUE(reactor_->ended());
}

TEST_F(ReactorGangTest, workers_that_come_in_time_are_waited_for) {
  start({on_devices("a", 2)});
  const WorkerId one = join(1, "a");
  now_ = 20s;
  beat(one, {});
  join(2, "a");
  EXPECT_EQ(phase("a"), JobPhase::running);
}

TEST_F(ReactorGangTest, when_all_stop_the_lent_worker_leaves_and_the_leader_still_brings_what_it_has_interrupted) {
  start_with_two_workers({on_devices("a", 2)});
  handle(StopRequested{});
  handle(WorkerLost{other, "it left"});
  EXPECT_EQ(phase("a"), JobPhase::running);
  finish(leader, attempt("a"), OutcomeKind::interrupted);
  EXPECT_EQ(only<RecordAttemptEnd>().reason, RecordAttemptEnd::Reason::interrupted);
  EXPECT_EQ(view("a").losses, 0);
  EXPECT_TRUE(reactor_->ended());
}

TEST_F(ReactorGangTest, a_cancelled_one_gives_its_devices_back) {
  start_with_two_workers({on_devices("a", 2), make_job("b"), make_job("c")});
  const AttemptKey revoked = attempt("a");
  handle(CancelRequested{{id_of("a")}});
  EXPECT_EQ(only<SendRevoke>().worker, leader);
  EXPECT_EQ(phase("c"), JobPhase::ready) << "the leader may still be at work on the other's device";
  beat(leader, {attempt("b")});
  EXPECT_EQ(phase("c"), JobPhase::ready) << "it may have said so before it began with what is revoked";
  confirm(leader, revoked);
  EXPECT_EQ(phase("c"), JobPhase::running);
}

TEST_F(ReactorGangTest,
       a_device_on_which_a_revoked_attempt_may_run_is_not_lent_before_its_worker_says_that_it_is_over) {
  start_with_two_workers({make_job("a"), make_job("b"), on_devices("c", 2)});
  const AttemptKey revoked = attempt("b");
  handle(CancelRequested{{id_of("b")}});
  complete(leader, "a");
  beat(other, {});
  EXPECT_EQ(phase("c"), JobPhase::ready);
  beat(other, {revoked}, 1);
  EXPECT_EQ(only<SendRevoke>().attempt, revoked) << "said again";
  EXPECT_EQ(phase("c"), JobPhase::ready);
  confirm(leader, revoked);
  EXPECT_EQ(phase("c"), JobPhase::ready) << "it was not this one's";
  confirm(other, revoked);
  EXPECT_EQ(only<SendLend>().worker, other);
}

TEST_F(ReactorGangTest, a_worker_that_neither_confirms_nor_names_what_was_revoked_is_given_up) {
  start_with_two_workers({make_job("a"), make_job("b"), on_devices("c", 2)});
  handle(CancelRequested{{id_of("b")}});
  complete(leader, "a");
  const WorkerId third = join(3, "a", "cuda:7");
  EXPECT_EQ(phase("c"), JobPhase::ready) << "the claim stands";
  for (now_ = 10s; now_ < 31s; now_ += 10s) {
    EXPECT_EQ(phase("c"), JobPhase::ready);
    beat(leader, {});
    beat(third, {});
    beat(other, {});
  }
  EXPECT_FALSE(reactor_->knows(other));
  EXPECT_EQ(phase("c"), JobPhase::running);
}

TEST_F(ReactorGangTest, a_worker_that_still_ends_what_was_revoked_is_waited_for) {
  start_with_two_workers({make_job("a"), make_job("b"), on_devices("c", 2)});
  const AttemptKey revoked = attempt("b");
  handle(CancelRequested{{id_of("b")}});
  complete(leader, "a");
  for (now_ = 10s; now_ < 100s; now_ += 10s) {
    beat(leader, {});
    beat(other, {revoked}, 1);
  }
  EXPECT_TRUE(reactor_->knows(other));
  confirm(other, revoked);
  EXPECT_EQ(phase("c"), JobPhase::running);
}

TEST_F(ReactorGangTest, a_lent_worker_that_comes_back_gets_nothing_before_the_leader_has_let_go_of_its_device) {
  start_with_two_workers({on_devices("a", 2), make_job("b"), make_job("c"), make_job("d"), make_job("e")});
  const AttemptKey lost = attempt("a");
  handle(CancelRequested{{id_of("a")}});
  handle(WorkerLost{other, "killed"});
  const WorkerId again = join(2, "a", "cuda:6");
  EXPECT_TRUE(none<SendDispatch>());
  confirm(leader, lost);
  EXPECT_EQ(only<SendDispatch>().worker, again);
}

}  // namespace
}  // namespace finesweep::coordinator
