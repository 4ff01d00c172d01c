// Every operation of SQLite that changes the disk fails, finds no space, or is the last one before the power fails:
// what was acknowledged is there afterwards, and nothing is there by halves. N rises until the whole life is lived
// without reaching the N-th operation.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "storage/files.h"
#include "storage/store.h"
#include "tests/storage/faulty_vfs.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr int kFaultTrials = 4;  // two jobs each
constexpr std::size_t kFaultBatch = 2;

/// A coordinator's life: opens the store, saves the plan, records results batch by batch; at every second result it
/// closes the store and opens it again, so that the log is folded into the database under the same faults.
class Life {
 public:
  Life(std::filesystem::path folder, Store::Options options) : folder_(std::move(folder)), options_(options) {}

  /// Lives on from what is in the store. The Error: where it had to stop.
  Status live() {
    while (true) {
      if (Status opened = open(); !opened) return opened;
      for (std::size_t batches = 0; batches < 2; ++batches) {
        if (next_ >= jobs_.size()) return close();
        if (Status recorded = record_batch(); !recorded) return recorded;
      }
      if (Status closed = close(); !closed) return closed;
    }
  }
  Status close() {
    store_.reset();
    return {};
  }

  /// Jobs whose results were acknowledged, and those of the batch that was under way.
  std::size_t acknowledged = 0, under_way = 0;

 private:
  Status open() {
    auto store = Store::create_or_open(folder_, options_);
    if (!store) return store.error();
    store_ = std::make_unique<Store>(std::move(*store));
    if (const auto generation = store_->begin_generation("node0", 42, 500); !generation) return generation.error();
    if (!store_->has_plan())
      if (Status saved = store_->save_plan(sample_plan(kFaultTrials), "name: sample\n"); !saved) return saved;
    const auto jobs = store_->load_jobs();
    if (!jobs) return jobs.error();
    jobs_ = *jobs;
    next_ = 0;
    while (next_ < jobs_.size() && jobs_[next_].state == JobState::succeeded) ++next_;
    acknowledged = std::max(acknowledged, next_);
    under_way = std::max(under_way, next_);
    return {};
  }

  Status record_batch() {
    std::vector<Change> changes;
    for (std::size_t i = next_; i < next_ + kFaultBatch; ++i) {
      changes.push_back(started(jobs_[i].id, 1));
      for (Change& change : succeeded(jobs_[i].id, 1, static_cast<double>(i))) changes.push_back(std::move(change));
    }
    under_way = next_ + kFaultBatch;
    if (Status applied = store_->apply(changes); !applied) return applied;
    next_ += kFaultBatch;
    acknowledged = next_;
    return {};
  }

  std::filesystem::path folder_;
  Store::Options options_;
  std::unique_ptr<Store> store_;
  std::vector<StoredJob> jobs_;
  std::size_t next_ = 0;
};

/// What the store holds: whole batches, at least all that was acknowledged.
void check(const std::filesystem::path& folder, Store::Options options, const Life& life) {
  const auto store = Store::create_or_open(folder, options);
  ASSERT_TRUE(store.ok()) << store.error().message;
  if (!store->has_plan()) {
    EXPECT_EQ(life.acknowledged, 0u) << "the plan is lost";
    return;
  }
  EXPECT_EQ(Json(*store->load_plan()), Json(sample_plan(kFaultTrials)));
  const auto jobs = store->load_jobs();
  ASSERT_TRUE(jobs.ok()) << jobs.error().message;
  ASSERT_EQ(jobs->size(), 2u * kFaultTrials);
  std::size_t found = 0;
  while (found < jobs->size() && (*jobs)[found].state == JobState::succeeded) {
    EXPECT_EQ((*jobs)[found].outcome->metrics.at("accuracy"), static_cast<double>(found));
    ++found;
  }
  EXPECT_GE(found, life.acknowledged) << "an acknowledged result is lost";
  EXPECT_LE(found, life.under_way) << "there are results that nobody recorded";
  EXPECT_EQ(found % kFaultBatch, 0u) << "half a batch is there";
  for (std::size_t i = found; i < jobs->size(); ++i) EXPECT_EQ((*jobs)[i].state, JobState::pending);
  std::istringstream events(*read_file(folder / "events.jsonl"));
  std::size_t lines = 0;
  for (std::string line; std::getline(events, line); ++lines) ASSERT_EQ(Json::parse(line)["n"], lines + 1);
  EXPECT_EQ(lines, 3 * found);
}

struct Arena {
  Fault fault;
  bool network;
};

class DatabaseFaults : public testing::TestWithParam<Arena> {};

INSTANTIATE_TEST_SUITE_P(Each, DatabaseFaults,
                         testing::Values(Arena{Fault::io_error, false}, Arena{Fault::io_error, true},
                                         Arena{Fault::no_space, false}, Arena{Fault::no_space, true},
                                         Arena{Fault::torn, false}, Arena{Fault::torn, true}),
                         [](const auto& info) {
                           const char* fault = info.param.fault == Fault::io_error   ? "io_error"
                                               : info.param.fault == Fault::no_space ? "no_space"
                                                                                     : "power_failure";
                           return std::string(fault) +
                                  (info.param.network ? "_rollback_journal" : "_write_ahead_log");
                         });

TEST_P(DatabaseFaults, what_was_acknowledged_is_there_and_nothing_by_halves) {
  const Store::Options options{.network_file_system = GetParam().network};
  FaultyVfs vfs;
  for (int n = 1;; ++n) {
    SCOPED_TRACE("operation " + std::to_string(n));
    TemporaryFolder folder;
    Life life(folder.path(), options);
    vfs.fail_at(n, GetParam().fault);
    const Status lived = life.live();
    (void)life.close();
    const bool failed = vfs.failed();
    vfs.mend(static_cast<unsigned>(n));
    if (!lived) {
      EXPECT_THAT(lived.error().message, HasSubstr((folder / "finesweep.db").string()));
      if (GetParam().fault == Fault::no_space) {
        EXPECT_THAT(lived.error().message, HasSubstr("free space on this file system"));
      }
    }
    check(folder.path(), options, life);
    if (!failed) {
      EXPECT_TRUE(lived.ok()) << lived.error().message;
      EXPECT_EQ(life.acknowledged, 2u * kFaultTrials);
      EXPECT_GT(n, 40) << "too little goes to the disk to show anything";
      break;
    }
    // The next life finishes the sweep.
    Life next(folder.path(), options);
    const Status finished = next.live();
    ASSERT_TRUE(finished.ok()) << finished.error().message;
    check(folder.path(), options, next);
    ASSERT_LT(n, 2000);
    if (HasFailure()) return;
  }
}

TEST(PowerFailure, at_any_moment_loses_nothing_whatever_reached_the_disk) {
  // The same, with other choices of what the disk has kept.
  for (const bool network : {false, true}) {
    const Store::Options options{.network_file_system = network};
    FaultyVfs vfs;
    for (unsigned seed = 1; seed <= 150; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + (network ? ", rollback journal" : ", write-ahead log"));
      TemporaryFolder folder;
      Life life(folder.path(), options);
      vfs.fail_at(1 + static_cast<int>(seed * 2654435761u % 90), Fault::torn);
      (void)life.live();
      (void)life.close();
      vfs.mend(1000 + seed);
      check(folder.path(), options, life);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace finesweep::storage
