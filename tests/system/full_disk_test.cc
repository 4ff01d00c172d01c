// A run directory on a disk that is full, fills up, or cannot be written to. Needs root, to mount a small disk.

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <fstream>

#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class SmallDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    sweep_ = workspace_.make_small_sweep(300);
    fs::create_directory(disk_);
    if (mount("tmpfs", disk_.c_str(), "tmpfs", 0, kSize) != 0)
      GTEST_SKIP() << "mounting a small tmpfs needs root: full and read-only disks are not tested here";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(disk_.c_str(), MNT_DETACH);
  }

  void fill() const {
    std::ofstream filler(disk_ / "filler", std::ios::binary | std::ios::app);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  void remount(unsigned long flags) const {
    ASSERT_EQ(mount("tmpfs", disk_.c_str(), "tmpfs", MS_REMOUNT | flags, kSize), 0);
  }
  std::vector<std::string> run_command() const {
    return {finesweep_program(), "run", sweep_,  "--out",          disk_ / "run",
            "--workers",         "1",   "--set", "sweep.repeats=1"};
  }
  /// Runs the sweep to its end; the exit code and what was printed.
  std::pair<int, std::string> run() const {
    Process process(run_command(), workspace_.path());
    const int exit_code = process.wait(120s).value_or(-1);
    EXPECT_TRUE(process.wait_until_gone(5s).empty());
    return {exit_code, process.output()};
  }

  static constexpr const char* kSize = "size=16m";
  Workspace workspace_;
  fs::path sweep_, disk_ = workspace_ / "disk";
  bool mounted_ = false;
};

TEST_F(SmallDisk, one_that_is_full_or_cannot_be_written_to_is_named_and_once_it_can_the_sweep_runs) {
  remount(MS_RDONLY);
  const auto [read_only, refused] = run();
  EXPECT_EQ(read_only, 4) << refused;
  EXPECT_NE(refused.find("choose a folder that can be written to"), std::string::npos) << refused;
  remount(0);

  fill();
  const auto [full, told] = run();
  EXPECT_EQ(full, 4) << told;
  EXPECT_NE(told.find("free space on this file system, then run again"), std::string::npos) << told;
  fs::remove(disk_ / "filler");

  const auto [exit_code, output] = run();
  EXPECT_EQ(exit_code, 0) << output;
}

TEST_F(SmallDisk,
       one_that_fills_up_while_a_sweep_runs_stops_it_and_once_there_is_space_it_goes_on_to_the_same_tables) {
  {
    Process running(run_command(), workspace_.path());
    ASSERT_TRUE(wait_for([&] { return count_events(disk_ / "run", "job_succeeded") > 0; }, 60s))
        << running.output();
    fill();
    const auto exit_code = running.wait(60s);
    // What failed for want of space failed, and is told; or nothing could be recorded any more.
    EXPECT_TRUE(exit_code == 1 || exit_code == 4) << exit_code.value_or(-1) << running.output();
    EXPECT_NE(running.output().find("free space on this file system"), std::string::npos) << running.output();
    EXPECT_TRUE(running.wait_until_gone(5s).empty());
  }
  fs::remove(disk_ / "filler");
  const auto [exit_code, output] = run();
  ASSERT_EQ(exit_code, 0) << output;
  const std::string interrupted = results_of(disk_ / "run");

  fs::remove_all(disk_ / "run");
  ASSERT_EQ(run().first, 0);
  EXPECT_EQ(interrupted, results_of(disk_ / "run"));
}

TEST(RunDirectory, a_database_that_is_removed_meanwhile_ends_the_sweep) {
  const Workspace workspace;
  const fs::path run = workspace / "run";
  Process process({finesweep_program(), "run", workspace.make_small_sweep(3000), "--out", run, "--workers", "1"},
                  workspace.path());
  ASSERT_TRUE(wait_for([&] { return count_events(run, "attempt_started") > 0; }, 60s)) << process.output();
  for (const char* name : {"finesweep.db", "finesweep.db-wal", "finesweep.db-shm"}) fs::remove(run / name);
  EXPECT_EQ(process.wait(60s), 4) << process.output();
  EXPECT_NE(process.output().find("finesweep.db was removed"), std::string::npos) << process.output();
  EXPECT_TRUE(process.wait_until_gone(5s).empty());
}

}  // namespace
}  // namespace finesweep::tests
