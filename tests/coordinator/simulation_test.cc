#include "tests/coordinator/simulation.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace finesweep::coordinator {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSeedsPerTest = 250;
#else
constexpr int kSeedsPerTest = 10'000;
#endif
constexpr int kTests = 4;

// FINESWEEP_SIMULATION_SEEDS=n: so many seeds instead of as many as fit a test run.
// FINESWEEP_SIMULATION_SEED=s: this one alone, with every step printed.
std::uint64_t seeds_per_test() {
  const char* wanted = std::getenv("FINESWEEP_SIMULATION_SEEDS");
  return wanted ? (std::strtoull(wanted, nullptr, 10) + kTests - 1) / kTests : kSeedsPerTest;
}

struct Totals : simulation::Report {
  void add(const simulation::Report& r) {
    coordinator_lives += r.coordinator_lives - 1;
    for (auto [sum, value] : {std::pair{&committed, r.committed},
                              {&failed, r.failed},
                              {&cancelled, r.cancelled},
                              {&losses, r.losses},
                              {&failures, r.failures},
                              {&thefts, r.thefts},
                              {&interruptions, r.interruptions},
                              {&refused_results, r.refused_results},
                              {&adopted_artifacts, r.adopted_artifacts},
                              {&publish_failures, r.publish_failures},
                              {&isolated, r.isolated},
                              {&packs, r.packs},
                              {&packs_on_cpus, r.packs_on_cpus},
                              {&halved_packs, r.halved_packs},
                              {&members_revoked, r.members_revoked},
                              {&on_several_devices, r.on_several_devices},
                              {&answered_cancellations, r.answered_cancellations},
                              {&joined, r.joined}}) {
      *sum += value;
    }
  }
  bool everything_happened() const {
    for (int happened : {coordinator_lives, committed, failed, cancelled, losses, failures, thefts, interruptions,
                         refused_results, adopted_artifacts, publish_failures, isolated, packs, packs_on_cpus,
                         halved_packs, members_revoked, on_several_devices, answered_cancellations, joined}) {
      if (happened == 0) return false;
    }
    return true;
  }
};

class SimulationTest : public testing::TestWithParam<int> {};

TEST_P(SimulationTest, no_history_breaks_a_promise) {
  Totals totals;
  for (std::uint64_t i = 0; i < seeds_per_test(); ++i) {
    const std::uint64_t seed = GetParam() * std::uint64_t{1'000'000'000} + i;
    const auto report = simulate(seed, {});
    ASSERT_EQ(report.violation, "") << "seed " << seed << "; to see it alone: FINESWEEP_SIMULATION_SEED=" << seed;
    totals.add(report);
  }
  EXPECT_TRUE(seeds_per_test() < 1000 || totals.everything_happened())
      << "the histories are not eventful enough to show anything";
}
INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest, testing::Range(0, kTests));

TEST(OneSimulationTest, one_seed_can_be_seen_alone) {
  const char* wanted = std::getenv("FINESWEEP_SIMULATION_SEED");
  simulation::Options options;
  options.trace = wanted != nullptr;
  EXPECT_EQ(simulate(wanted ? std::strtoull(wanted, nullptr, 10) : 1, options).violation, "");
}

TEST(OneSimulationTest, the_same_seed_gives_the_same_history) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const auto first = simulate(seed, {}), second = simulate(seed, {});
    EXPECT_EQ(first.events, second.events);
    EXPECT_EQ(first.committed, second.committed);
    EXPECT_EQ(first.refused_results, second.refused_results);
  }
}

}  // namespace
}  // namespace finesweep::coordinator
