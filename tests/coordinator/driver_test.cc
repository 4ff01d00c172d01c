// The coordinator's loop with a real store and a worker made up here: what ranks say that makes no sense.

#include "coordinator/driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <sstream>

#include "jobs/messages.h"
#include "storage/control.h"
#include "storage/files.h"
#include "storage/status_file.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

using testing::HasSubstr;
using testing::IsSupersetOf;

constexpr int kRank = 1;

/// One worker that does every job at once; `before_results` may say other things first.
class MadeUpWorker final : public WorkerLink {
 public:
  MadeUpWorker() { say(Hello{"node", 1, 0, "cpu"}); }

  void say(const Message& message, int rank = kRank) { say_bytes(encode(message), rank); }
  void say_bytes(Bytes bytes, int rank = kRank) { said_.push_back({rank, std::move(bytes)}); }

  void send(int rank, Bytes frame) override {
    if (rank != kRank) return;
    auto message = decode(frame.data(), frame.size());
    ASSERT_TRUE(message.ok());
    if (const auto* welcome = std::get_if<Welcome>(&*message)) id_ = welcome->worker;
    if (const auto* dispatch = std::get_if<Dispatch>(&*message))
      for (const Assignment& assignment : dispatch->pack) finish({assignment.job.id, assignment.attempt});
    if (std::holds_alternative<Stop>(*message)) {
      if (!std::exchange(stopped, true) && on_stop) return on_stop();
      if (!on_stop) say(Goodbye{id_});
    }
  }
  std::vector<Received> receive() override {
    if (!may_finish || may_finish())
      std::move(held_.begin(), held_.end(), std::back_inserter(said_)), held_.clear();
    return std::exchange(said_, {});
  }
  void forget(int) override {}
  std::vector<std::string> refused() override { return std::exchange(strangers, {}); }
  /// The connection closes, and the worker comes back by a new one or not at all.
  void vanish() {
    said_.push_back({kRank, {}, true});
    say(Hello{"node", 1, 0, "cpu"});
  }

  static Outcome success(double loss) {
    Outcome outcome;
    outcome.kind = OutcomeKind::succeeded;
    outcome.metrics["loss"] = loss;
    return outcome;
  }
  static Outcome failure() {
    Outcome outcome;
    outcome.error = "the loss is not a number";
    outcome.permanent = true;
    return outcome;
  }
  void close() { said_.push_back({kRank, {}, true}); }
  const WorkerId& id() const { return id_; }

  std::function<void(const AttemptKey&)> before_results;
  /// Looked at again and again; results wait until it says so.
  std::function<bool()> may_finish;
  /// How it leaves; else with a Goodbye.
  std::function<void()> on_stop;
  bool fails = false;
  bool stopped = false;
  std::vector<std::string> strangers;

 private:
  void finish(const AttemptKey& attempt) {
    if (before_results) before_results(attempt);
    held_.push_back({kRank, encode(Finished{id_, attempt, fails ? failure() : success(0.5), false})});
  }

  WorkerId id_;
  std::vector<Received> held_;
  std::vector<Received> said_;
};

class DriverTest : public testing::Test {
 protected:
  void SetUp() override {
    for (Job& job : plan.jobs) job.continues.reset();
    ASSERT_TRUE(run.create().ok());
    store.emplace(std::move(storage::Store::create_or_open(run.path()).value()));
    ASSERT_TRUE(store->begin_generation("host", 1, 0).ok());
    ASSERT_TRUE(store->save_plan(plan, "name: sample\n").ok());
  }
  int drive() {
    Driver driver(*store, nullptr, run, plan, worker, [](const Json&) {}, {});
    return driver.run();
  }
  std::vector<Json> events(const std::string& kind) const {
    std::vector<Json> found;
    std::istringstream lines(*storage::read_file(run.events_file()));
    for (std::string line; std::getline(lines, line);)
      if (Json event = Json::parse(line); event["event"] == kind) found.push_back(std::move(event));
    return found;
  }

  storage::TemporaryFolder folder;
  const storage::RunDirectory run{folder / "run"};
  Plan plan = storage::sample_plan(1);
  std::optional<storage::Store> store;
  MadeUpWorker worker;
};

TEST_F(DriverTest, frames_that_make_no_sense_are_refused_counted_and_recorded_and_the_sweep_goes_on) {
  bool said = false;
  worker.before_results = [&](const AttemptKey& attempt) {
    if (std::exchange(said, true)) return;
    const Bytes good = encode(Finished{worker.id(), attempt, MadeUpWorker::success(9), false});
    worker.say_bytes({});
    worker.say_bytes({'h', 'e', 'l', 'l', 'o', ' ', 'c', 'o', 'o', 'r', 'd', 'i', 'n', 'a', 't', 'o', 'r'});
    Bytes old_version = good, absurd_length = good, changed = good, cut = good;
    old_version[4] = 0;
    for (std::size_t i = 8; i < 12; ++i) absurd_length[i] = 0xff;
    changed.back() ^= 1;
    cut.pop_back();
    for (const Bytes& bytes : {old_version, absurd_length, changed, cut}) worker.say_bytes(bytes);
    // In another's name, from a rank that is no worker, and what only a coordinator says.
    worker.say(Finished{{2, 1}, attempt, MadeUpWorker::success(9), false});
    worker.say(Heartbeat{{2, 1}, {}});
    worker.say(Goodbye{worker.id()}, 7);
    worker.say(Finished{worker.id(), attempt, MadeUpWorker::success(9), false}, 7);
    worker.say(Stop{});
  };
  EXPECT_EQ(drive(), 0);

  std::vector<std::string> reasons;
  for (const Json& event : events("frame_refused"))
    reasons.push_back(std::to_string(event["rank"].get<int>()) + ": " + event["reason"].get<std::string>());
  EXPECT_EQ(reasons.size(), 11u);
  for (const char* reason :
       {"1: a frame was cut short at 0 bytes", "1: not a finesweep frame", "1: frame of protocol version 0",
        "1: frame of 4294967295 bytes", "1: a frame's checksum", "1: it speaks in the name of worker 2",
        "7: it speaks in the name of worker 1", "1: the message is not for a coordinator"})
    EXPECT_THAT(reasons, testing::Contains(HasSubstr(reason)));
  EXPECT_EQ(events("sweep_ended").at(0)["refused_frames"], 11);
  for (const storage::StoredJob& job : *store->load_jobs()) EXPECT_EQ(job.outcome->metrics.at("loss"), 0.5);
}

TEST_F(DriverTest, a_result_of_an_attempt_that_nobody_holds_is_refused_and_recorded) {
  worker.before_results = [&](const AttemptKey& attempt) {
    worker.say(Finished{worker.id(), {attempt.job, attempt.number + 1}, MadeUpWorker::success(9), false});
  };
  EXPECT_EQ(drive(), 0);
  EXPECT_EQ(events("result_refused").size(), plan.jobs.size());
  for (const Json& event : events("result_refused")) EXPECT_EQ(event["attempt"], 2);
  for (const storage::StoredJob& job : *store->load_jobs()) EXPECT_EQ(job.outcome->metrics.at("loss"), 0.5);
}

TEST_F(DriverTest, where_everything_is_done_already_workers_that_have_said_nothing_yet_are_told_to_stop) {
  EXPECT_EQ(drive(), 0);
  worker.receive();
  worker.stopped = false;
  EXPECT_EQ(drive(), 0);
  EXPECT_TRUE(worker.stopped);
}

TEST_F(DriverTest, a_worker_whose_connection_closes_is_lost_at_once_and_its_job_is_done_anew) {
  bool vanished = false;
  worker.before_results = [&](const AttemptKey&) {
    if (!std::exchange(vanished, true)) worker.vanish();
  };
  EXPECT_EQ(drive(), 0);
  ASSERT_EQ(events("worker_lost").size(), 1u);
  EXPECT_EQ(events("worker_lost")[0]["reason"], "its connection closed");
  EXPECT_EQ(events("worker_joined").size(), 2u);
  // What comes in its old name is refused.
  EXPECT_GE(events("result_refused").size(), 1u);
  for (const storage::StoredJob& job : *store->load_jobs()) EXPECT_TRUE(job.outcome.has_value());
}

TEST_F(DriverTest, reports_are_written_for_one_after_the_other_who_asks_and_not_for_who_has_gone) {
  int step = 0;
  std::string gone;
  std::vector<std::string> asked;
  std::size_t answered = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  worker.may_finish = [&] {
    if (step == 0) {
      gone = *storage::put_request(run.control(), "report", Json::object());
      step = 1;
    } else if (step == 1 && std::filesystem::exists(run.reports() / "report.md")) {
      EXPECT_TRUE(storage::withdraw_request(run.control(), gone).ok());
      for (int i = 0; i < 2; ++i) asked.push_back(*storage::put_request(run.control(), "report", Json::object()));
      step = 2;
    } else if (step == 2) {
      for (const std::string& id : asked)
        if (const auto answer = *storage::take_answer(run.control(), id)) {
          EXPECT_EQ(answer->value("ok", false), true) << *answer;
          ++answered;
        }
    }
    return answered == 2 || std::chrono::steady_clock::now() > until;
  };
  EXPECT_EQ(drive(), 0);
  EXPECT_EQ(answered, 2u);
}

/// Workers are told to stop before the last reports are written, so they leave while that goes on.
class DriverEndTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    worker.fails = true;
  }
  void expect_the_end_of_a_sweep_that_failed() {
    const auto started = std::chrono::steady_clock::now();
    EXPECT_EQ(drive(), 1);
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(30));
    const auto status = storage::read_status(run.status_file());
    ASSERT_TRUE(status.ok()) << status.error().message;
    EXPECT_EQ(status->state, storage::StatusSnapshot::State::finished);
    EXPECT_EQ(status->exit_code, 1);
    ASSERT_EQ(events("sweep_ended").size(), 1u);
    EXPECT_EQ(events("sweep_ended")[0]["exit_code"], 1);
    EXPECT_TRUE(std::filesystem::exists(run.reports() / "report.md"));
  }
};

TEST_F(DriverEndTest, a_rank_that_says_goodbye_and_closes_while_the_last_reports_are_written_changes_nothing) {
  worker.on_stop = [this] {
    worker.say(Goodbye{worker.id()});
    worker.close();
  };
  expect_the_end_of_a_sweep_that_failed();
}

TEST_F(DriverEndTest, a_rank_that_vanishes_while_the_last_reports_are_written_changes_nothing) {
  worker.on_stop = [this] { worker.close(); };
  expect_the_end_of_a_sweep_that_failed();
}

TEST_F(DriverEndTest, a_rank_that_comes_back_while_the_last_reports_are_written_is_not_waited_for) {
  worker.on_stop = [this] { worker.vanish(); };
  expect_the_end_of_a_sweep_that_failed();
}

TEST_F(DriverEndTest, what_ranks_say_while_the_last_reports_are_written_changes_nothing_whatever_it_is) {
  const AttemptKey attempt{plan.jobs[0].id, 1};
  worker.on_stop = [this, attempt] {
    worker.say(Heartbeat{worker.id(), {{attempt, {}}}});
    worker.say(Finished{worker.id(), attempt, MadeUpWorker::success(9), false});
    worker.say(Revoked{worker.id(), attempt});
    worker.say_bytes({'n', 'o', ' ', 'f', 'r', 'a', 'm', 'e'});
    worker.say(Goodbye{{9, 1}}, 9);
    worker.close();
    worker.close();
  };
  expect_the_end_of_a_sweep_that_failed();
}

TEST_F(DriverEndTest, a_rank_that_never_says_goodbye_is_not_waited_for_for_ever) {
  worker.on_stop = [] {};
  expect_the_end_of_a_sweep_that_failed();
}

TEST_F(DriverTest, connections_that_were_refused_are_counted_and_the_first_ones_recorded) {
  worker.before_results = [&](const AttemptKey&) {
    for (int i = 0; i < 100; ++i) worker.strangers.push_back("127.0.0.1:5: it does not know the token");
  };
  EXPECT_EQ(drive(), 0);
  EXPECT_EQ(events("connection_refused").size(), 20u);
  EXPECT_EQ(events("connection_refused")[0]["reason"], "127.0.0.1:5: it does not know the token");
  EXPECT_EQ(events("sweep_ended").at(0)["refused_connections"], 100 * plan.jobs.size());
}

TEST_F(DriverTest, thousands_of_senseless_frames_are_counted_and_not_told_one_by_one) {
  bool said = false;
  worker.before_results = [&](const AttemptKey&) {
    if (std::exchange(said, true)) return;
    for (int i = 0; i < 5000; ++i) worker.say_bytes({1, 2, 3});
  };
  EXPECT_EQ(drive(), 0);
  EXPECT_EQ(events("sweep_ended").at(0)["refused_frames"], 5000);
  EXPECT_LT(events("frame_refused").size(), 100u);
}

}  // namespace
}  // namespace finesweep::coordinator
