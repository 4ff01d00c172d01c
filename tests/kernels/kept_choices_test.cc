#include "worker/kernels/gpu/kept_choices.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace finesweep::worker::gpu {
namespace {

namespace fs = std::filesystem;

KeptChoices::Question question(std::int64_t number) {
  KeptChoices::Question q{};
  q.front() = number;
  q.back() = -number;
  return q;
}
KeptChoices::Answer answer(std::uint64_t number) {
  KeptChoices::Answer a{};
  a.front() = number;
  a.back() = ~number;
  return a;
}

constexpr std::uintmax_t kRecord = (13 + 8 + 1) * 8;

class KeptChoicesTest : public testing::Test {
 protected:
  KeptChoicesTest() { fs::remove_all(folder_); }
  ~KeptChoicesTest() override { fs::remove_all(folder_); }

  const fs::path folder_ =
      fs::path(testing::TempDir()) /
      (std::string("kept_choices_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  const fs::path file_ = folder_ / "not there yet" / "products";
};

TEST_F(KeptChoicesTest, another_process_finds_what_one_has_added) {
  KeptChoices first(file_), second(file_);
  EXPECT_FALSE(first.find(question(1)));
  EXPECT_FALSE(second.find(question(1)));
  first.add(question(1), answer(10));
  EXPECT_EQ(first.find(question(1)), answer(10));
  EXPECT_EQ(second.find(question(1)), answer(10));
  second.add(question(2), answer(20));
  EXPECT_EQ(first.find(question(2)), answer(20));
  KeptChoices third(file_);
  EXPECT_EQ(third.find(question(1)), answer(10));
  EXPECT_EQ(third.find(question(2)), answer(20));
  EXPECT_FALSE(third.find(question(3)));
}

TEST_F(KeptChoicesTest, the_first_answer_counts) {
  KeptChoices first(file_), second(file_);
  first.add(question(1), answer(10));
  second.add(question(1), answer(11));
  EXPECT_EQ(second.find(question(1)), answer(10));
  EXPECT_EQ(fs::file_size(file_), kRecord);
}

TEST_F(KeptChoicesTest, a_file_that_is_cut_or_changed_is_begun_anew) {
  for (const bool cut : {true, false}) {
    for (std::uintmax_t at = 0; at < 2 * kRecord; at += 7) {
      SCOPED_TRACE(testing::Message() << (cut ? "cut at " : "changed at ") << at);
      fs::remove(file_);
      {
        KeptChoices choices(file_);
        choices.add(question(1), answer(10));
        choices.add(question(2), answer(20));
      }
      if (cut) {
        fs::resize_file(file_, at);
      } else {
        std::fstream file(file_, std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(static_cast<std::streamoff>(at));
        const char changed = static_cast<char>(file.get() ^ 4);
        file.seekp(static_cast<std::streamoff>(at));
        file.put(changed);
      }
      KeptChoices choices(file_);
      EXPECT_FALSE(choices.find(question(2)));
      const bool has_first = at >= kRecord;
      EXPECT_EQ(choices.find(question(1)).has_value(), has_first);
      choices.add(question(2), answer(21));
      choices.add(question(3), answer(30));
      KeptChoices again(file_);
      EXPECT_EQ(again.find(question(2)), answer(21));
      EXPECT_EQ(again.find(question(3)), answer(30));
    }
  }
}

TEST_F(KeptChoicesTest, one_that_was_removed_meanwhile_is_no_obstacle) {
  KeptChoices first(file_), second(file_);
  first.add(question(1), answer(10));
  first.add(question(2), answer(20));
  EXPECT_EQ(second.find(question(2)), answer(20));
  fs::remove_all(file_.parent_path());
  EXPECT_FALSE(second.find(question(3)));
  first.add(question(3), answer(30));
  EXPECT_EQ(second.find(question(3)), answer(30));
  EXPECT_EQ(second.find(question(1)), answer(10));
}

TEST_F(KeptChoicesTest, what_cannot_be_written_is_known_to_the_process_itself) {
  for (const fs::path& file : {fs::path(), fs::path("/proc/not/here")}) {
    KeptChoices choices(file);
    choices.add(question(1), answer(10));
    EXPECT_EQ(choices.find(question(1)), answer(10));
  }
}

TEST_F(KeptChoicesTest, it_does_not_grow_for_ever) {
  KeptChoices choices(file_);
  for (std::size_t i = 0; i < KeptChoices::kMost + 5; ++i)
    choices.add(question(static_cast<std::int64_t>(i)), answer(i));
  EXPECT_EQ(fs::file_size(file_), KeptChoices::kMost * kRecord);
  KeptChoices again(file_);
  EXPECT_TRUE(again.find(question(KeptChoices::kMost - 1)));
  EXPECT_FALSE(again.find(question(KeptChoices::kMost)));
}

}  // namespace
}  // namespace finesweep::worker::gpu
