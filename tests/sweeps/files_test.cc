// Checksums of model and data files on a real disk, and their cache.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "jobs/sha256.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "finesweep-files-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& bytes,
                 std::chrono::seconds age = std::chrono::hours(1)) {
    const fs::path path = folder_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    fs::last_write_time(path, fs::file_time_type::clock::now() - age);
    return path;
  }
  std::string digest(const fs::path& path) { return make_sweep_files(cache())->sha256(path).value(); }
  static std::string expected(const std::string& bytes) { return to_hex(sha256(bytes)); }
  fs::path cache() const { return folder_ / "cache" / "sha256.json"; }

  fs::path folder_;
};

TEST_F(FilesTest, a_checksum_is_kept_until_size_or_time_change) {
  const fs::path path = write("a", "one");
  EXPECT_EQ(digest(path), expected("one"));
  ASSERT_TRUE(fs::exists(cache()));
  // What the cache says is believed while size and time are the same.
  std::string text = read_text(cache());
  text.replace(text.find(expected("one")), 64, std::string(64, 'f'));
  std::ofstream(cache(), std::ios::binary) << text;
  EXPECT_EQ(digest(path), std::string(64, 'f'));
  write("a", "two", std::chrono::hours(2));
  EXPECT_EQ(digest(path), expected("two"));
}

TEST_F(FilesTest, a_file_that_was_just_written_is_not_remembered) {
  EXPECT_EQ(digest(write("a", "one", std::chrono::seconds(0))), expected("one"));
  EXPECT_FALSE(fs::exists(cache()));
}

TEST_F(FilesTest, a_broken_cache_costs_time_and_nothing_else) {
  const fs::path path = write("a", "one");
  fs::create_directories(cache().parent_path());
  for (const char* text : {"", "{", "[]", R"({"version": 2, "files": {}})", R"({"version": 1, "files": 3})",
                           R"({"version": 1, "files": {"/a": [1], "/b": ["x", 2, "y"], "/c": null}})"}) {
    std::ofstream(cache(), std::ios::binary) << text;
    EXPECT_EQ(digest(path), expected("one")) << text;
  }
  EXPECT_EQ(make_sweep_files("")->sha256(path).value(), expected("one"));
  EXPECT_EQ(make_sweep_files("/proc/no/such/folder/cache.json")->sha256(path).value(), expected("one"));
}

TEST_F(FilesTest, nothing_is_left_beside_the_cache) {
  digest(write("a", "one"));
  digest(write("b", "two"));
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(cache().parent_path())) ++files;
  EXPECT_EQ(files, 1);
}

TEST_F(FilesTest, missing_files_folders_and_files_are_told_apart) {
  const auto files = make_sweep_files("");
  const fs::path path = write("a", "one");
  EXPECT_EQ(files->info(path).kind, SweepFiles::Kind::file);
  EXPECT_EQ(files->info(path).bytes, 3u);
  EXPECT_EQ(files->info(folder_).kind, SweepFiles::Kind::directory);
  EXPECT_EQ(files->info(folder_ / "none").kind, SweepFiles::Kind::missing);
  EXPECT_EQ(files->read_start(path, 2).value(), "on");
  EXPECT_FALSE(files->read_start(folder_ / "none", 2).ok());
  EXPECT_EQ(files->list(folder_).value(), std::vector<std::string>{"a"});
}

}  // namespace
}  // namespace finesweep::sweeps
