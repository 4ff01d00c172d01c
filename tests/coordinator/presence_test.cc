#include "coordinator/presence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Looks every second, as the driver does, until `until`; returns who was lost.
class PresenceTest : public ::testing::Test {
 protected:
  std::vector<int> look_until(Instant until) {
    std::vector<int> all;
    for (; now_ < until; now_ += 1s)
      for (const int rank : presence_.lost(now_)) all.push_back(rank);
    return all;
  }
  Presence presence_{30s};
  Instant now_ = 1s;
};

TEST_F(PresenceTest, a_silent_worker_is_lost_once_after_its_lease) {
  presence_.heard(1, now_);
  presence_.heard(2, now_);
  EXPECT_THAT(look_until(30s), IsEmpty());
  presence_.heard(2, now_);
  EXPECT_THAT(look_until(50s), ElementsAre(1));
  EXPECT_FALSE(presence_.deserted(now_)) << "worker 2 is there";
}

TEST_F(PresenceTest, when_the_last_one_has_been_lost_for_long_nobody_is_left) {
  presence_.heard(1, now_);
  EXPECT_THAT(look_until(60s), ElementsAre(1));
  EXPECT_FALSE(presence_.deserted(now_)) << "it may come back";
  look_until(120s);
  EXPECT_TRUE(presence_.deserted(now_));
  presence_.heard(1, now_);
  EXPECT_FALSE(presence_.deserted(now_));
}

TEST_F(PresenceTest, workers_that_die_before_their_first_word_are_not_waited_for_for_ever) {
  EXPECT_FALSE(presence_.deserted(1000s)) << "before the first look";
  look_until(50s);
  EXPECT_FALSE(presence_.deserted(now_)) << "they may be slow";
  look_until(70s);
  EXPECT_TRUE(presence_.deserted(now_));
  presence_.heard(1, now_);
  EXPECT_FALSE(presence_.deserted(now_));
}

TEST_F(PresenceTest, a_worker_that_left_is_not_lost_and_when_all_have_nobody_is_left) {
  presence_.heard(1, now_);
  EXPECT_THAT(look_until(10s), IsEmpty());
  presence_.left(1);
  EXPECT_THAT(look_until(65s), IsEmpty());
  EXPECT_FALSE(presence_.deserted(now_)) << "another may join";
  EXPECT_THAT(look_until(80s), IsEmpty());
  EXPECT_TRUE(presence_.deserted(now_));
}

TEST_F(PresenceTest, a_coordinator_that_stood_still_blames_nobody) {
  presence_.heard(1, now_);
  look_until(3s);
  now_ = 100s;
  EXPECT_THAT(look_until(120s), IsEmpty());
}

TEST_F(PresenceTest, a_coordinator_that_stood_still_waits_for_those_that_may_have_come_meanwhile) {
  look_until(3s);
  now_ = 100s;
  look_until(120s);
  EXPECT_FALSE(presence_.deserted(now_));
}

}  // namespace
}  // namespace finesweep::coordinator
