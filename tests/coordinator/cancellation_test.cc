#include "coordinator/cancellation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace finesweep::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Job job(const std::string& name, const std::vector<std::string>& inputs = {}) {
  Job job;
  job.id = JobId::of(name);
  for (const std::string& input : inputs) job.inputs.push_back(JobId::of(input));
  return job;
}

Trial trial(const std::string& name, const std::string& label, const std::vector<std::string>& jobs) {
  Trial trial;
  trial.name = name;
  trial.label = label;
  for (const std::string& step : jobs) trial.steps.push_back({step, StepKind::finetune, JobId::of(step)});
  return trial;
}

/// A teacher that no trial names among its steps; two repeats of A and one trial of B on it; C on its own; D, whose
/// one job is A's as well.
class CancellationTest : public ::testing::Test {
 protected:
  CancellationTest() {
    plan_.jobs = {job("teacher"), job("a0", {"teacher"}), job("a1", {"teacher"}), job("b", {"teacher"}), job("c")};
    plan_.trials = {trial("aaaa0000.0", "A", {"a0"}), trial("aaaa0000.1", "A", {"a1"}),
                    trial("bbbb0000.0", "B", {"b"}), trial("cccc0000.0", "C", {"c"}),
                    trial("dddd0000.0", "D", {"a0"})};
  }
  Cancellation cancel(const std::vector<std::string>& wanted) {
    return plan_cancellation(plan_, wanted, [this](const JobId& id) {
      const auto found = phases_.find(id);
      return found == phases_.end() ? JobPhase::waiting : found->second;
    });
  }
  void set(const std::string& name, JobPhase phase) { phases_[JobId::of(name)] = phase; }
  static std::vector<JobId> ids(const std::vector<std::string>& names) {
    std::vector<JobId> ids;
    for (const std::string& name : names) ids.push_back(JobId::of(name));
    return ids;
  }
  static std::vector<std::string> names(const Json& list) {
    std::vector<std::string> names;
    for (const Json& entry : list) names.push_back(entry.at("trial").get<std::string>());
    return names;
  }

  Plan plan_;
  std::map<JobId, JobPhase> phases_;
};

TEST_F(CancellationTest, nothing_named_means_all_in_the_order_of_the_plan) {
  const auto all = cancel({});
  EXPECT_EQ(all.jobs, ids({"teacher", "a0", "a1", "b", "c"}));
  EXPECT_EQ(all.answer.at("cancelled").size(), 5u);
  EXPECT_TRUE(all.answer.at("ok").get<bool>());
}

TEST_F(CancellationTest, what_another_trial_needs_stays) {
  const auto b = cancel({"bbbb"});
  EXPECT_EQ(b.jobs, ids({"b"})) << "A goes on with the teacher";
  EXPECT_THAT(names(b.answer.at("cancelled")), ElementsAre("bbbb0000.0"));
}

TEST_F(CancellationTest, what_is_shared_goes_with_the_last_that_needs_it) {
  set("b", JobPhase::cancelled);
  set("a1", JobPhase::failed);
  const auto rest = cancel({"aaaa0000.0", "D"});
  EXPECT_EQ(rest.jobs, ids({"teacher", "a0"}));
}

TEST_F(CancellationTest, a_label_means_all_repeats) {
  EXPECT_THAT(names(cancel({"A"}).answer.at("cancelled")), ElementsAre("aaaa0000.1"));
  EXPECT_THAT(names(cancel({"A", "D"}).answer.at("cancelled")),
              ElementsAre("aaaa0000.0", "aaaa0000.1", "dddd0000.0"));
}

TEST_F(CancellationTest, a_trial_of_which_others_need_everything_goes_on_and_says_so) {
  const auto d = cancel({"D"});
  EXPECT_THAT(d.jobs, IsEmpty());
  EXPECT_THAT(names(d.answer.at("shared")), ElementsAre("dddd0000.0"));
}

TEST_F(CancellationTest, what_is_over_says_how_it_ended) {
  set("c", JobPhase::succeeded);
  set("b", JobPhase::failed);
  const auto over = cancel({"C", "B"});
  EXPECT_THAT(over.jobs, IsEmpty());
  ASSERT_EQ(over.answer.at("over").size(), 2u);
  EXPECT_EQ(over.answer.at("over")[0].at("state"), "failed");
  EXPECT_EQ(over.answer.at("over")[1].at("state"), "succeeded");
  EXPECT_TRUE(over.answer.at("ok").get<bool>());
}

TEST_F(CancellationTest, a_finished_part_of_a_trial_is_kept) {
  set("teacher", JobPhase::succeeded);
  EXPECT_EQ(cancel({}).jobs, ids({"a0", "a1", "b", "c"}));
}

TEST_F(CancellationTest, what_names_nothing_is_told_and_the_rest_is_done) {
  const auto some = cancel({"nonesuch", "aaaa", "cccc"});
  EXPECT_EQ(some.jobs, ids({"c"}));
  EXPECT_FALSE(some.answer.at("ok").get<bool>());
  EXPECT_THAT(names(some.answer.at("unknown")), ElementsAre("nonesuch", "aaaa")) << "the second one means two";
}

}  // namespace
}  // namespace finesweep::coordinator
