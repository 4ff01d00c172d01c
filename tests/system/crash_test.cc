// Processes that end between any two steps that must not be half done: at every named crash point, and at random
// times.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "jobs/crash_point.h"
#include "tests/system/interrupted_sweep.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// So many points are visited in one run of the sweep, each in a life of its own.
constexpr std::size_t kPointsPerRun = 4;

/// Points that are passed only where another crash has gone before.
std::string after(const std::string& point) {
  return point.starts_with("resume.") ? "publish.renamed" : "";
}

bool is_supervisors(const std::string& point) {
  return point.starts_with("supervisor.");
}

class Crashing : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace();
    sweep_ = workspace_->make_quick_sweep();
    Process run({finesweep_program(), "run", sweep_, "--out", *workspace_ / "undisturbed", "--workers", "1"},
                workspace_->path());
    ASSERT_EQ(run.wait(120s), 0) << run.output();
    undisturbed_ = results_of(*workspace_ / "undisturbed");
    ASSERT_NE(undisturbed_.find("succeeded"), std::string::npos) << undisturbed_;
  }
  static void TearDownTestSuite() { delete workspace_; }

  /// Arms these points together; every one must fire.
  static void visit(const std::vector<std::string>& points) {
    InterruptedSweep::Options options;
    options.supervised = is_supervisors(points.front());
    for (const std::string& point : points) options.crash_at += (options.crash_at.empty() ? "" : ",") + point;
    SCOPED_TRACE("FINESWEEP_CRASH_AT=" + options.crash_at);
    static int runs = 0;
    const auto fired =
        InterruptedSweep(*workspace_, sweep_, undisturbed_).run("visit" + std::to_string(runs++), options);
    for (const std::string& point : points)
      EXPECT_TRUE(fired.contains(point.substr(0, point.find(':')))) << point << " never fired";
  }

  static inline Workspace* workspace_ = nullptr;
  static inline fs::path sweep_;
  static inline std::string undisturbed_;
};

TEST_F(Crashing, every_crash_point_fires_once_and_nothing_is_lost) {
  std::vector<std::vector<std::string>> groups(1);
  std::vector<std::string> within;
  for (const std::string_view name : kCrashPoints) {
    const std::string point(name);
    if (is_supervisors(point))
      groups.front().push_back(point);
    else if (after(point).empty() && point != "publish.renamed")
      within.push_back(point);
  }
  groups.push_back({"publish.renamed", "resume.before_record", "resume.recorded"});
  // Neighbours go into different runs, so that each run is interrupted at its beginning, its middle and its end.
  const std::size_t runs = (within.size() + kPointsPerRun - 1) / kPointsPerRun;
  for (std::size_t first = 0; first < runs; ++first) {
    groups.emplace_back();
    for (std::size_t i = first; i < within.size(); i += runs) groups.back().push_back(within[i]);
  }
  for (const auto& group : groups) {
    visit(group);
    if (HasFailure()) return;
  }
}

/// Not the first passing but a later one, where more is at stake than at the beginning.
TEST_F(Crashing, later_passings_of_the_points_that_are_passed_often_lose_nothing) {
  for (const char* point :
       {"commit.before:4", "commit.done:4", "round.recorded:3", "publish.renamed:2", "checkpoint.renamed:3"}) {
    visit({point});
    if (HasFailure()) return;
  }
}

// ---- not part of ctest: tests/system/kill-loops ----

class CrashingAt : public Crashing, public ::testing::WithParamInterface<std::string_view> {};

TEST_P(CrashingAt, one_point_alone) {
  const std::string point(GetParam());
  visit(after(point).empty() ? std::vector<std::string>{point} : std::vector<std::string>{after(point), point});
}
INSTANTIATE_TEST_SUITE_P(Every, CrashingAt, ::testing::ValuesIn(kCrashPoints), [](const auto& info) {
  std::string name(info.param);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

/// Every second loop is one of a sweep in packs, of which some are joined while they run.
class CrashLoops : public Crashing {
 protected:
  static void SetUpTestSuite() {
    Crashing::SetUpTestSuite();
    packed_ = workspace_->make_joining_sweep(20, 140);
    sweep_ = workspace_->make_quick_sweep();
    Process run({finesweep_program(), "run", packed_, "--out", *workspace_ / "undisturbed_packs", "--workers", "1"},
                workspace_->path());
    ASSERT_EQ(run.wait(120s), 0) << run.output();
    undisturbed_packs_ = results_of(*workspace_ / "undisturbed_packs");
    ASSERT_NE(read_text(*workspace_ / "undisturbed_packs/events.jsonl").find("attempt_joined"), std::string::npos);
  }

  static inline fs::path packed_;
  static inline std::string undisturbed_packs_;
};

/// FINESWEEP_KILL_LOOPS: how many (default 3); FINESWEEP_KILL_SEED: the first one's seed.
TEST_F(CrashLoops, kills_at_random_times_and_random_points_lose_nothing) {
  const auto number = [](const char* variable, unsigned otherwise) {
    const char* text = std::getenv(variable);
    return text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
  };
  const unsigned loops = number("FINESWEEP_KILL_LOOPS", 3), first = number("FINESWEEP_KILL_SEED", 1);
  unsigned at_points = 0, at_times = 0, beyond = 0;
  for (unsigned seed = first; seed < first + loops; ++seed) {
    std::mt19937 random(seed);
    InterruptedSweep::Options options;
    options.seed = seed;
    options.workers = 1 + static_cast<int>(random() % 2);
    if (random() % 2 == 0) {
      // Points of ranks and runners; some are never passed so often: then nothing happens.
      for (int i = 0; i < 2; ++i) {
        std::string_view point;
        do point = kCrashPoints[random() % kCrashPoints.size()];
        while (is_supervisors(std::string(point)));
        options.crash_at += (i ? "," : "") + std::string(point) + ":" + std::to_string(1 + random() % 6);
      }
    } else {
      options.kill_after = std::chrono::milliseconds(random() % 4000);
    }
    SCOPED_TRACE("FINESWEEP_KILL_SEED=" + std::to_string(seed) + " " + options.crash_at);
    const bool packs = seed % 2 == 0;
    const auto fired =
        InterruptedSweep(*workspace_, packs ? packed_ : sweep_, packs ? undisturbed_packs_ : undisturbed_)
            .run("loop" + std::to_string(seed), options);
    ++(options.kill_after ? at_times : fired.empty() ? beyond : at_points);
    if (HasFailure()) return;
    if ((seed - first) % 10 == 9)
      std::printf("%u loops: %u killed at random times, %u at crash points, %u not passed so often\n",
                  seed - first + 1, at_times, at_points, beyond);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace finesweep::tests
