#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include "storage/artifact.h"
#include "storage/checkpoint.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/store.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A file system of its own in memory, small enough to be filled; needs root.
class SmallDisk : public testing::Test {
 protected:
  void SetUp() override {
    if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=3m") != 0)
      GTEST_SKIP() << "mounting a small tmpfs needs root: full and read-only disks are not tested here";
    mounted = true;
  }
  void TearDown() override {
    if (mounted) ::umount2(folder.path().c_str(), MNT_DETACH);
  }

  void fill() {
    std::ofstream filler(folder / "filler", std::ios::binary);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  void make_read_only() {
    ASSERT_EQ(::mount("tmpfs", folder.path().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=3m"), 0);
  }

  TemporaryFolder folder;
  bool mounted = false;
};

TEST_F(SmallDisk, a_full_disk_refuses_a_result_and_once_there_is_space_it_is_recorded) {
  const JobId job = sample_id("finetune 0");
  Store store = std::move(*Store::create_or_open(folder.path()));
  ASSERT_TRUE(store.begin_generation("node0", 42, 500).ok());
  ASSERT_TRUE(store.save_plan(sample_plan(3), "").ok());
  ASSERT_TRUE(store.apply({started(job, 1)}).ok());
  fill();
  // A write-ahead log may have room in what it was given before, so the result is made to need more.
  Outcome outcome = sample_outcome(0.5);
  for (int i = 0; i < 40'000; ++i) outcome.history.push_back({1.0, i, "loss", 0.1});
  const std::vector<Change> changes{AttemptEnded{{job, 1}, AttemptEnd::succeeded, "", 2},
                                    JobSucceeded{{job, 1}, outcome, 2}};
  const Status full = store.apply(changes);
  ASSERT_FALSE(full.ok());
  EXPECT_THAT(full.error().message, HasSubstr("free space on this file system"));
  EXPECT_EQ(store.load_jobs()->at(0).state, JobState::running);
  fs::remove(folder / "filler");
  ASSERT_TRUE(store.apply(changes).ok());
  EXPECT_EQ(store.load_jobs()->at(0).outcome->history.size(), outcome.history.size());
}

TEST_F(SmallDisk, a_full_disk_leaves_the_old_file_whole_and_nothing_half_written) {
  ASSERT_TRUE(write_file_atomically(folder / "status.json", "old").ok());
  fill();
  const Status full = write_file_atomically(folder / "status.json", std::string(100'000, 'n'));
  ASSERT_FALSE(full.ok());
  EXPECT_THAT(full.error().message, HasSubstr("No space left on device; free space"));
  EXPECT_EQ(*read_file(folder / "status.json"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
}

TEST_F(SmallDisk, a_full_disk_fails_a_checkpoint_and_the_one_before_it_stays) {
  const auto write = [](const fs::path& path) {
    return write_file_atomically(path / "w", std::string(50'000, 'w'));
  };
  ASSERT_TRUE(write_checkpoint(folder / "checkpoints", 1, Json::object(), write).ok());
  fill();
  EXPECT_FALSE(write_checkpoint(folder / "checkpoints", 2, Json::object(), write).ok());
  EXPECT_EQ(newest_valid_checkpoint({folder / "checkpoints"})->step, 1);
  fs::remove(folder / "filler");
  EXPECT_TRUE(write_checkpoint(folder / "checkpoints", 2, Json::object(), write).ok());
  EXPECT_EQ(newest_valid_checkpoint({folder / "checkpoints"})->step, 2);
}

TEST_F(SmallDisk, a_finished_run_can_be_read_on_a_read_only_disk) {
  {
    Store store = std::move(*Store::create_or_open(folder.path()));
    ASSERT_TRUE(store.begin_generation("node0", 42, 500).ok());
    ASSERT_TRUE(store.save_plan(sample_plan(3), "").ok());
  }
  make_read_only();
  const Result<Store> store = Store::open_read_only(folder.path());
  ASSERT_TRUE(store.ok()) << store.error().message;
  EXPECT_EQ(Json(*store->load_plan()), Json(sample_plan(3)));
  const Result<Store> refused = Store::create_or_open(folder.path());
  EXPECT_FALSE(refused.ok());
}

TEST_F(SmallDisk, a_read_only_disk_is_named_when_a_run_is_to_be_made_there) {
  make_read_only();
  const Status status = RunDirectory(folder / "runs/new").create();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("Read-only file system; choose a folder that can be written to"));
}

}  // namespace
}  // namespace finesweep::storage
