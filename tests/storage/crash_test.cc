#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <thread>

#include "storage/files.h"
#include "storage/store.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

constexpr int kCrashTrials = 400;
constexpr int kCrashBatch = 5;

/// The child: finishes jobs from `first` on, kCrashBatch to an apply, and writes a byte for each apply that
/// returned.
[[noreturn]] void finish_jobs(const std::filesystem::path& folder, Store::Options options, std::size_t first,
                              int acknowledged) {
  Result<Store> store = Store::create_or_open(folder, options);
  if (!store || !store->begin_generation("node", ::getpid(), 1)) ::_exit(3);
  const Plan plan = sample_plan(kCrashTrials);
  for (std::size_t at = first; at + kCrashBatch <= plan.jobs.size(); at += kCrashBatch) {
    std::vector<Change> changes;
    for (std::size_t i = at; i < at + kCrashBatch; ++i) {
      changes.push_back(started(plan.jobs[i].id, 1));
      for (Change& change : succeeded(plan.jobs[i].id, 1, static_cast<double>(i)))
        changes.push_back(std::move(change));
    }
    if (!store->apply(changes)) ::_exit(4);
    if (::write(acknowledged, ".", 1) != 1) ::_exit(5);
  }
  ::_exit(0);
}

/// Kills the child somewhere in the middle of its applies; returns how many were acknowledged.
std::size_t run_and_kill(const std::filesystem::path& folder, Store::Options options, std::size_t first,
                         std::mt19937& random) {
  int pipe_ends[2];
  if (::pipe(pipe_ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) finish_jobs(folder, options, first, pipe_ends[1]);
  ::close(pipe_ends[1]);
  std::size_t acknowledged = 0;
  const std::size_t wanted = 1 + random() % 6;
  char byte;
  while (acknowledged < wanted && ::read(pipe_ends[0], &byte, 1) == 1) ++acknowledged;
  // Anywhere within the next apply or two: they take some 100 µs.
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
  ::kill(child, SIGKILL);
  while (::read(pipe_ends[0], &byte, 1) == 1) ++acknowledged;  // acknowledged before the kill arrived
  ::close(pipe_ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) != 0) << "the child failed: " << WEXITSTATUS(status);
  return acknowledged;
}

void survive_kills(Store::Options options) {
  TemporaryFolder folder;
  {
    Store store = std::move(*Store::create_or_open(folder.path(), options));
    ASSERT_TRUE(store.begin_generation("node", 1, 1).ok());
    ASSERT_TRUE(store.save_plan(sample_plan(kCrashTrials), "").ok());
  }
  const std::vector<Job> planned = sample_plan(kCrashTrials).jobs;
  std::mt19937 random(20240607);
  std::size_t finished = 0;
  for (int life = 0; life < 15 && finished + 2 * kCrashBatch < planned.size(); ++life) {
    const std::size_t acknowledged = run_and_kill(folder.path(), options, finished, random);
    const Result<Store> store = Store::create_or_open(folder.path(), options);
    ASSERT_TRUE(store.ok()) << store.error().message;
    const std::vector<StoredJob> jobs = *store->load_jobs();
    ASSERT_EQ(jobs.size(), planned.size());
    std::size_t found = 0;
    while (found < jobs.size() && jobs[found].state == JobState::succeeded) {
      ASSERT_EQ(jobs[found].outcome->metrics.at("accuracy"), static_cast<double>(found));
      ++found;
    }
    EXPECT_GE(found, finished + acknowledged * kCrashBatch) << "an acknowledged result is lost";
    EXPECT_EQ(found % kCrashBatch, 0u) << "half a batch was recorded";
    for (std::size_t i = found; i < jobs.size(); ++i) ASSERT_EQ(jobs[i].state, JobState::pending);

    std::ifstream events(folder / "events.jsonl");
    std::size_t lines = 0;
    for (std::string line; std::getline(events, line); ++lines) ASSERT_EQ(Json::parse(line)["n"], lines + 1);
    EXPECT_EQ(lines, 3 * found);
    finished = found;
  }
  EXPECT_GT(finished, 0u);
}

TEST(StoreCrash, every_acknowledged_result_survives_kill_9_with_a_write_ahead_log) {
  survive_kills({.network_file_system = false});
}

TEST(StoreCrash, every_acknowledged_result_survives_kill_9_with_a_rollback_journal) {
  survive_kills({.network_file_system = true});
}

TEST(StoreCrash, a_killed_run_can_be_read_for_a_report) {
  TemporaryFolder folder;
  {
    Store store = std::move(*Store::create_or_open(folder.path()));
    ASSERT_TRUE(store.begin_generation("node", 1, 1).ok());
    ASSERT_TRUE(store.save_plan(sample_plan(kCrashTrials), "").ok());
  }
  std::mt19937 random(7);
  const std::size_t acknowledged = run_and_kill(folder.path(), {}, 0, random);
  const Store store = std::move(*Store::open_read_only(folder.path()));
  const std::vector<StoredJob> jobs = *store.load_jobs();
  for (std::size_t i = 0; i < acknowledged * kCrashBatch; ++i) EXPECT_EQ(jobs[i].state, JobState::succeeded);
}

}  // namespace
}  // namespace finesweep::storage
