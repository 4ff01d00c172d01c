// Would the simulation find what it looks for? Five bugs were planted by hand, each in a copy of the reactor; see
// mutants.cmake. Not built with sanitizers, which would compile all of it five times more.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/coordinator/simulation.h"

namespace finesweep::coordinator_that_accepts_older_attempts {
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);
}
namespace finesweep::coordinator_that_forgets_lost_attempts {
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);
}
namespace finesweep::coordinator_that_acknowledges_too_early {
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);
}
namespace finesweep::coordinator_that_takes_silence_for_an_end {
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);
}
namespace finesweep::coordinator_that_forgets_who_joined {
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);
}

namespace finesweep::coordinator {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

/// What the first history that breaks a promise breaks, with and without the reactor's own sanity_check.
template <typename Simulate>
std::string first_violation(Simulate simulate, bool check_reactor, simulation::Options options = {}) {
  options.check_reactor = check_reactor;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const auto report = simulate(seed, options);
    if (!report.violation.empty()) return "seed " + std::to_string(seed) + ", " + report.violation;
  }
  return "none found";
}

TEST(PlantedBugTest, a_reactor_that_accepts_a_result_of_an_older_attempt_is_found) {
  for (bool check_reactor : {true, false})
    EXPECT_THAT(first_violation(coordinator_that_accepts_older_attempts::simulate, check_reactor),
                AnyOf(HasSubstr("an attempt is published that is not its job's newest"),
                      HasSubstr("a result was acknowledged before it was durable")))
        << "the first one that comes of it: a result that is published, or a crash that is answered";
}

TEST(PlantedBugTest, a_reactor_that_forgets_an_attempt_whose_lease_ran_out_is_found) {
  EXPECT_THAT(first_violation(coordinator_that_forgets_lost_attempts::simulate, true),
              HasSubstr("a job waits for nothing"));
  EXPECT_THAT(first_violation(coordinator_that_forgets_lost_attempts::simulate, false),
              HasSubstr("the sweep does not end although nothing goes wrong any more"));
}

TEST(PlantedBugTest, a_reactor_that_acknowledges_before_the_commit_is_durable_is_found) {
  for (bool check_reactor : {true, false})
    EXPECT_THAT(first_violation(coordinator_that_acknowledges_too_early::simulate, check_reactor),
                HasSubstr("a result was acknowledged before it was durable"));
}

TEST(PlantedBugTest, a_reactor_that_takes_a_heartbeat_for_the_end_of_what_it_has_revoked_is_found) {
  for (bool check_reactor : {true, false})
    EXPECT_THAT(first_violation(coordinator_that_takes_silence_for_an_end::simulate, check_reactor,
                                {.full_of_loans = true}),
                HasSubstr("two jobs ran on one device, which had been lent"));
}

TEST(PlantedBugTest, a_reactor_that_forgets_who_joined_a_pack_is_found) {
  for (bool check_reactor : {true, false})
    EXPECT_THAT(
        first_violation(coordinator_that_forgets_who_joined::simulate, check_reactor, {.full_of_packs = true}),
        HasSubstr("a job was blamed for a crash in a pack whose other jobs are still out"));
}

}  // namespace
}  // namespace finesweep::coordinator
