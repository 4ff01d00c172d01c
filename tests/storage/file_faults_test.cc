// Every call that changes the disk fails once, tears, or finds no space: whatever it was, what is promised about
// files holds. N rises until the whole work is done without reaching the N-th call.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "storage/artifact.h"
#include "storage/checkpoint.h"
#include "storage/control.h"
#include "storage/coordinator_lock.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"
#include "storage/store.h"
#include "tests/storage/faulty_disk.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::AnyOf;
using testing::HasSubstr;

struct Case {
  /// Makes what was there before, in a fresh folder.
  std::function<void(const fs::path& folder)> prepare;
  std::function<Status(const fs::path& folder)> work;
  /// What must hold after work() has returned `status`, whatever happened.
  std::function<void(const fs::path& folder, const Status& status)> check;
};

class FileFaults : public testing::TestWithParam<Fault> {
 protected:
  /// Returns how many calls there were to fail.
  int fail_everywhere(const Case& what) {
    for (int n = 1;; ++n) {
      SCOPED_TRACE("call " + std::to_string(n));
      TemporaryFolder folder;
      FaultyDisk disk(folder.path());
      what.prepare(folder.path());
      disk.fail_at(n, GetParam());
      const Status status = what.work(folder.path());
      const bool failed = disk.failed();
      disk.mend();
      if (!status) {
        EXPECT_THAT(status.error().message, HasSubstr(folder.path().string()));
        if (GetParam() == Fault::no_space) {
          EXPECT_THAT(status.error().message, HasSubstr("free space"));
        }
      }
      what.check(folder.path(), status);
      if (!failed) {
        EXPECT_TRUE(status.ok()) << status.error().message;
        return n - 1;
      }
      // Once the disk works again, so does the work.
      const Status again = what.work(folder.path());
      EXPECT_TRUE(again.ok()) << again.error().message;
      what.check(folder.path(), again);
      if (HasFailure() || n > 500) return n;
    }
  }
  bool may_leave_rubbish() const { return GetParam() == Fault::torn; }
};

INSTANTIATE_TEST_SUITE_P(Each, FileFaults, testing::Values(Fault::io_error, Fault::no_space, Fault::torn),
                         [](const auto& info) {
                           return info.param == Fault::io_error   ? "io_error"
                                  : info.param == Fault::no_space ? "no_space"
                                                                  : "torn";
                         });

std::size_t entries_of(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST_P(FileFaults, a_file_is_the_old_one_or_the_new_one_and_nothing_lies_beside_it) {
  const std::string fresh(100'000, 'n');
  const int calls =
      fail_everywhere({[](const fs::path& folder) { write_plainly(folder / "file", "old"); },
                       [&](const fs::path& folder) { return write_file_atomically(folder / "file", fresh); },
                       [&](const fs::path& folder, const Status& status) {
                         const auto text = read_file(folder / "file");
                         ASSERT_TRUE(text.ok());
                         if (status.ok()) {
                           EXPECT_EQ(*text, fresh);
                         }
                         EXPECT_TRUE(*text == "old" || *text == fresh) << text->size() << " bytes";
                         if (!may_leave_rubbish()) {
                           EXPECT_EQ(entries_of(folder), 1u);
                         }
                       }});
  EXPECT_GE(calls, 5);  // open, write, sync, rename, sync of the folder
}

TEST_P(FileFaults, of_two_checkpoints_the_newer_or_the_older_is_whole) {
  const auto write = [](const fs::path& folder, std::int64_t step) {
    return write_checkpoint(folder / "checkpoints", step, {{"step", step}}, [&](const fs::path& into) -> Status {
      std::error_code failure;
      fs::create_directory(into / "optimizer", failure);
      if (failure) return Error{"cannot create " + into.string() + ": " + failure.message() + "; free space"};
      if (Status written = write_file_atomically(into / "optimizer" / "moments", std::string(20'000, 'm'));
          !written)
        return written;
      return write_file_atomically(into / "weights", std::string(20'000, static_cast<char>('0' + step)));
    });
  };
  const int calls = fail_everywhere({[&](const fs::path& folder) {
                                       for (const std::int64_t step : {1, 2}) ASSERT_TRUE(write(folder, step).ok());
                                     },
                                     [&](const fs::path& folder) { return write(folder, 3); },
                                     [](const fs::path& folder, const Status& status) {
                                       const auto newest = newest_valid_checkpoint({folder / "checkpoints"});
                                       ASSERT_TRUE(newest.has_value());
                                       EXPECT_GE(newest->step, status.ok() ? 3 : 2);
                                       EXPECT_EQ(newest->state, (Json{{"step", newest->step}}));
                                     }});
  EXPECT_GE(calls, 15);
}

TEST_P(FileFaults, an_artifact_is_published_whole_or_not_at_all_and_can_be_made_again) {
  const JobId job = sample_id("finetune 0");
  const int calls = fail_everywhere(
      {[](const fs::path& folder) { ASSERT_TRUE(RunDirectory(folder).create().ok()); },
       [&](const fs::path& folder) -> Status {
         const RunDirectory run(folder);
         if (fs::exists(run.artifact(job))) return {};  // adopted, as by a coordinator that begins
         if (Status prepared = run.prepare_staging({job, 1}); !prepared) return prepared;
         const fs::path staged = run.staged_artifact({job, 1});
         std::error_code failure;
         fs::create_directories(staged / "adapter", failure);
         if (failure) return Error{"cannot create " + staged.string() + "; free space"};
         if (Status written = write_file_atomically(staged / "adapter" / "weights", std::string(30'000, 'w'));
             !written)
           return written;
         Manifest manifest;
         manifest.job = job;
         manifest.attempt = 1;
         manifest.outcome = sample_outcome(0.5);
         if (Status sealed = seal_artifact(staged, manifest); !sealed) return sealed;
         const auto published = run.publish({job, 1});
         if (!published) return published.error();
         return {};
       },
       [&](const fs::path& folder, const Status& status) {
         const RunDirectory run(folder);
         std::vector<std::string> rejected;
         const auto found = run.unrecorded_artifacts([](const JobId&) { return false; }, &rejected);
         EXPECT_THAT(rejected, testing::IsEmpty());
         if (status.ok()) {
           EXPECT_EQ(found.size(), 1u);
         }
         for (const Manifest& manifest : found) EXPECT_EQ(manifest.outcome.metrics.at("accuracy"), 0.5);
       }});
  EXPECT_GE(calls, 10);
}

TEST_P(FileFaults, a_run_directory_that_could_not_be_made_can_be_made_later) {
  fail_everywhere({[](const fs::path&) {},
                   [](const fs::path& folder) { return RunDirectory(folder / "runs/x").create(); },
                   [](const fs::path& folder, const Status& status) {
                     if (status.ok()) {
                       EXPECT_TRUE(fs::is_directory(folder / "runs/x/artifacts"));
                     }
                   }});
}

TEST_P(FileFaults, a_lock_that_could_not_be_written_holds_nobody_back) {
  fail_everywhere({[](const fs::path& folder) { ASSERT_TRUE(RunDirectory(folder).create().ok()); },
                   [](const fs::path& folder) -> Status {
                     LockOptions options;
                     options.self.start_time -= 1;  // to whoever comes next this process has ended
                     auto lock = CoordinatorLock::acquire(RunDirectory(folder), options);
                     if (!lock) return lock.error();
                     return lock->heartbeat();
                   },
                   [](const fs::path&, const Status&) {}});
}

TEST_P(FileFaults, a_request_is_pending_or_answered_and_never_both_or_neither) {
  fail_everywhere({[](const fs::path& folder) {
                     write_plainly(folder / "1.request.json", R"({"kind": "report", "payload": {}})");
                   },
                   [](const fs::path& folder) -> Status {
                     const auto requests = pending_requests(folder);
                     if (!requests) return requests.error();
                     for (const ControlRequest& request : *requests)
                       if (Status told = answer_request(folder, request.id, {{"ok", true}}); !told) return told;
                     return {};
                   },
                   [](const fs::path& folder, const Status& status) {
                     const auto requests = pending_requests(folder);  // clears away what was answered
                     ASSERT_TRUE(requests.ok());
                     const bool answered = fs::exists(folder / "1.answer.json");
                     EXPECT_EQ(requests->size(), answered ? 0u : 1u);
                     if (status.ok()) {
                       EXPECT_TRUE(answered);
                     }
                     if (answered) {
                       EXPECT_EQ(*read_file(folder / "1.answer.json"), R"({"ok":true})");
                     }
                   }});
}

TEST_P(FileFaults, a_status_is_the_old_one_or_the_new_one) {
  for (const auto state : {StatusSnapshot::State::running, StatusSnapshot::State::finished}) {
    StatusSnapshot before, now;
    before.message = "before";
    now.message = "now";
    now.state = state;
    fail_everywhere(
        {[&](const fs::path& folder) { ASSERT_TRUE(write_status(folder / "status.json", before).ok()); },
         [&](const fs::path& folder) { return write_status(folder / "status.json", now); },
         [&](const fs::path& folder, const Status& status) {
           const auto read = read_status(folder / "status.json");
           ASSERT_TRUE(read.ok()) << read.error().message;
           if (status.ok()) {
             EXPECT_EQ(read->message, "now");
           }
           EXPECT_THAT(read->message, AnyOf("before", "now"));
         }});
  }
}

TEST_P(FileFaults, events_that_could_not_be_written_are_there_after_the_next_opening) {
  const auto expected = [](int applied) {
    std::string text;
    for (int n = 1; n <= applied; ++n)
      text += R"({"n":)" + std::to_string(n) + R"(,"time":)" + std::to_string(n) + R"(,"event":"noise"})" + "\n";
    return text;
  };
  for (int n = 1; n <= 4; ++n) {
    TemporaryFolder folder;
    {
      Store store = std::move(*Store::create_or_open(folder.path()));
      ASSERT_TRUE(store.begin_generation("node0", 42, 500).ok());
      FaultyDisk disk(folder / "events.jsonl");
      disk.fail_at(n, GetParam());
      // The results are in the database; the file may lag behind it.
      for (int i = 1; i <= 4; ++i) ASSERT_TRUE(store.apply({EventLogged{{{"event", "noise"}}, i}}).ok());
      EXPECT_TRUE(disk.failed());
      EXPECT_TRUE(expected(4).starts_with(*read_file(folder / "events.jsonl")));
      disk.mend();
      ASSERT_TRUE(store.apply({EventLogged{{{"event", "noise"}}, 5}}).ok());
      EXPECT_EQ(*read_file(folder / "events.jsonl"), expected(5)) << "it catches up where it can";
    }
    ASSERT_TRUE(Store::create_or_open(folder.path()).ok());
    EXPECT_EQ(*read_file(folder / "events.jsonl"), expected(5));
  }
}

TEST(Artifact, one_that_is_cut_at_any_byte_or_has_a_flipped_bit_is_not_taken) {
  TemporaryFolder folder;
  const JobId job = sample_id("finetune 0");
  fs::create_directory(folder / "adapter");
  write_plainly(folder / "adapter" / "weights", "weights of an adapter");
  Manifest manifest;
  manifest.job = job;
  manifest.attempt = 1;
  manifest.outcome = sample_outcome(0.5);
  ASSERT_TRUE(seal_artifact(folder.path(), manifest).ok());
  for (const fs::path& file : {folder / "adapter" / "weights", folder / kManifestName}) {
    const std::string whole = *read_file(file);
    for (std::size_t byte = 0; byte < whole.size(); ++byte) {
      std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
      const auto put = [&](char c) { stream.seekp(static_cast<std::streamoff>(byte)).put(c).flush(); };
      std::string flipped = whole;
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << (byte % 8)));
      put(flipped[byte]);
      const auto taken = verify_artifact(folder.path(), job);
      // White space between the parts of JSON may become other white space; nothing else may change.
      if (taken.ok()) {
        ASSERT_EQ(Json::parse(flipped), Json::parse(whole)) << file << ", byte " << byte;
      }
      put(whole[byte]);
    }
    // The manifest's last byte is a newline, which says nothing.
    const std::size_t longest = whole.size() - (file.filename() == kManifestName ? 2 : 1);
    for (std::size_t bytes = longest + 1; bytes-- > 0;) {
      fs::resize_file(file, bytes);
      ASSERT_FALSE(verify_artifact(folder.path(), job).ok()) << file << " cut to " << bytes;
    }
    write_plainly(file, whole);
  }
  EXPECT_TRUE(verify_artifact(folder.path(), job).ok());
}

}  // namespace
}  // namespace finesweep::storage
