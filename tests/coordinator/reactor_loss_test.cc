// Leases, lost and returning workers, and what a coordinator finds when it starts again.

#include "coordinator/reactor.h"
#include "tests/coordinator/reactor_fixture.h"

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

TEST_F(ReactorTest, a_lease_that_runs_out_gives_the_job_to_another_worker) {
  start({make_job("a")});
  join(1);
  const AttemptKey first = attempt("a");
  now_ = 20s;
  const WorkerId other = join(2);
  EXPECT_EQ(reactor_->next_deadline(), 30s);
  now_ = 30s;
  handle(Tick{});
  EXPECT_EQ(only<RecordAttemptEnd>().reason, RecordAttemptEnd::Reason::lost);
  EXPECT_EQ(only<RecordAttemptEnd>().losses, 1);
  EXPECT_EQ(only<SendDispatch>().worker, other);
  EXPECT_EQ(attempt("a").number, first.number + 1);
}

TEST_F(ReactorTest, a_heartbeat_renews_the_attempts_that_it_names_and_no_other) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1);
  ASSERT_EQ(phase("b"), JobPhase::running);
  for (int i = 0; i < 29; ++i) {
    now_ += 1s;
    beat(worker, {attempt("a")}, i);
  }
  EXPECT_EQ(reactor_->attempts()[0].lease_end, 59s);
  EXPECT_EQ(reactor_->attempts()[0].progress.done, 28);
  EXPECT_EQ(reactor_->attempts()[1].lease_end, 30s) << "its dispatch seems to have been lost on the way";
  now_ += 1s;
  beat(worker, {attempt("a")});
  EXPECT_EQ(only<SendRejoin>().worker, worker) << "given up with all that it holds";
  EXPECT_EQ(view("a").losses, 1);
  EXPECT_EQ(view("b").losses, 0);
}

TEST_F(ReactorTest, a_result_from_a_lost_worker_is_refused) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  now_ = 31s;
  finish(worker, attempt("a"));
  EXPECT_TRUE(acknowledged(attempt("a"), false));
  EXPECT_TRUE(none<Publish>());
  EXPECT_EQ(phase("a"), JobPhase::ready);
}

TEST_F(ReactorTest, a_worker_that_comes_back_works_again_under_a_new_incarnation) {
  start({make_job("a")});
  const WorkerId before = join(1);
  now_ = 31s;
  handle(Tick{});
  beat(before, {attempt("a")});
  EXPECT_EQ(only<SendRejoin>().worker, before);
  const WorkerId after = join(1);
  EXPECT_GT(after.incarnation, before.incarnation);
  EXPECT_EQ(only<SendDispatch>().worker, after);
  complete(after, "a");
  EXPECT_EQ(phase("a"), JobPhase::succeeded);
}

TEST_F(ReactorTest, heartbeats_that_piled_up_do_not_make_a_worker_join_many_times) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  handle(WorkerLost{worker, "?"});
  beat(worker, {});
  only<SendRejoin>();
  beat(worker, {});
  EXPECT_TRUE(none<SendRejoin>());
  now_ += options_.lease;
  beat(worker, {});
  only<SendRejoin>();
}

TEST_F(ReactorTest, a_worker_that_starts_again_has_lost_what_it_held) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId before = join(1);
  const AttemptKey first = attempt("a");
  const WorkerId after = join(1);
  EXPECT_EQ(view("a").losses, 1);
  EXPECT_EQ(view("b").losses, 0) << "only waited in the queue";
  EXPECT_EQ(attempt("a").number, 2);
  finish(before, first);
  EXPECT_TRUE(acknowledged(first, false));
  handle(WorkerJoined{before, {"a", "cpu"}});
  EXPECT_THAT(last_, IsEmpty()) << "a late Hello of the earlier stay";
  finish(after, attempt("a"));
  EXPECT_EQ(only<Publish>().attempt.number, 2);
}

TEST_F(ReactorTest, an_idle_worker_that_fell_silent_is_given_up_too) {
  start({make_job("a"), make_job("b", {"a"})});
  const WorkerId busy = join(1);
  join(2);
  for (int i = 0; i < 31; ++i) {
    now_ += 1s;
    beat(busy, {attempt("a")});
  }
  finish(busy, attempt("a"));
  handle(Published{attempt("a")});
  EXPECT_EQ(only<SendDispatch>().worker, busy);
}

TEST_F(ReactorTest, a_publication_goes_on_without_the_worker_that_brought_the_result) {
  start({make_job("a"), make_job("b")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  handle(WorkerLost{worker, "killed"});
  EXPECT_EQ(view("a").losses, 0);
  handle(Published{attempt("a")});
  EXPECT_EQ(phase("a"), JobPhase::succeeded);
  EXPECT_TRUE(none<SendAcknowledge>()) << "nobody is there to hear it";
  finish(worker, attempt("a"));
  EXPECT_TRUE(acknowledged(attempt("a"), true)) << "it was alive after all, and is told the truth";
}

TEST_F(ReactorTest, only_what_had_begun_counts_as_lost) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1);
  handle(WorkerLost{worker, "killed"});
  EXPECT_EQ(view("a").losses, 1);
  EXPECT_EQ(view("b").losses, 0);

  const WorkerId again = join(1);
  finish(again, attempt("a"));
  beat(again, {attempt("b")}, 3);
  handle(WorkerLost{again, "killed"});
  EXPECT_EQ(view("b").losses, 1);
  EXPECT_EQ(view("c").losses, 0);
}

TEST_F(ReactorTest, a_job_that_lost_its_worker_too_often_fails_and_says_so) {
  start({make_job("a"), make_job("b", {"a"})});
  for (int i = 0; i < options_.max_losses; ++i) {
    ASSERT_NE(phase("a"), JobPhase::failed);
    const WorkerId worker = join(1, "node17");
    handle(WorkerLost{worker, "killed with 31337"});
  }
  EXPECT_EQ(phase("a"), JobPhase::failed);
  EXPECT_EQ(view("a").losses, options_.max_losses);
  EXPECT_EQ(view("a").failures, 0);
  EXPECT_THAT(view("a").error, HasSubstr("its worker was lost 5 times"));
  EXPECT_THAT(view("a").error, HasSubstr("smaller"));
  EXPECT_THAT(view("a").error, Not(HasSubstr("node17")));
  EXPECT_THAT(view("a").error, Not(HasSubstr("31337")));
  EXPECT_THAT(view("b").error, HasSubstr("needs a which failed: its worker was lost"));
}

TEST_F(ReactorTest, what_a_worker_holds_but_should_not_is_revoked) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  EXPECT_THAT(beat(worker, {attempt("a"), attempt("b")}), IsEmpty()) << "its answer is on its way";
  handle(Published{attempt("a")});
  beat(worker, {attempt("a"), attempt("b")});
  EXPECT_EQ(only<SendRevoke>().attempt, attempt("a")) << "published";
  handle(CancelRequested{{id_of("b")}});
  beat(worker, {attempt("b")});
  EXPECT_EQ(only<SendRevoke>().attempt, attempt("b")) << "cancelled";
}

TEST_F(ReactorTest, an_isolated_job_waits_until_revoked_work_is_said_to_have_stopped) {
  Job timed = make_job("timed");
  timed.isolate = true;
  start({make_job("a"), make_job("b"), timed});
  const WorkerId one = join(1);
  join(2);
  complete(one, "a");
  const AttemptKey cancelled = attempt("b");
  handle(CancelRequested{{id_of("b")}});
  EXPECT_EQ(phase("timed"), JobPhase::ready);
  beat(one, {cancelled});
  EXPECT_EQ(phase("timed"), JobPhase::ready);
  beat(one, {});
  EXPECT_EQ(phase("timed"), JobPhase::ready) << "it may have said so before it began";
  confirm(one, cancelled);
  EXPECT_EQ(phase("timed"), JobPhase::running);
}

TEST_F(ReactorTest, a_coordinator_that_stood_still_does_not_blame_its_workers) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  now_ = 100s;
  handle(Tick{});
  EXPECT_TRUE(none<RecordAttemptEnd>());
  beat(worker, {attempt("a")});
  EXPECT_TRUE(none<SendRejoin>());
  now_ = 110s;
  handle(Tick{});
  EXPECT_TRUE(none<RecordAttemptEnd>());
  now_ = 130s;
  handle(Tick{});
  EXPECT_EQ(view("a").losses, 1) << "silent for a whole lease while we listened";
}

TEST_F(ReactorTest, time_that_runs_backwards_is_taken_as_standing_still) {
  start({make_job("a")});
  now_ = 10s;
  const WorkerId worker = join(1);
  now_ = 5s;
  beat(worker, {attempt("a")});
  EXPECT_EQ(reactor_->attempts()[0].lease_end, 40s);
}

// ---- starting again ----

TEST_F(ReactorTest, what_was_done_in_earlier_lives_is_not_done_again) {
  History history;
  history[id_of("a")] = {JobPhase::succeeded, 3, 0, 0, "", {}};
  history[id_of("b")] = {JobPhase::waiting, 4, 1, 2, "", {}};
  history[id_of("gone")] = {JobPhase::succeeded, 1, 0, 0, "", {}};
  start({make_job("a"), make_job("b", {"a"})}, history);
  const WorkerId worker = join(1);
  EXPECT_EQ(attempt("b").number, 5) << "numbers go on";
  EXPECT_EQ(view("b").failures, 1);
  finish(worker, {id_of("a"), 3});
  EXPECT_TRUE(acknowledged({id_of("a"), 3}, true));
  complete(worker, "b");
  EXPECT_TRUE(reactor_->ended());
}

TEST_F(ReactorTest, a_failed_job_stays_failed_and_new_jobs_that_need_it_fail_with_it) {
  History history;
  history[id_of("a")] = {JobPhase::failed, 2, 2, 0, "broken", {}};
  start({make_job("a"), make_job("b", {"a"})}, history);
  EXPECT_EQ(phase("b"), JobPhase::failed);
  handle(Tick{});
  EXPECT_EQ(only<RecordJobEnd>().error, "needs a which failed: broken");
  only<SweepEnded>();
}

TEST_F(ReactorTest, attempts_that_were_out_when_the_coordinator_ended_are_recorded_as_lost) {
  History history;
  history[id_of("a")] = {JobPhase::running, 1, 0, 0, "", JobHistory::Open::begun};
  history[id_of("b")] = {JobPhase::running, 1, 0, 0, "", JobHistory::Open::queued};
  history[id_of("c")] = {JobPhase::running, 5, 0, 4, "", JobHistory::Open::begun};
  start({make_job("a"), make_job("b"), make_job("c"), make_job("d", {"c"})}, history);
  handle(Tick{});
  const auto ends = all<RecordAttemptEnd>();
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0].losses, 1);
  EXPECT_EQ(ends[1].losses, 0) << "had not begun";
  EXPECT_EQ(ends[2].losses, 5);
  EXPECT_EQ(phase("c"), JobPhase::failed) << "one loss too many";
  EXPECT_EQ(phase("d"), JobPhase::failed);
  join(1);
  EXPECT_EQ(attempt("a").number, 2);
}

}  // namespace
}  // namespace finesweep::coordinator
