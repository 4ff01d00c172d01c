#include "storage/coordinator_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage/files.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class CoordinatorLockTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(run.create().ok()); }

  /// Under a clock that only moves while acquire() waits.
  LockOptions options() {
    LockOptions with;
    with.now_ms = [this] { return now_ms; };
    with.wait = [this](std::int64_t ms) {
      now_ms += ms;
      if (while_waiting) while_waiting();
    };
    return with;
  }

  /// As another process would have left it.
  void leave(const LockHolder& holder) {
    write_plainly(run.lock_file(), Json{{"host", holder.host},
                                        {"boot_id", holder.boot_id},
                                        {"pid_namespace", holder.pid_namespace},
                                        {"pid", holder.pid},
                                        {"start_time", holder.start_time},
                                        {"slurm_job", holder.slurm_job},
                                        {"heartbeat_ms", holder.heartbeat_ms},
                                        {"token", holder.token}}
                                       .dump());
  }
  LockHolder elsewhere() {
    LockHolder holder = describe_this_process();
    holder.host = "node17";
    holder.boot_id = "another boot";
    holder.pid = 4711;
    holder.slurm_job = "99";
    holder.heartbeat_ms = now_ms;
    return holder;
  }

  TemporaryFolder folder;
  const RunDirectory run{folder / "run"};
  std::int64_t now_ms = 1'700'000'000'000;
  std::function<void()> while_waiting;
};

TEST_F(CoordinatorLockTest, a_second_coordinator_is_told_who_holds_the_directory) {
  const auto held = CoordinatorLock::acquire(run);
  ASSERT_TRUE(held.ok()) << held.error().message;
  const auto second = CoordinatorLock::acquire(run);
  ASSERT_FALSE(second.ok());
  const LockHolder self = describe_this_process();
  EXPECT_THAT(second.error().message, AllOf(HasSubstr(run.path().string()),
                                            HasSubstr("process " + std::to_string(self.pid) + " on " + self.host)));
}

TEST_F(CoordinatorLockTest, once_released_the_directory_is_free) {
  CoordinatorLock::acquire(run)->release();
  EXPECT_FALSE(read_lock(run).has_value());
  const auto again = CoordinatorLock::acquire(run);
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE(again->taken_from().has_value());
}

TEST_F(CoordinatorLockTest, a_killed_holder_on_this_host_is_taken_over_at_once) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto held = CoordinatorLock::acquire(run);
    (void)!::write(ready[1], held.ok() ? "+" : "-", 1);
    ::pause();
    ::_exit(0);
  }
  char answer = '?';
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  ASSERT_EQ(answer, '+');
  EXPECT_THAT(CoordinatorLock::acquire(run).error().message, HasSubstr("process " + std::to_string(child)));
  ::kill(child, SIGKILL);
  // Dead, but not yet reaped: it holds nothing any more.
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  const auto taken = CoordinatorLock::acquire(run);
  ASSERT_TRUE(taken.ok()) << taken.error().message;
  ASSERT_TRUE(taken->taken_from().has_value());
  EXPECT_EQ(taken->taken_from()->pid, child);
  ::waitpid(child, nullptr, 0);
}

TEST_F(CoordinatorLockTest, a_process_that_was_given_the_dead_holders_pid_is_not_taken_for_it) {
  LockHolder holder = describe_this_process();
  holder.start_time -= 1;
  leave(holder);
  EXPECT_TRUE(CoordinatorLock::acquire(run, options()).ok());
}

TEST_F(CoordinatorLockTest, a_living_holder_on_this_host_is_respected_though_the_file_system_has_no_flock) {
  leave(describe_this_process());
  EXPECT_FALSE(CoordinatorLock::acquire(run, options()).ok());
}

TEST_F(CoordinatorLockTest, a_holder_on_another_host_is_respected_for_30_s) {
  leave(elsewhere());
  now_ms += 29'000;
  const auto refused = CoordinatorLock::acquire(run, options());
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("process 4711 on node17 (Slurm job 99)"), HasSubstr("try again in 2 s")));
  now_ms += 1'000;
  const auto taken = CoordinatorLock::acquire(run, options());
  ASSERT_TRUE(taken.ok()) << taken.error().message;
  EXPECT_EQ(taken->taken_from()->host, "node17");
}

TEST_F(CoordinatorLockTest, a_holder_on_another_host_whose_clock_is_behind_is_not_taken_for_dead) {
  LockHolder holder = elsewhere();
  holder.heartbeat_ms -= 3'600'000;
  leave(holder);
  while_waiting = [&] {
    holder.heartbeat_ms += 500;
    leave(holder);
  };
  EXPECT_THAT(CoordinatorLock::acquire(run, options()).error().message, HasSubstr("clock differs"));
}

TEST_F(CoordinatorLockTest, a_holder_that_was_taken_over_learns_it_from_its_heartbeat) {
  auto held = CoordinatorLock::acquire(run, options());
  ASSERT_TRUE(held.ok());
  now_ms += 2'000;
  ASSERT_TRUE(held->heartbeat().ok());
  EXPECT_EQ(read_lock(run)->heartbeat_ms, now_ms);
  leave(elsewhere());
  EXPECT_THAT(held->heartbeat().error().message, HasSubstr("node17"));
  held->release();
  EXPECT_EQ(read_lock(run)->host, "node17") << "the successor's lock was released";
}

TEST_F(CoordinatorLockTest, a_file_with_nonsense_in_it_holds_nobody_back) {
  for (const char* text : {"", "{", "[1]", "{\"token\": 7}", "\x01\x02"}) {
    write_plainly(run.lock_file(), text);
    EXPECT_TRUE(CoordinatorLock::acquire(run, options()).ok()) << text;
  }
}

}  // namespace
}  // namespace finesweep::storage
