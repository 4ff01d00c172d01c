#include "storage/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/files.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

Status write_two_files(const fs::path& folder) {
  fs::create_directory(folder / "optimizer");
  if (Status written = write_file_atomically(folder / "weights", "weights of this step"); !written) return written;
  return write_file_atomically(folder / "optimizer" / "moments", "moments");
}

void write_at(const fs::path& checkpoints, std::int64_t step) {
  ASSERT_TRUE(write_checkpoint(checkpoints, step, {{"step", step}}, write_two_files).ok());
}

/// Every file of a checkpoint, by absolute path.
std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  return files;
}

TEST(Checkpoint, the_newest_of_several_attempts_is_found_with_its_state) {
  TemporaryFolder folder;
  write_at(folder / "attempt-1", 10);
  write_at(folder / "attempt-1", 20);
  write_at(folder / "attempt-2", 15);
  const auto newest = newest_valid_checkpoint({folder / "attempt-2", folder / "attempt-1", folder / "attempt-0"});
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->step, 20);
  EXPECT_EQ(newest->state, (Json{{"step", 20}}));
  EXPECT_EQ(*read_file(newest->folder / "optimizer" / "moments"), "moments");
}

TEST(Checkpoint, two_are_kept) {
  TemporaryFolder folder;
  for (int step : {1, 2, 3, 10, 11}) write_at(folder.path(), step);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path())) names.push_back(entry.path().filename());
  EXPECT_THAT(names, testing::UnorderedElementsAre("step-10", "step-11"));
}

TEST(Checkpoint, one_that_is_torn_at_any_byte_of_any_file_is_passed_over_for_the_one_before_it) {
  TemporaryFolder folder;
  write_at(folder.path(), 1);
  write_at(folder.path(), 2);
  for (const fs::path& file : files_of(folder / "step-2")) {
    const std::string whole = *read_file(file);
    ASSERT_FALSE(whole.empty());
    for (std::size_t length = 0; length < whole.size(); ++length) {
      write_plainly(file, whole.substr(0, length));
      std::vector<std::string> rejected;
      const auto newest = newest_valid_checkpoint({folder.path()}, &rejected);
      ASSERT_TRUE(newest.has_value());
      ASSERT_EQ(newest->step, 1) << file << " cut to " << length;
      ASSERT_EQ(rejected.size(), 1u);
      ASSERT_THAT(rejected[0], HasSubstr(file.string()));
    }
    write_plainly(file, whole);
  }
  EXPECT_EQ(newest_valid_checkpoint({folder.path()})->step, 2);
}

TEST(Checkpoint, one_with_a_flipped_bit_anywhere_is_passed_over) {
  TemporaryFolder folder;
  write_at(folder.path(), 1);
  write_at(folder.path(), 2);
  for (const fs::path& file : files_of(folder / "step-2")) {
    const std::string whole = *read_file(file);
    for (std::size_t byte = 0; byte < whole.size(); ++byte) {
      std::string flipped = whole;
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << (byte % 8)));
      write_plainly(file, flipped);
      const auto newest = newest_valid_checkpoint({folder.path()});
      ASSERT_TRUE(newest.has_value());
      ASSERT_EQ(newest->step, 1) << file << ", byte " << byte;
    }
    write_plainly(file, whole);
  }
}

TEST(Checkpoint, one_that_lacks_a_file_is_passed_over) {
  TemporaryFolder folder;
  write_at(folder.path(), 1);
  fs::remove(folder / "step-1" / "weights");
  std::vector<std::string> rejected;
  EXPECT_FALSE(newest_valid_checkpoint({folder.path()}, &rejected).has_value());
  ASSERT_EQ(rejected.size(), 1u);
  EXPECT_THAT(rejected[0], HasSubstr("weights: No such file"));
}

TEST(Checkpoint, a_failed_write_leaves_the_earlier_ones_and_nothing_else) {
  TemporaryFolder folder;
  write_at(folder.path(), 1);
  const Status failed = write_checkpoint(folder.path(), 2, Json::object(), [](const fs::path& path) -> Status {
    write_plainly(path / "half", "…");
    return Error{"no weights"};
  });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "no weights");
  EXPECT_EQ(newest_valid_checkpoint({folder.path()})->step, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(Checkpoint, what_an_interrupted_write_left_does_not_disturb_the_next) {
  TemporaryFolder folder;
  fs::create_directories(folder / ".writing" / "optimizer");
  write_plainly(folder / ".writing" / "weights", "old");
  write_at(folder.path(), 5);
  EXPECT_EQ(*read_file(newest_valid_checkpoint({folder.path()})->folder / "weights"), "weights of this step");
}

TEST(Checkpoint, a_torn_one_of_the_same_step_is_replaced) {
  TemporaryFolder folder;
  write_at(folder.path(), 3);
  write_plainly(folder / "step-3" / "weights", "torn");
  EXPECT_FALSE(newest_valid_checkpoint({folder.path()}).has_value());
  write_at(folder.path(), 3);
  EXPECT_EQ(newest_valid_checkpoint({folder.path()})->step, 3);
}

TEST(Checkpoint, a_link_in_place_of_a_file_is_not_followed) {
  TemporaryFolder folder;
  write_at(folder.path(), 1);
  write_plainly(folder / "elsewhere", *read_file(folder / "step-1" / "weights"));
  fs::remove(folder / "step-1" / "weights");
  fs::create_symlink(folder / "elsewhere", folder / "step-1" / "weights");
  std::vector<std::string> rejected;
  EXPECT_FALSE(newest_valid_checkpoint({folder.path()}, &rejected).has_value());
  EXPECT_THAT(rejected.at(0), HasSubstr("is a link"));
}

}  // namespace
}  // namespace finesweep::storage
