#include "coordinator/find_trial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep::coordinator {
namespace {

using ::testing::HasSubstr;

Plan plan() {
  Plan plan;
  for (const auto& [name, label] : {std::pair{"1a2b3c4d.0", "LoRA"}, std::pair{"1a2b3c4d.1", "LoRA"},
                                    std::pair{"1a9f0000.0", "IA3"}, std::pair{"77777777.0", "1a"}}) {
    Trial trial;
    trial.name = name;
    trial.label = label;
    plan.trials.push_back(trial);
  }
  return plan;
}

TEST(FindTrial, a_name_the_beginning_of_one_or_a_label_is_enough_where_it_means_one) {
  const Plan plan = coordinator::plan();
  EXPECT_EQ((*find_trial(plan, "1a2b3c4d.1"))->name, "1a2b3c4d.1");
  EXPECT_EQ((*find_trial(plan, "1a9"))->name, "1a9f0000.0");
  EXPECT_EQ((*find_trial(plan, "IA3"))->name, "1a9f0000.0");
  EXPECT_EQ((*find_trial(plan, "1a"))->name, "77777777.0");  // a whole label goes before beginnings of names
}

TEST(FindTrial, what_means_several_or_none_lists_them) {
  const Plan plan = coordinator::plan();
  const auto several = find_trial(plan, "LoRA");
  ASSERT_FALSE(several.ok());
  EXPECT_THAT(several.error().message, HasSubstr("means 2 trials"));
  EXPECT_THAT(several.error().message, HasSubstr("1a2b3c4d.1  LoRA"));
  const auto none = find_trial(plan, "QLoRA");
  ASSERT_FALSE(none.ok());
  EXPECT_THAT(none.error().message, HasSubstr("no trial 'QLoRA'"));
  EXPECT_THAT(none.error().message, HasSubstr("77777777.0  1a"));
  EXPECT_FALSE(find_trial(plan, "").ok());
}

}  // namespace
}  // namespace finesweep::coordinator
