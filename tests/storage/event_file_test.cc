#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/files.h"
#include "storage/store.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

std::vector<Json> events_in(const std::filesystem::path& file) {
  std::vector<Json> events;
  std::istringstream lines(*read_file(file));
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
  return events;
}

class EventFileTest : public testing::Test {
 protected:
  void SetUp() override {
    Store store = open();
    ASSERT_TRUE(store.begin_generation("node0", 42, 500).ok());
    ASSERT_TRUE(store.save_plan(sample_plan(1), "").ok());
    ASSERT_TRUE(store.apply({EventLogged{{{"event", "worker_joined"}, {"worker", 1}}, 900}, started(job, 1)}).ok());
    ASSERT_TRUE(store.apply(succeeded(job, 1)).ok());
  }
  Store open() { return std::move(*Store::create_or_open(folder.path())); }

  TemporaryFolder folder;
  const std::filesystem::path file = folder / "events.jsonl";
  const JobId job = sample_id("finetune 0");
};

TEST_F(EventFileTest, every_state_change_is_a_numbered_line) {
  const auto events = events_in(file);
  ASSERT_EQ(events.size(), 4u);
  for (std::size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["n"], i + 1);
  EXPECT_EQ(events[0]["event"], "worker_joined");
  EXPECT_EQ(events[1], (Json{{"n", 2},
                             {"time", 1000},
                             {"event", "attempt_started"},
                             {"job", job},
                             {"attempt", 1},
                             {"worker", 1},
                             {"host", "node1"}}));
  EXPECT_EQ(events[3]["event"], "job_succeeded");
  EXPECT_EQ(events[3]["metrics"]["accuracy"], 0.5);
}

TEST_F(EventFileTest, a_file_cut_at_any_byte_is_whole_again_after_opening) {
  const std::string whole = *read_file(file);
  for (std::size_t length = 0; length < whole.size(); length += 7) {
    write_plainly(file, whole.substr(0, length));
    (void)open();
    ASSERT_EQ(*read_file(file), whole) << "cut to " << length;
  }
}

TEST_F(EventFileTest, a_file_that_says_something_else_is_written_anew) {
  const std::string whole = *read_file(file);
  write_plainly(file, whole + "{\"n\":99}\n{\"n\"");
  (void)open();
  EXPECT_EQ(*read_file(file), whole);
  std::string flipped = whole;
  flipped[whole.size() - 5] ^= 1;
  write_plainly(file, flipped);
  (void)open();
  EXPECT_EQ(*read_file(file), whole);
  std::filesystem::remove(file);
  (void)open();
  EXPECT_EQ(*read_file(file), whole);
}

TEST_F(EventFileTest, a_refused_change_leaves_no_event_and_no_gap) {
  Store store = open();
  ASSERT_TRUE(store.begin_generation("node0", 43, 600).ok());
  EXPECT_FALSE(store.apply({EventLogged{{{"event", "noise"}}, 1}, started(job, 2)}).ok());
  ASSERT_TRUE(store.apply({EventLogged{{{"event", "sweep_finished"}}, 3000}}).ok());
  const auto events = events_in(file);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[4], (Json{{"n", 5}, {"time", 3000}, {"event", "sweep_finished"}}));
}

}  // namespace
}  // namespace finesweep::storage
