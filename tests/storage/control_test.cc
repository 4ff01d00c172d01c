#include "storage/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/files.h"
#include "storage/status_file.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(Control, a_request_is_taken_and_answered_once) {
  TemporaryFolder folder;
  const std::string id = *put_request(folder.path(), "cancel", {{"trials", {"1a2b.0"}}});
  const auto requests = *pending_requests(folder.path());
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].id, id);
  EXPECT_EQ(requests[0].kind, "cancel");
  EXPECT_EQ(requests[0].payload, (Json{{"trials", {"1a2b.0"}}}));
  EXPECT_FALSE(take_answer(folder.path(), id)->has_value());
  ASSERT_TRUE(answer_request(folder.path(), id, {{"cancelled", 1}}).ok());
  EXPECT_TRUE(pending_requests(folder.path())->empty());
  EXPECT_EQ(**take_answer(folder.path(), id), (Json{{"cancelled", 1}}));
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Control, requests_come_in_the_order_in_which_they_were_put_and_stay_until_answered) {
  TemporaryFolder folder;
  for (const char* id : {"00000000000002-b", "00000000000001-z", "00000000000003-a"})
    write_plainly(folder / (std::string(id) + ".request.json"), R"({"kind": "report", "payload": {}})");
  for (int times = 0; times < 2; ++times) {
    const auto requests = *pending_requests(folder.path());
    ASSERT_EQ(requests.size(), 3u);
    EXPECT_EQ(requests[0].id, "00000000000001-z");
    EXPECT_EQ(requests[2].id, "00000000000003-a");
  }
}

TEST(Control, a_file_that_is_no_request_is_answered_as_such) {
  TemporaryFolder folder;
  write_plainly(folder / "1.request.json", "{");
  write_plainly(folder / "2.request.json", "{\"kind\": 3}");
  write_plainly(folder / "3.request.json", std::string(2 << 20, ' '));
  fs::create_symlink("/etc/passwd", folder / "4.request.json");
  write_plainly(folder / "notes.txt", "not ours");
  write_plainly(folder / ".5.request.json.tmp-1-1", "{");
  EXPECT_TRUE(pending_requests(folder.path())->empty());
  EXPECT_THAT((**take_answer(folder.path(), "1"))["error"], HasSubstr("not valid JSON"));
  EXPECT_THAT((**take_answer(folder.path(), "2"))["error"], HasSubstr("lacks"));
  EXPECT_THAT((**take_answer(folder.path(), "3"))["error"], HasSubstr("larger than 1 MiB"));
  EXPECT_THAT((**take_answer(folder.path(), "4"))["error"], HasSubstr("plain file"));
  EXPECT_TRUE(fs::exists(folder / "notes.txt"));
}

TEST(Control, a_request_that_was_answered_by_a_coordinator_that_died_is_not_carried_out_again) {
  TemporaryFolder folder;
  const std::string id = *put_request(folder.path(), "report", Json::object());
  write_plainly(folder / (id + ".answer.json"), "{}");
  EXPECT_TRUE(pending_requests(folder.path())->empty());
  EXPECT_TRUE(take_answer(folder.path(), id)->has_value());
}

TEST(Control, ids_cannot_lead_out_of_the_folder) {
  TemporaryFolder folder;
  EXPECT_FALSE(take_answer(folder.path(), "../x").ok());
  EXPECT_FALSE(answer_request(folder.path(), "../x", Json::object()).ok());
  EXPECT_FALSE(withdraw_request(folder.path(), "").ok());
}

TEST(Control, a_request_can_be_withdrawn) {
  TemporaryFolder folder;
  const std::string id = *put_request(folder.path(), "report", Json::object());
  ASSERT_TRUE(withdraw_request(folder.path(), id).ok());
  EXPECT_TRUE(pending_requests(folder.path())->empty());
}

TEST(Control, answers_that_nobody_fetches_go_after_a_day) {
  TemporaryFolder folder;
  write_plainly(folder / "old.answer.json", "{}");
  write_plainly(folder / "new.answer.json", "{}");
  fs::last_write_time(folder / "old.answer.json", fs::file_time_type::clock::now() - std::chrono::hours(25));
  tidy_control(folder.path());
  EXPECT_FALSE(fs::exists(folder / "old.answer.json"));
  EXPECT_TRUE(fs::exists(folder / "new.answer.json"));
}

StatusSnapshot sample_status() {
  StatusSnapshot status;
  status.sweep = "sample";
  status.state = StatusSnapshot::State::interrupted;
  status.exit_code = 3;
  status.message = "stopped by Ctrl-C";
  status.jobs = {1, 2, 3, 4, 5};
  status.trials = {6, 7, 8, 9, 10};
  status.workers = {
      {1, "node1", "cpu", AttemptKey{sample_id("x"), 2}, "finetune lora r8", {5, 10, "training", 0.5}},
      {2, "node2", "cuda:0", std::nullopt, "", {}}};
  status.host = "node0";
  status.pid = 42;
  status.slurm_job = "99";
  status.started_ms = 1000;
  status.heartbeat_ms = 2000;
  status.seconds_left = 12.5;
  return status;
}

TEST(StatusFile, a_snapshot_comes_back_as_it_was_written) {
  TemporaryFolder folder;
  for (const auto state : {StatusSnapshot::State::interrupted, StatusSnapshot::State::running}) {
    StatusSnapshot status = sample_status();
    status.state = state;
    ASSERT_TRUE(write_status(folder / "status.json", status).ok());
    const Result<StatusSnapshot> read = read_status(folder / "status.json");
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(Json(*read), Json(status));
    EXPECT_EQ(read->workers[0].attempt->number, 2);
    EXPECT_EQ(read->jobs.total(), 15);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(StatusFile, a_running_sweep_looks_dead_after_15_s_without_heartbeat) {
  StatusSnapshot status;
  status.heartbeat_ms = 100'000;
  EXPECT_FALSE(looks_dead(status, 115'000));
  EXPECT_TRUE(looks_dead(status, 115'001));
  status.state = StatusSnapshot::State::finished;
  EXPECT_FALSE(looks_dead(status, 200'000));
}

TEST(StatusFile, what_is_no_status_is_an_error) {
  TemporaryFolder folder;
  EXPECT_FALSE(read_status(folder / "status.json").ok());
  write_plainly(folder / "status.json", R"({"version": 9})");
  EXPECT_THAT(read_status(folder / "status.json").error().message, HasSubstr("version 9"));
}

}  // namespace
}  // namespace finesweep::storage
