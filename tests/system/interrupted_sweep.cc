#include "tests/system/interrupted_sweep.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "jobs/json.h"

namespace finesweep::tests {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

constexpr auto kLifeDeadline = 120s;
constexpr auto kGoneWithin = 5s;
constexpr std::int64_t kGoesOnWithinMs = 10'000;
constexpr int kMostLives = 12;

bool is_runner(const std::string& command) {
  return command.find("finesweep-runner") != std::string::npos;
}

std::vector<Json> events_in(const std::string& text) {
  std::vector<Json> events;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line, nullptr, false));
  return events;
}

/// Whole lines only: the last one may be on its way.
std::string whole_lines(const std::string& text) {
  return text.substr(0, text.rfind('\n') + 1);
}

}  // namespace

/// A crash point that fired since the last call: the program that passed it, and its pid.
std::optional<std::pair<std::string, pid_t>> InterruptedSweep::new_mark() {
  for (const auto& entry : fs::directory_iterator(marks_)) {
    const std::string name = entry.path().filename();
    if (fired_.contains(name)) continue;
    std::istringstream mark(whole_lines(read_text(entry.path())));
    std::string program;
    pid_t pid = 0;
    if (!(mark >> program >> pid)) continue;  // it is being written
    fired_.insert(name);
    return std::pair(program + " at " + name, pid);
  }
  return std::nullopt;
}

void InterruptedSweep::watch_interruption(const std::string& victim, pid_t pid, const Process& life) {
  if (is_runner(victim)) {
    EXPECT_TRUE(wait_for([&] { return !life.family().contains(pid); }, kGoneWithin)) << victim << " is still there";
    return;
  }
  const auto left = life.wait_until_gone(kGoneWithin);
  EXPECT_TRUE(left.empty()) << "after the end of " << victim << " (" << pid << "), still there:\n"
                            << describe(left) << life.output();
}

InterruptedSweep::Ended InterruptedSweep::live(const Options& options, bool may_kill) {
  std::vector<std::string> command{finesweep_program(), "run", sweep_, "--out", run_};
  if (options.supervised)
    command.insert(command.end(), {"--workers", std::to_string(options.workers)});
  else
    command = mpirun(options.workers + 1, command);
  std::vector<std::string> environment;
  if (!options.crash_at.empty())
    environment = {"FINESWEEP_CRASH_AT=" + options.crash_at, "FINESWEEP_CRASH_MARKS=" + marks_.string()};
  begun_ms_.push_back(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  Process life(command, workspace_.path(), environment);
  const auto kill_at = std::chrono::steady_clock::now() + options.kill_after.value_or(0ms);
  bool to_kill = may_kill && options.kill_after.has_value();
  while (true) {
    std::optional<int> exit_code;
    std::optional<std::pair<std::string, pid_t>> victim;
    const bool in_time = wait_for(
        [&] {
          if ((victim = new_mark())) return true;
          if ((exit_code = life.wait(0s))) return true;
          return to_kill && std::chrono::steady_clock::now() >= kill_at;
        },
        kLifeDeadline);
    last_output_ = life.output();
    if (!in_time) {
      ADD_FAILURE() << "neither an end nor a crash within " << kLifeDeadline.count() << " s\n" << last_output_;
      return Ended::by_itself;
    }
    if (!victim && !exit_code) {
      to_kill = false;
      auto family = life.family();
      // What draws plots, say, is not ours to survive or not.
      std::erase_if(family, [](const auto& process) {
        return process.second.find("finesweep") == std::string::npos &&
               process.second.find("mpirun") == std::string::npos;
      });
      if (family.empty()) continue;
      const auto chosen = std::next(family.begin(), static_cast<long>(random_() % family.size()));
      victim = {chosen->second, chosen->first};
      kill(chosen->first, SIGKILL);
    }
    if (!victim) victim = new_mark();  // the mark may be seen after the end
    if (victim) {
      watch_interruption(victim->first, victim->second, life);
      if (is_runner(victim->first)) continue;
      // Two ranks may pass a point at once: both marks are this life's.
      while (new_mark()) {
      }
      return Ended::interrupted;
    }
    EXPECT_EQ(exit_code, 0) << "the sweep ended though nobody interrupted it\n" << last_output_;
    const auto left = life.wait_until_gone(kGoneWithin);
    EXPECT_TRUE(left.empty()) << "after the end, still there:\n" << describe(left);
    return Ended::by_itself;
  }
}

void InterruptedSweep::check_record() {
  const std::string now = read_text(run_ / "events.jsonl");
  EXPECT_TRUE(now.starts_with(recorded_)) << "what was recorded has changed:\n" << recorded_ << "\nis now\n" << now;
  recorded_ = whole_lines(now);
}

void InterruptedSweep::check_end() {
  EXPECT_EQ(results_of(run_), undisturbed_);
  EXPECT_TRUE(fs::is_empty(run_ / "staging"));
  std::map<std::string, int> results;
  int number = 0;
  for (const Json& event : events_in(recorded_)) {
    ASSERT_TRUE(event.is_object()) << recorded_;
    EXPECT_EQ(event.value("n", 0), ++number);
    if (event.value("event", "") == "sweep_started") {
      const auto time = event.value("time", std::int64_t{0});
      const auto life = std::ranges::upper_bound(begun_ms_, time);
      ASSERT_NE(life, begun_ms_.begin());
      EXPECT_LT(time - *std::prev(life), kGoesOnWithinMs) << "it took long to go on";
    }
    if (event.value("event", "") == "job_succeeded") ++results[event.value("job", "")];
    EXPECT_NE(event.value("event", ""), "job_failed") << event;
  }
  EXPECT_FALSE(results.empty());
  for (const auto& [job, count] : results) EXPECT_EQ(count, 1) << "job " << job << " has " << count << " results";
}

std::set<std::string> InterruptedSweep::run(const std::string& out, const Options& options) {
  run_ = workspace_ / out;
  marks_ = workspace_ / (out + ".crashed");
  fired_.clear();
  recorded_.clear();
  begun_ms_.clear();
  random_.seed(options.seed);
  fs::create_directories(marks_);
  // Something to answer.
  workspace_.write(out + "/control/1.request.json", R"({"kind": "report", "payload": {}})");
  int lives = 0;
  while (live(options, lives == 0) == Ended::interrupted) {
    check_record();
    if (++lives > kMostLives) {
      ADD_FAILURE() << "the sweep does not come to an end";
    }
    if (::testing::Test::HasFailure()) return fired_;
  }
  check_record();
  check_end();
  if (::testing::Test::HasFailure()) return fired_;
  std::error_code ignored;
  fs::remove_all(run_, ignored);
  return fired_;
}

}  // namespace finesweep::tests
