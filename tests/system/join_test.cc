// Workers that join a sweep while it runs, and leave it, well or badly.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <sstream>

#include "jobs/json.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
namespace fs = std::filesystem;

class Joining : public ::testing::Test {
 protected:
  std::vector<std::string> run_command(const fs::path& out, const std::vector<std::string>& more = {},
                                       const std::string& workers = "1") {
    std::vector<std::string> command{finesweep_program(), "run", sweep_, "--out", out, "--workers", workers};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  std::vector<std::string> worker_command(const std::vector<std::string>& more = {}) {
    std::vector<std::string> command{finesweep_program(), "worker", "--join", ticket_, "--device", "cpu"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  /// Events of one kind, in order.
  std::vector<Json> events(const std::string& kind) const {
    std::vector<Json> found;
    std::istringstream lines(read_text(run_ / "events.jsonl"));
    for (std::string line; std::getline(lines, line);)
      if (Json event = Json::parse(line, nullptr, false); event.is_object() && event.value("event", "") == kind)
        found.push_back(std::move(event));
    return found;
  }
  /// The name of the `count`-th worker that has come, once it has begun a job.
  std::string at_work(std::size_t count) {
    std::string name;
    wait_for(
        [&] {
          const auto joined = events("worker_joined");
          if (joined.size() < count) return false;
          name = joined[count - 1].value("worker", "");
          const Json status = Json::parse(read_text(run_ / "status.json"), nullptr, false);
          for (const Json& worker : status.is_object() ? status.value("workers", Json::array()) : Json::array())
            if (std::to_string(worker.value("rank", 0)) == name.substr(0, name.find('/')) &&
                worker.contains("attempt"))
              return true;
          return false;
        },
        120s);
    return name;
  }
  int coordinator() const {
    const Json status = Json::parse(read_text(run_ / "status.json"), nullptr, false);
    return status.is_object() ? status.value("pid", 0) : 0;
  }
  void expect_no_result_twice() const {
    std::map<std::string, int> results;
    for (const Json& event : events("job_succeeded")) ++results[event.value("job", "")];
    for (const auto& [job, count] : results) EXPECT_EQ(count, 1) << job;
  }

  Workspace workspace_;
  fs::path sweep_ = workspace_.make_small_sweep(800);
  fs::path run_ = workspace_ / "run";
  fs::path ticket_ = run_ / "join.json";
};

TEST_F(Joining, workers_join_take_jobs_are_killed_and_leave_and_the_results_are_the_same) {
  Process alone(run_command(workspace_ / "alone", {}, "2"), workspace_.path());
  ASSERT_EQ(alone.wait(300s), 0) << alone.output();
  EXPECT_FALSE(fs::exists(workspace_ / "alone/join.json")) << "nobody asked for it";

  Process run(run_command(run_, {"--join-port", "0"}), workspace_.path());
  ASSERT_TRUE(wait_for([&] { return fs::exists(ticket_); }, 60s)) << run.output();
  struct stat info {};
  ASSERT_EQ(stat(ticket_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  Process victim(worker_command(), workspace_.path());
  const std::string lost = at_work(2);
  victim.signal(SIGKILL);
  EXPECT_TRUE(victim.wait_until_gone(5s).empty()) << describe(victim.family());
  ASSERT_TRUE(wait_for([&] { return events("worker_lost").size() == 1; }, 20s)) << victim.output() << run.output();
  EXPECT_EQ(events("worker_lost")[0].value("worker", ""), lost);

  Process leaver(worker_command(), workspace_.path());
  const std::string left = at_work(3);
  EXPECT_NE(left, lost) << "a rank is not used twice";
  leaver.signal(SIGTERM);
  EXPECT_EQ(leaver.wait(60s), 0) << leaver.output();
  EXPECT_TRUE(leaver.wait_until_gone(5s).empty());
  ASSERT_TRUE(wait_for([&] { return events("worker_left").size() == 1; }, 20s)) << leaver.output();
  EXPECT_EQ(events("worker_left")[0].value("worker", ""), left);

  Process stayer(worker_command(), workspace_.path());
  EXPECT_EQ(run.wait(300s), 0) << run.output();
  EXPECT_EQ(stayer.wait(20s), 0) << stayer.output();
  EXPECT_TRUE(stayer.wait_until_gone(5s).empty());
  EXPECT_FALSE(fs::exists(ticket_));
  EXPECT_EQ(results_of(run_), results_of(workspace_ / "alone"));
  EXPECT_TRUE(fs::is_empty(run_ / "staging"));
  EXPECT_EQ(events("worker_lost").size(), 1u);
  EXPECT_EQ(events("job_failed").size(), 0u);
  expect_no_result_twice();
}

TEST_F(Joining, a_worker_joins_the_coordinator_that_follows_one_that_was_killed) {
  workspace_.make_small_sweep(300);
  Process early(worker_command(), workspace_.path());  // before there is a sweep
  Process run(run_command(run_, {"--join-port", "0"}), workspace_.path());
  at_work(2);
  const std::string first_ticket = read_text(ticket_);
  ASSERT_EQ(kill(coordinator(), SIGKILL), 0);
  EXPECT_TRUE(
      wait_for([&] { return events("sweep_started").size() == 2 && events("worker_joined").size() == 4; }, 60s))
      << run.output() << early.output();
  EXPECT_NE(read_text(ticket_), first_ticket) << "a token is used by one coordinator";
  EXPECT_EQ(run.wait(300s), 0) << run.output();
  EXPECT_EQ(early.wait(20s), 0) << early.output();
  expect_no_result_twice();
}

TEST_F(Joining, a_worker_whose_coordinator_does_not_come_back_ends_and_says_so) {
  Process run(run_command(run_, {"--join-port", "0"}), workspace_.path());
  Process worker(worker_command({"--patience", "2"}), workspace_.path());
  at_work(2);
  run.signal(SIGKILL);
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
  EXPECT_EQ(worker.wait(30s), 4) << worker.output();
  EXPECT_THAT(worker.output(), HasSubstr("no coordinator was found within 2 s"));
  EXPECT_TRUE(worker.wait_until_gone(5s).empty());
}

TEST_F(Joining, ctrl_c_at_the_sweep_ends_its_joined_workers_too_after_a_checkpoint) {
  Process run(run_command(run_, {"--join-port", "0"}), workspace_.path());
  Process worker(worker_command(), workspace_.path());
  at_work(2);
  run.signal(SIGINT);
  EXPECT_EQ(run.wait(60s), 3) << run.output();
  EXPECT_EQ(worker.wait(20s), 0) << worker.output();
  EXPECT_TRUE(worker.wait_until_gone(5s).empty());
}

TEST_F(Joining, who_is_refused_is_told_on_standard_error_and_not_among_the_records) {
  Process sweep({"bash", "-c", "exec \"$@\" >records", "bash", finesweep_program(), "run", sweep_, "--out", run_,
                 "--workers", "1", "--json", "--join-port", "0"},
                workspace_.path());
  ASSERT_TRUE(wait_for([&] { return fs::exists(ticket_); }, 60s)) << sweep.output();
  const int port = Json::parse(read_text(ticket_)).value("port", 0);
  Process stranger({"bash", "-c", "echo nonsense >/dev/tcp/127.0.0.1/" + std::to_string(port)}, workspace_.path());
  EXPECT_EQ(stranger.wait(20s), 0) << stranger.output();
  const std::string words = " warning: a connection was refused: 127.0.0.1:";
  EXPECT_TRUE(wait_for([&] { return sweep.output().find(words) != std::string::npos; }, 30s)) << sweep.output();
  EXPECT_EQ(sweep.output().find('\x1b'), std::string::npos) << "colours";
  sweep.signal(SIGINT);
  EXPECT_EQ(sweep.wait(60s), 3) << sweep.output();
  std::istringstream records(read_text(workspace_ / "records"));
  for (std::string line; std::getline(records, line);)
    EXPECT_TRUE(Json::parse(line, nullptr, false).is_object()) << line;
}

TEST_F(Joining, what_is_no_ticket_and_a_run_directory_that_is_not_seen_are_refused_at_once) {
  const auto refused = [&](const std::string& text) {
    workspace_.write("copy.json", text);
    Process worker({finesweep_program(), "worker", "--join", workspace_ / "copy.json", "--device", "cpu"},
                   workspace_.path());
    EXPECT_EQ(worker.wait(30s), 2) << worker.output();
    return worker.output();
  };
  EXPECT_THAT(refused("{}"), HasSubstr("not as `finesweep run --join-port` writes it"));
  EXPECT_THAT(refused(R"({"host": "127.0.0.1", "port": 1, "run_directory": "/nonesuch/run", "token": ")" +
                      std::string(64, 'a') + "\"}"),
              HasSubstr("/nonesuch/run: not seen from this host"));
}

TEST_F(Joining, an_address_that_is_not_of_this_host_is_refused_before_anything_starts) {
  Process run(run_command(run_, {"--join-port", "0", "--join-address", "203.0.113.7"}), workspace_.path());
  EXPECT_EQ(run.wait(60s), 2) << run.output();
  EXPECT_THAT(run.output(), HasSubstr("cannot listen on 203.0.113.7"));
}

}  // namespace
}  // namespace finesweep::tests
