#include "storage/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <limits>

#include "storage/files.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// A store with a plan of `trials` trials and a generation.
Store begun_store(const fs::path& folder, int trials = 2, Store::Options options = {}) {
  Store store = std::move(*Store::create_or_open(folder, options));
  EXPECT_TRUE(store.begin_generation("node0", 42, 500).ok());
  EXPECT_TRUE(store.save_plan(sample_plan(trials), "name: sample\n").ok());
  return store;
}

StoredJob find(const Store& store, const JobId& id) {
  const std::vector<StoredJob> jobs = *store.load_jobs();
  for (const StoredJob& job : jobs)
    if (job.id == id) return job;
  ADD_FAILURE() << "no such job";
  return {};
}

/// Runs SQL behind the store's back.
void execute(const fs::path& database, const std::string& sql) {
  sqlite3* handle = nullptr;
  ASSERT_EQ(sqlite3_open(database.c_str(), &handle), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(handle);
  sqlite3_close(handle);
}

void expect_ok(const Status& status) {
  EXPECT_TRUE(status.ok()) << status.error().message;
}

const JobId kFirst = sample_id("finetune 0");
const JobId kSecond = sample_id("evaluate 0");

TEST(Store, a_plan_comes_back_as_it_was_saved) {
  TemporaryFolder folder;
  const Plan plan = sample_plan(5);
  begun_store(folder.path(), 5);
  const Store store = std::move(*Store::create_or_open(folder.path()));
  EXPECT_EQ(Json(*store.load_plan()), Json(plan));
  EXPECT_EQ(*store.load_sweep_text(), "name: sample\n");
  const auto jobs = *store.load_jobs();
  ASSERT_EQ(jobs.size(), plan.jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_EQ(jobs[i].id, plan.jobs[i].id);
    EXPECT_EQ(jobs[i].state, JobState::pending);
    EXPECT_TRUE(jobs[i].in_plan);
  }
}

TEST(Store, a_new_run_directory_holds_no_sweep) {
  TemporaryFolder folder;
  const Store store = std::move(*Store::create_or_open(folder.path()));
  EXPECT_FALSE(store.has_plan());
  EXPECT_THAT(store.load_plan().error().message, HasSubstr("holds no sweep yet"));
}

TEST(Store, a_result_comes_back_with_every_number_unchanged) {
  TemporaryFolder folder;
  {
    Store store = begun_store(folder.path());
    expect_ok(store.apply({started(kFirst, 1)}));
    EXPECT_EQ(find(store, kFirst).state, JobState::running);
    expect_ok(store.apply(succeeded(kFirst, 1, 0.1 + 0.2)));
  }
  const StoredJob job = find(*Store::create_or_open(folder.path()), kFirst);
  EXPECT_EQ(job.state, JobState::succeeded);
  EXPECT_EQ(job.attempts, 1);
  ASSERT_TRUE(job.outcome.has_value());
  EXPECT_EQ(Json(*job.outcome), Json(sample_outcome(0.1 + 0.2)));
}

TEST(Store, a_result_of_an_older_attempt_is_refused_and_nothing_of_its_batch_stays) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(
      store.apply({started(kFirst, 1), AttemptEnded{{kFirst, 1}, AttemptEnd::lost, "", 1500}, started(kFirst, 2)}));
  std::vector<Change> late{started(kSecond, 1)};
  for (Change& change : succeeded(kFirst, 1)) late.push_back(std::move(change));
  const Status refused = store.apply(late);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("result of attempt 1"), HasSubstr("newest attempt is 2")));
  EXPECT_EQ(find(store, kSecond).state, JobState::pending);
  EXPECT_EQ(find(store, kFirst).state, JobState::running);
  expect_ok(store.apply(succeeded(kFirst, 2)));
  expect_ok(store.apply({started(kSecond, 1)}));
}

TEST(Store, a_job_has_one_result) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(store.apply({started(kFirst, 1)}));
  expect_ok(store.apply(succeeded(kFirst, 1, 0.25)));
  EXPECT_FALSE(store.apply(succeeded(kFirst, 1, 0.75)).ok());
  EXPECT_FALSE(store.apply({started(kFirst, 2)}).ok());
  EXPECT_FALSE(store.apply({JobFailed{kFirst, "late", 3000}}).ok());
  EXPECT_EQ(find(store, kFirst).outcome->metrics.at("accuracy"), 0.25);
}

TEST(Store, attempt_numbers_only_rise) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(store.apply({started(kFirst, 3)}));
  EXPECT_FALSE(store.apply({started(kFirst, 3)}).ok());
  EXPECT_FALSE(store.apply({started(kFirst, 2)}).ok());
  EXPECT_FALSE(store.apply({AttemptEnded{{kFirst, 4}, AttemptEnd::lost, "", 1}}).ok());
}

TEST(Store, failures_counters_and_resets_are_kept) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(store.apply({started(kFirst, 1), AttemptEnded{{kFirst, 1}, AttemptEnd::failed, "NaN in step 3", 1500},
                         JobCounters{kFirst, 1, 2}}));
  EXPECT_EQ(find(store, kFirst).state, JobState::pending);
  EXPECT_EQ(find(store, kFirst).failures, 1);
  EXPECT_EQ(find(store, kFirst).losses, 2);
  expect_ok(store.apply({JobFailed{kFirst, "NaN in step 3", 1600}, JobCancelled{kSecond, "asked for", 1600}}));
  EXPECT_EQ(find(store, kFirst).error, "NaN in step 3");
  EXPECT_EQ(find(store, kSecond).state, JobState::cancelled);
  expect_ok(store.apply({JobReset{kFirst, 1700}}));
  const StoredJob again = find(store, kFirst);
  EXPECT_EQ(again.state, JobState::pending);
  EXPECT_EQ(again.failures + again.losses, 0);
  EXPECT_EQ(again.attempts, 1);
  EXPECT_FALSE(store.apply({JobReset{kFirst, 1800}}).ok());
}

TEST(Store, an_older_attempt_that_ends_does_not_disturb_the_newer_one) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(store.apply({started(kFirst, 1), started(kFirst, 2)}));
  expect_ok(store.apply({AttemptEnded{{kFirst, 1}, AttemptEnd::superseded, "", 1500}}));
  EXPECT_EQ(find(store, kFirst).state, JobState::running);
}

TEST(Store, jobs_of_an_earlier_plan_keep_their_results) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path(), 3);
  expect_ok(store.apply({started(kFirst, 1)}));
  expect_ok(store.apply(succeeded(kFirst, 1)));
  Plan changed = sample_plan(3);
  changed.trials.erase(changed.trials.begin());
  changed.jobs.erase(changed.jobs.begin(), changed.jobs.begin() + 2);
  expect_ok(store.save_plan(changed, "name: changed\n"));
  EXPECT_EQ(Json(*store.load_plan()), Json(changed));
  EXPECT_FALSE(find(store, kFirst).in_plan);
  EXPECT_TRUE(find(store, kFirst).outcome.has_value());
  EXPECT_EQ(store.load_jobs()->front().id, changed.jobs.front().id);
  expect_ok(store.save_plan(sample_plan(4), "name: sample\n"));
  EXPECT_EQ(Json(*store.load_plan()), Json(sample_plan(4)));
  EXPECT_EQ(find(store, kFirst).state, JobState::succeeded);
  EXPECT_TRUE(find(store, kFirst).in_plan);
}

TEST(Store, a_coordinator_that_was_taken_over_cannot_write_any_more) {
  TemporaryFolder folder;
  Store paused = begun_store(folder.path());
  expect_ok(paused.apply({started(kFirst, 1)}));
  Store successor = std::move(*Store::create_or_open(folder.path()));
  EXPECT_EQ(*successor.begin_generation("node1", 43, 600), 2);
  const Status refused = paused.apply(succeeded(kFirst, 1));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("another coordinator has taken over"));
  EXPECT_FALSE(paused.save_plan(sample_plan(1), "").ok());
  expect_ok(successor.apply(succeeded(kFirst, 1)));
}

TEST(Store, a_change_about_a_job_that_was_never_planned_is_refused) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  EXPECT_THAT(store.apply({JobFailed{sample_id("unknown"), "", 1}}).error().message,
              HasSubstr("was never planned"));
}

TEST(Store, a_database_of_a_newer_finesweep_says_by_which_it_was_written) {
  TemporaryFolder folder;
  begun_store(folder.path());
  execute(folder / "finesweep.db",
          "PRAGMA user_version=7; UPDATE meta SET value='finesweep 3.1.4' WHERE key='written_by'");
  for (const auto& message :
       {Store::create_or_open(folder.path()).error().message, Store::open_read_only(folder.path()).error().message})
    EXPECT_THAT(message, AllOf(HasSubstr("finesweep 3.1.4"), HasSubstr("schema 7"), HasSubstr("use that version")));
}

TEST(Store, a_file_that_is_no_database_of_ours_is_left_alone) {
  TemporaryFolder folder;
  execute(folder / "finesweep.db", "CREATE TABLE shopping(item TEXT)");
  const std::string before = *read_file(folder / "finesweep.db");
  EXPECT_THAT(Store::create_or_open(folder.path()).error().message, HasSubstr("is not a database of finesweep"));
  EXPECT_EQ(*read_file(folder / "finesweep.db"), before);
  write_plainly(folder / "finesweep.db", std::string(5000, 'x'));
  EXPECT_THAT(Store::create_or_open(folder.path()).error().message, HasSubstr("is not a database of finesweep"));
}

TEST(Store, on_a_network_file_system_one_process_has_it_and_there_is_no_write_ahead_log) {
  TemporaryFolder folder;
  {
    Store store = begun_store(folder.path(), 2, {.network_file_system = true});
    expect_ok(store.apply({started(kFirst, 1)}));
    EXPECT_FALSE(fs::exists(folder / "finesweep.db-wal"));
    sqlite3* other = nullptr;
    ASSERT_EQ(sqlite3_open((folder / "finesweep.db").c_str(), &other), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(other, "SELECT count(*) FROM jobs", nullptr, nullptr, nullptr), SQLITE_BUSY);
    sqlite3_close(other);
  }
  Store local = std::move(*Store::create_or_open(folder.path(), {.network_file_system = false}));
  EXPECT_TRUE(fs::exists(folder / "finesweep.db-wal"));
  EXPECT_EQ(find(local, kFirst).state, JobState::running);
}

TEST(Store, a_store_that_is_open_for_reading_changes_nothing) {
  TemporaryFolder folder;
  begun_store(folder.path());
  Store store = std::move(*Store::open_read_only(folder.path()));
  EXPECT_EQ(store.load_plan()->trials.size(), 2u);
  EXPECT_FALSE(store.apply({started(kFirst, 1)}).ok());
  EXPECT_FALSE(store.save_plan(sample_plan(1), "").ok());
  EXPECT_FALSE(store.begin_generation("node", 1, 1).ok());
}

TEST(Store, a_folder_without_a_run_is_named_when_it_is_read) {
  TemporaryFolder folder;
  EXPECT_THAT(Store::open_read_only(folder.path()).error().message, HasSubstr("holds no run"));
  EXPECT_FALSE(fs::exists(folder / "finesweep.db"));
}

TEST(Store, numbers_that_are_not_finite_are_left_out) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  Outcome outcome = sample_outcome(0.5);
  outcome.metrics["loss"] = std::numeric_limits<double>::quiet_NaN();
  outcome.history.push_back({2.0, 30, "loss", std::numeric_limits<double>::infinity()});
  expect_ok(store.apply({started(kFirst, 1), JobSucceeded{{kFirst, 1}, outcome, 2000}}));
  EXPECT_EQ(Json(*find(store, kFirst).outcome), Json(sample_outcome(0.5)));
}

TEST(Store, messages_that_are_no_utf8_are_kept_readable) {
  TemporaryFolder folder;
  Store store = begun_store(folder.path());
  expect_ok(store.apply({JobFailed{kFirst, "row \xff of 'é'", 1}}));
  EXPECT_EQ(find(store, kFirst).error, "row \xEF\xBF\xBD of 'é'");
}

}  // namespace
}  // namespace finesweep::storage
