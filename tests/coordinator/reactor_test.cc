// Dispatch, dependencies, fencing, failures: what one life of the coordinator does while its workers answer.

#include "coordinator/reactor.h"

#include <cmath>
#include <limits>

#include "tests/coordinator/reactor_fixture.h"

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(ReactorTest, a_sweep_without_jobs_ends_with_the_first_event) {
  start({});
  EXPECT_FALSE(reactor_->ended());
  handle(Tick{});
  only<SweepEnded>();
  EXPECT_TRUE(reactor_->ended());
  EXPECT_THAT(handle(Tick{}), IsEmpty()) << "once";
}

TEST_F(ReactorTest, an_attempt_is_recorded_before_it_is_dispatched) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  ASSERT_EQ(last_.size(), 2u);
  const auto& recorded = std::get<RecordAttempt>(last_[0]);
  const auto& sent = std::get<SendDispatch>(last_[1]);
  EXPECT_EQ(recorded.attempt, (AttemptKey{id_of("a"), 1}));
  EXPECT_EQ(recorded.worker, worker);
  EXPECT_EQ(sent.worker, worker);
  EXPECT_THAT(sent.pack, ElementsAre(recorded.attempt));
}

TEST_F(ReactorTest, a_worker_holds_its_next_job_before_the_current_one_ends) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1);
  EXPECT_EQ(all<SendDispatch>().size(), 2u);
  const auto out = reactor_->attempts();
  ASSERT_EQ(out.size(), 2u);
  EXPECT_TRUE(out[0].begun);
  EXPECT_FALSE(out[1].begun);
  finish(worker, attempt("a"));
  EXPECT_EQ(only<SendDispatch>().pack.front().job, id_of("c")) << "without waiting for the commit";
}

TEST_F(ReactorTest, a_result_is_acknowledged_only_when_it_is_durable) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  EXPECT_EQ(only<Publish>().attempt, attempt("a"));
  EXPECT_TRUE(none<SendAcknowledge>());
  EXPECT_EQ(phase("a"), JobPhase::publishing);
  handle(Published{attempt("a")});
  EXPECT_TRUE(acknowledged(attempt("a"), true));
  EXPECT_EQ(phase("a"), JobPhase::succeeded);
  only<SweepEnded>();
  EXPECT_EQ(only<SendStop>().worker, worker);
}

TEST_F(ReactorTest, a_job_runs_once_what_it_needs_is_published) {
  Job chained = make_job("c", {"b"});
  chained.continues = id_of("a");
  start({make_job("a"), make_job("b"), chained});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  handle(Published{attempt("a")});
  EXPECT_EQ(phase("c"), JobPhase::waiting);
  finish(worker, attempt("b"));
  EXPECT_EQ(phase("c"), JobPhase::waiting) << "brought back, but not yet durable";
  handle(Published{attempt("b")});
  EXPECT_EQ(phase("c"), JobPhase::running);
}

TEST_F(ReactorTest, a_repeated_result_is_ignored_while_publishing_and_acknowledged_again_after) {
  start({make_job("a"), make_job("b")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  EXPECT_THAT(finish(worker, attempt("a")), IsEmpty());
  handle(Published{attempt("a")});
  finish(worker, attempt("a"));
  EXPECT_TRUE(acknowledged(attempt("a"), true));
  EXPECT_TRUE(none<Publish>());
}

TEST_F(ReactorTest, a_result_of_an_older_attempt_is_refused) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  const AttemptKey first = attempt("a");
  finish(worker, first, OutcomeKind::failed, "bad luck");
  ASSERT_EQ(attempt("a").number, 2);
  finish(worker, first);
  EXPECT_TRUE(acknowledged(first, false));
  EXPECT_TRUE(none<Publish>());
  complete(worker, "a");
  finish(worker, first);
  EXPECT_TRUE(acknowledged(first, false)) << "even after the newest has been accepted";
}

TEST_F(ReactorTest, a_result_from_a_worker_that_does_not_hold_the_attempt_is_refused) {
  start({make_job("a")});
  join(1);
  const WorkerId other = join(2);
  finish(other, attempt("a"));
  EXPECT_TRUE(acknowledged(attempt("a"), false));
  finish({7, 1}, attempt("a"));
  EXPECT_TRUE(acknowledged(attempt("a"), false));
  EXPECT_EQ(phase("a"), JobPhase::running);
}

TEST_F(ReactorTest, words_about_jobs_and_attempts_that_never_were_are_refused) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  const AttemptKey unknown{id_of("x"), 1}, future{id_of("a"), 9};
  finish(worker, unknown);
  EXPECT_TRUE(acknowledged(unknown, false));
  finish(worker, future);
  EXPECT_TRUE(acknowledged(future, false));
  beat(worker, {attempt("a"), unknown, future});
  EXPECT_EQ(all<SendRevoke>().size(), 2u);
  handle(Published{unknown});
  handle(PublishFailed{future, "?"});
  handle(WorkerLost{{9, 9}, "?"});
  handle(CancelRequested{{id_of("x")}});
  EXPECT_EQ(phase("a"), JobPhase::running);
}

TEST_F(ReactorTest, a_failure_is_retried_as_often_as_the_job_allows_and_then_reported) {
  start({make_job("a")});  // retries: 1
  const WorkerId worker = join(1);
  finish(worker, attempt("a"), OutcomeKind::failed, "row 7 is odd");
  EXPECT_EQ(only<RecordAttemptEnd>().failures, 1);
  EXPECT_TRUE(acknowledged({id_of("a"), 1}, true)) << "the report was taken";
  EXPECT_EQ(only<RecordAttempt>().attempt.number, 2);
  finish(worker, attempt("a"), OutcomeKind::failed, "row 7 is odd");
  EXPECT_EQ(only<RecordJobEnd>().error, "row 7 is odd");
  EXPECT_FALSE(only<RecordJobEnd>().cancelled);
  EXPECT_EQ(view("a").failures, 2);
  EXPECT_EQ(phase("a"), JobPhase::failed);
  only<SweepEnded>();
}

TEST_F(ReactorTest, a_permanent_failure_is_not_retried) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  Outcome broken = outcome(OutcomeKind::failed, "train.jsonl:7: no field 'label'");
  broken.permanent = true;
  handle(AttemptFinished{worker, attempt("a"), broken, false});
  EXPECT_EQ(phase("a"), JobPhase::failed);
  EXPECT_EQ(view("a").attempts, 1);
}

TEST_F(ReactorTest, a_result_that_is_no_number_is_a_failure) {
  start({make_job("a"), make_job("b")});
  const WorkerId worker = join(1);
  Outcome diverged = outcome(OutcomeKind::succeeded);
  diverged.metrics["accuracy"] = std::nan("");
  handle(AttemptFinished{worker, attempt("a"), diverged, false});
  EXPECT_TRUE(none<Publish>());
  EXPECT_EQ(only<RecordJobEnd>().error, "its result 'accuracy' is not a finite number: see its log");
  diverged = outcome(OutcomeKind::succeeded);
  diverged.history.push_back({1, 1, "loss", std::numeric_limits<double>::infinity()});
  handle(AttemptFinished{worker, attempt("b"), diverged, false});
  EXPECT_EQ(phase("b"), JobPhase::failed);
}

TEST_F(ReactorTest, a_crash_of_a_job_that_ran_alone_is_its_own_failure) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  crash(worker, attempt("a"));
  EXPECT_EQ(view("a").failures, 1);
  crash(worker, attempt("a"));
  EXPECT_EQ(phase("a"), JobPhase::failed);
}

TEST_F(ReactorTest, where_a_job_fails_all_that_need_it_fail_with_its_reason) {
  Job broken = make_job("teacher");
  broken.retries = 0;
  start({broken, make_job("student", {"teacher"}), make_job("test", {"student"}), make_job("other")});
  const WorkerId worker = join(1);
  finish(worker, attempt("teacher"), OutcomeKind::failed, "the loss is not a number");
  const auto ends = all<RecordJobEnd>();
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[1].job, id_of("student"));
  EXPECT_EQ(ends[1].error, "needs teacher which failed: the loss is not a number");
  EXPECT_EQ(view("test").error, "needs teacher which failed: the loss is not a number");
  complete(worker, "other");
  EXPECT_EQ(reactor_->counts(), (Counts{0, 0, 0, 0, 1, 3, 0}));
  only<SweepEnded>();
}

TEST_F(ReactorTest, an_interrupted_attempt_is_charged_to_nobody_and_its_worker_is_left_in_peace) {
  start({make_job("a")});
  const WorkerId leaving = join(1);
  finish(leaving, attempt("a"), OutcomeKind::interrupted);
  EXPECT_EQ(only<RecordAttemptEnd>().reason, RecordAttemptEnd::Reason::interrupted);
  EXPECT_TRUE(none<SendDispatch>());
  EXPECT_EQ(phase("a"), JobPhase::ready);
  const WorkerId other = join(2);
  EXPECT_EQ(only<SendDispatch>().worker, other);
  EXPECT_EQ(view("a").failures + view("a").losses, 0);
}

TEST_F(ReactorTest, a_worker_that_was_interrupted_and_stays_gets_work_again_after_a_lease) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"), OutcomeKind::interrupted);
  for (int second = 0; second < 40 && phase("a") == JobPhase::ready; ++second) {
    now_ += 1s;
    beat(worker, {});
  }
  EXPECT_EQ(phase("a"), JobPhase::running);
  EXPECT_GE(now_, options_.lease);
}

TEST_F(ReactorTest, an_artifact_that_cannot_be_published_is_a_failure_of_the_job) {
  start({make_job("a")});
  const WorkerId worker = join(1);
  const AttemptKey first = attempt("a");
  finish(worker, first);
  handle(PublishFailed{first, "no space left on device"});
  EXPECT_TRUE(acknowledged(first, false));
  EXPECT_EQ(view("a").failures, 1);
  EXPECT_EQ(only<SendDispatch>().pack.front().number, 2);
  finish(worker, attempt("a"));
  handle(PublishFailed{attempt("a"), "no space left on device"});
  EXPECT_EQ(only<RecordJobEnd>().error, "no space left on device");
}

TEST_F(ReactorTest, isolated_jobs_are_alone_on_a_cpu_host_and_packs_of_one_on_a_gpu) {
  Job timed = make_job("timed");
  timed.isolate = true;
  start({make_job("a"), timed, make_job("b")});
  const WorkerId one = join(1), two = join(2);
  EXPECT_EQ(phase("timed"), JobPhase::ready);
  EXPECT_EQ(phase("b"), JobPhase::ready) << "the host is kept free";
  finish(one, attempt("a"));
  EXPECT_EQ(phase("timed"), JobPhase::running);
  EXPECT_EQ(phase("b"), JobPhase::ready);
  const WorkerId holder = reactor_->attempts().front().worker;
  finish(holder, attempt("timed"));
  EXPECT_EQ(phase("b"), JobPhase::running);
  EXPECT_TRUE(holder == one || holder == two);

  start({make_job("a"), timed, make_job("b")});
  join(3, "g", "cuda:0");
  EXPECT_EQ(phase("timed"), JobPhase::running);
}

TEST_F(ReactorTest, an_idle_worker_takes_over_what_waits_in_another_queue) {
  start({make_job("a"), make_job("b"), make_job("c", {"b"})});
  const WorkerId busy = join(1);
  const AttemptKey waiting = attempt("b");
  EXPECT_EQ(phase("b"), JobPhase::running);
  const WorkerId idle = join(2);
  EXPECT_EQ(only<SendRevoke>().attempt, waiting);
  EXPECT_EQ(only<SendRevoke>().worker, busy);
  EXPECT_EQ(only<RecordAttemptEnd>().reason, RecordAttemptEnd::Reason::superseded);
  EXPECT_EQ(only<SendDispatch>().worker, idle);
  EXPECT_EQ(attempt("b").number, 2);
  finish(busy, waiting);
  EXPECT_TRUE(acknowledged(waiting, false)) << "had begun after all: wasteful, but fenced";
  complete(idle, "b");
  EXPECT_EQ(view("b").failures + view("b").losses, 0);
}

TEST_F(ReactorTest, a_pack_that_crashes_is_halved_until_one_job_is_to_blame) {
  options_.max_pack_jobs = 4;
  start_packable({make_job("a"), make_job("b"), make_job("c"), make_job("d")});
  const WorkerId worker = join(1, "g", "cuda:0");
  ASSERT_EQ(only<SendDispatch>().pack.size(), 4u);
  const AttemptKey late = attempt("b");
  crash(worker, attempt("a"));
  EXPECT_EQ(all<RecordAttemptEnd>().size(), 4u);
  for (const auto& end : all<RecordAttemptEnd>()) EXPECT_EQ(end.failures, 0);
  auto halves = all<SendDispatch>();
  ASSERT_EQ(halves.size(), 2u);
  EXPECT_THAT(halves[0].pack, ElementsAre(attempt("a"), attempt("b")));
  EXPECT_THAT(halves[1].pack, ElementsAre(attempt("c"), attempt("d")));
  crash(worker, late);
  EXPECT_TRUE(acknowledged(late, false)) << "its end is known already";

  crash(worker, attempt("a"));  // a and b run alone now
  EXPECT_EQ(view("a").failures, 0);
  complete(worker, "c");
  complete(worker, "d");
  complete(worker, "b");
  crash(worker, attempt("a"));
  EXPECT_EQ(view("a").failures, 1) << "crashed alone";
  crash(worker, attempt("a"));
  EXPECT_EQ(phase("a"), JobPhase::failed);
  EXPECT_EQ(reactor_->counts(), (Counts{0, 0, 0, 0, 3, 1, 0}));
}

TEST_F(ReactorTest, who_joined_a_pack_that_runs_is_to_blame_no_more_than_the_others) {
  options_.max_pack_jobs = 2;
  start_packable({make_job("a"), make_job("b"), make_job("c"), make_job("d"), make_job("e")});
  const WorkerId worker = join(1, "g", "cuda:0");
  ASSERT_THAT(packs(), ElementsAre(ElementsAre("a", "b"), ElementsAre("c", "d")));
  complete(worker, "a");
  handle(AttemptsJoined{worker, {attempt("b")}, {attempt("c")}});
  EXPECT_EQ(only<RecordJoin>().attempt, attempt("c"));
  EXPECT_EQ(only<RecordJoin>().member, id_of("b"));
  EXPECT_EQ(only<RecordJoin>().pack_jobs, 2);
  EXPECT_THAT(packs().front(), ElementsAre("b", "c"));
  EXPECT_THAT(packs().at(1), ElementsAre("d"));

  crash(worker, attempt("b"));
  EXPECT_EQ(all<RecordAttemptEnd>().size(), 2u);
  EXPECT_EQ(view("b").failures + view("c").failures, 0);
  EXPECT_EQ(view("d").attempts, 1) << "which only waited";
  EXPECT_LT(reactor_->joining_traits(id_of("b")).key, 0) << "the halves stay apart";
  for (const char* name : {"d", "b", "c", "e"}) complete(worker, name);
  only<SweepEnded>();
}

TEST_F(ReactorTest, words_about_joining_that_make_no_sense_change_nothing) {
  options_.max_pack_jobs = 1;
  start_packable({make_job("a"), make_job("b"), make_job("c"), make_job("d")});
  const WorkerId one = join(1, "g", "cuda:0"), two = join(2, "h", "cuda:0");
  const auto before = packs();
  handle(AttemptsJoined{{9, 1}, {attempt("a")}, {attempt("b")}});
  handle(AttemptsJoined{one, {}, {attempt("a")}});
  handle(AttemptsJoined{one, {attempt("a")}, {attempt("a"), {id_of("nobody"), 1}, {id_of("a"), 7}}});
  EXPECT_TRUE(none<RecordJoin>());
  for (const AttemptView& out : reactor_->attempts())
    if (out.worker == two) handle(AttemptsJoined{one, {attempt("a")}, {out.key}});
  EXPECT_TRUE(none<RecordJoin>()) << "another worker holds it";
  EXPECT_EQ(packs(), before);
}

TEST_F(ReactorTest, a_job_that_fails_inside_a_pack_fails_alone) {
  options_.max_pack_jobs = 4;
  start_packable({make_job("a"), make_job("b")});
  const WorkerId worker = join(1, "g", "cuda:0");
  finish(worker, attempt("a"), OutcomeKind::failed, "the loss is not a number");
  EXPECT_EQ(view("a").failures, 1);
  EXPECT_EQ(view("b").attempts, 1);
  crash(worker, attempt("b"));
  EXPECT_EQ(view("b").failures, 1) << "the last of its pack crashes alone";
}

TEST_F(ReactorTest, attempts_are_recorded_with_the_pack_that_they_go_out_in) {
  options_.max_pack_jobs = 2;
  start_packable({make_job("a"), make_job("b"), make_job("c")});
  join(1, "g", "cuda:0");
  const auto recorded = all<RecordAttempt>();
  ASSERT_EQ(recorded.size(), 3u);
  for (int i : {0, 1}) {
    EXPECT_EQ(recorded[i].pack_jobs, 2);
    EXPECT_EQ(recorded[i].pack_first, id_of("a"));
  }
  EXPECT_EQ(recorded[2].pack_jobs, 1);
  EXPECT_THAT(packs(), ElementsAre(ElementsAre("a", "b"), ElementsAre("c")));
}

TEST_F(ReactorTest, what_is_isolated_or_needs_several_gpus_shares_no_pack) {
  options_.max_pack_jobs = 8;
  Job timed = make_job("timed"), wide = make_job("wide");
  timed.isolate = true;
  wide.gpus = 2;
  start_packable({make_job("a"), timed, wide, make_job("b")});
  join(1, "g", "cuda:0");
  EXPECT_THAT(packs().front(), ElementsAre("a", "b"));
  const std::vector<PackTraits> of_one_job(1);
  EXPECT_THROW(Reactor(options_, jobs_, {}, of_one_job), std::invalid_argument);
}

TEST_F(ReactorTest, a_pack_fills_the_memory_that_its_worker_has_said) {
  options_.max_pack_jobs = 8;
  start_packable({make_job("a"), make_job("b"), make_job("c"), make_job("d")},
                 {.key = 0, .tokens = 1, .shared_mb = 500, .own_mb = 100});
  handle(WorkerJoined{{1, 1}, {"g", "cuda:0", 900}});
  EXPECT_THAT(packs(), ElementsAre(ElementsAre("a", "b", "c"), ElementsAre("d")));
}

TEST_F(ReactorTest, a_member_that_is_cancelled_leaves_and_the_others_go_on) {
  options_.max_pack_jobs = 4;
  start_packable({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1, "g", "cuda:0");
  handle(CancelRequested{{id_of("b")}});
  EXPECT_EQ(only<SendRevoke>().attempt, attempt("b"));
  EXPECT_EQ(phase("b"), JobPhase::cancelled);
  EXPECT_THAT(packs(), ElementsAre(ElementsAre("a", "c")));
  finish(worker, attempt("b"), OutcomeKind::interrupted);
  EXPECT_TRUE(acknowledged(attempt("b"), false));
  crash(worker, attempt("a"));
  EXPECT_EQ(view("a").failures + view("c").failures, 0) << "two of them: nobody knows whose fault it was";
  EXPECT_THAT(packs(), ElementsAre(ElementsAre("a"), ElementsAre("c")));
  complete(worker, "a");
  complete(worker, "c");
  only<SweepEnded>();
}

TEST_F(ReactorTest, the_members_of_a_lost_worker_s_pack_are_packed_again_elsewhere) {
  options_.max_pack_jobs = 4;
  start_packable({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId lost = join(1, "g", "cuda:0");
  finish(lost, attempt("a"));
  handle(Published{attempt("a")});
  handle(WorkerLost{lost, "killed"});
  for (const char* name : {"b", "c"}) EXPECT_EQ(view(name).losses, 1) << "both had begun";
  join(2, "h", "cuda:0");
  EXPECT_THAT(packs(), ElementsAre(ElementsAre("b", "c")));
}

TEST_F(ReactorTest, cancelling_ends_jobs_and_all_that_need_them) {
  start({make_job("a"), make_job("b", {"a"}), make_job("c")});
  const WorkerId worker = join(1);
  handle(CancelRequested{{id_of("a")}});
  EXPECT_EQ(only<SendRevoke>().worker, worker);
  EXPECT_EQ(only<RecordAttemptEnd>().reason, RecordAttemptEnd::Reason::cancelled);
  ASSERT_EQ(all<RecordJobEnd>().size(), 2u);
  EXPECT_TRUE(all<RecordJobEnd>()[1].cancelled);
  EXPECT_EQ(all<RecordJobEnd>()[1].error, "needs a which was cancelled");
  finish(worker, {id_of("a"), 1});
  EXPECT_TRUE(acknowledged({id_of("a"), 1}, false));
  handle(CancelRequested{{id_of("a"), id_of("c")}});
  EXPECT_EQ(only<RecordJobEnd>().job, id_of("c"));
  only<SweepEnded>();
}

TEST_F(ReactorTest, a_result_that_is_being_published_survives_a_cancellation_unless_publishing_fails) {
  start({make_job("a"), make_job("b")});
  const WorkerId worker = join(1);
  finish(worker, attempt("a"));
  finish(worker, attempt("b"));
  handle(CancelRequested{{id_of("a"), id_of("b")}});
  handle(Published{attempt("a")});
  EXPECT_EQ(phase("a"), JobPhase::succeeded);
  handle(PublishFailed{attempt("b"), "torn"});
  EXPECT_EQ(phase("b"), JobPhase::cancelled);
}

TEST_F(ReactorTest, stopping_tells_every_worker_and_ends_when_no_attempt_is_out) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId one = join(1), two = join(2);
  handle(StopRequested{});
  EXPECT_EQ(all<SendStop>().size(), 2u);
  finish(one, attempt("a"), OutcomeKind::interrupted);
  EXPECT_TRUE(none<SendDispatch>());
  EXPECT_TRUE(acknowledged(attempt("a"), true));
  finish(two, attempt("c"));  // was faster than the stop
  handle(Published{attempt("c")});
  EXPECT_TRUE(none<SweepEnded>()) << "b is still in a queue";
  handle(WorkerLost{one, "it left"});
  only<SweepEnded>();
  join(3);
  EXPECT_EQ(only<SendStop>().worker.rank, 3);
  EXPECT_TRUE(none<SendDispatch>());
}

TEST_F(ReactorTest, what_still_waited_in_a_queue_when_the_sweep_was_stopped_is_no_loss) {
  start({make_job("a"), make_job("b"), make_job("c")});
  const WorkerId worker = join(1);
  ASSERT_EQ(phase("b"), JobPhase::running);
  handle(StopRequested{});
  finish(worker, attempt("a"), OutcomeKind::interrupted);
  handle(WorkerLost{worker, "it left"});
  EXPECT_EQ(view("b").losses, 0);
  EXPECT_EQ(view("a").losses, 0);
  only<SweepEnded>();
}

TEST_F(ReactorTest, a_plan_that_contradicts_itself_is_refused) {
  EXPECT_THROW(start({make_job("a"), make_job("a")}), std::invalid_argument);
  EXPECT_THROW(start({make_job("a", {"b"}), make_job("b")}), std::invalid_argument);
  EXPECT_THROW(start({make_job("a", {"a"})}), std::invalid_argument);
  start({make_job("a"), make_job("b", {"a", "a"})});
  const WorkerId worker = join(1);
  complete(worker, "a");
  complete(worker, "b");
  EXPECT_EQ(phase("b"), JobPhase::succeeded) << "naming an input twice is harmless";
}

}  // namespace
}  // namespace finesweep::coordinator
