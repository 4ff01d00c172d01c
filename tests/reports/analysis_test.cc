#include "reports/analysis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/comparison_table.h"
#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

RunBuilder::StepResult evaluated(const std::string& job, double accuracy) {
  return {"test", StepKind::evaluate, job, JobState::succeeded, {{"accuracy", accuracy}}};
}
RunBuilder::StepResult trained(const std::string& job, double memory, double seconds) {
  return {
      "finetune", StepKind::finetune, job, JobState::succeeded, {{"peak_memory_mb", memory}, {"seconds", seconds}}};
}

const Configuration& find(const Analysis& analysis, const std::string& label) {
  for (const Configuration& configuration : analysis.configurations)
    if (configuration.label == label) return configuration;
  throw std::runtime_error("no configuration " + label);
}

TEST(Analysis, repeats_that_share_a_job_have_one_value_and_no_interval) {
  RunBuilder run;
  for (int r : {0, 1, 2}) run.trial("a", "A", r, {}, {evaluated("shared", 0.5)});
  const Analysis analysis = analyze(run.data());
  const Configuration& a = find(analysis, "A");
  EXPECT_EQ(a.succeeded, 3);
  EXPECT_EQ(a.metrics.at("test.accuracy").n, 1);
  EXPECT_FALSE(a.metrics.at("test.accuracy").deviation.has_value());
}

TEST(Analysis, differences_pair_the_repeats_that_succeeded_in_both) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  run.report().baseline = "base";
  const double base[] = {0.75, 0.80, 0.72, 0.10}, other[] = {0.80, 0.83, 0.79};
  for (int r = 0; r < 4; ++r) run.trial("base", "Base", r, {}, {evaluated("b" + std::to_string(r), base[r])});
  for (int r = 0; r < 3; ++r) run.trial("other", "Other", r, {}, {evaluated("o" + std::to_string(r), other[r])});
  run.trial("other", "Other", 3, {}, {{"test", StepKind::evaluate, "o3", JobState::failed, {}, {}, "broken row"}});
  const Analysis analysis = analyze(run.data());
  EXPECT_FALSE(find(analysis, "Base").difference.has_value());
  const auto& difference = find(analysis, "Other").difference;
  ASSERT_TRUE(difference.has_value());
  EXPECT_EQ(difference->n, 3);
  EXPECT_NEAR(difference->mean, 0.05, 1e-12);
  // scipy 1.17: stats.ttest_rel(other, base[:3]).confidence_interval(0.95)
  EXPECT_NEAR(difference->ci95->low, 0.00031724576499323615, 1e-12);
  EXPECT_NEAR(difference->ci95->high, 0.09968275423500678, 1e-12);
}

TEST(Analysis, a_difference_between_two_shared_jobs_is_one_value) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  run.report().baseline = "base";
  for (int r : {0, 1}) run.trial("base", "Base", r, {}, {evaluated("b", 0.5)});
  for (int r : {0, 1}) run.trial("other", "Other", r, {}, {evaluated("o", 0.75)});
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(find(analysis, "Other").difference->n, 1);
  EXPECT_FALSE(find(analysis, "Other").difference->ci95.has_value());
}

TEST(Analysis, a_dominated_configuration_is_not_pareto_optimal) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  run.trial("a", "A", 0, {}, {trained("fa", 100, 10), evaluated("ea", 0.9)});
  run.trial("b", "B", 0, {}, {trained("fb", 50, 20), evaluated("eb", 0.8)});
  run.trial("c", "C", 0, {}, {trained("fc", 100, 20), evaluated("ec", 0.8)});
  run.trial("d", "D", 0, {}, {trained("fd", 100, 10), evaluated("ed", 0.9)});  // as good as A
  run.trial("e", "E", 0, {}, {trained("fe", 200, 5), evaluated("ee", 0.1)});
  const Analysis analysis = analyze(run.data());
  std::vector<bool> marks;
  for (const Configuration& configuration : analysis.configurations) marks.push_back(configuration.pareto);
  EXPECT_THAT(marks, ElementsAre(true, true, false, true, true));
}

TEST(Analysis, what_only_few_configurations_have_leaves_the_others_comparable) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  const auto packed = [](const std::string& job, double seconds) {
    return RunBuilder::StepResult{"finetune", StepKind::finetune, job, JobState::succeeded, {{"seconds", seconds}}};
  };
  run.trial("a", "A", 0, {}, {packed("fa", 10), evaluated("ea", 0.9)});
  run.trial("b", "B", 0, {}, {packed("fb", 20), evaluated("eb", 0.8)});
  run.trial("c", "C", 0, {}, {trained("fc", 50, 5), evaluated("ec", 0.5)});
  const Analysis analysis = analyze(run.data());
  std::vector<bool> marks;
  for (const Configuration& configuration : analysis.configurations) marks.push_back(configuration.pareto);
  EXPECT_THAT(marks, ElementsAre(true, false, true)) << "by accuracy and time";
}

TEST(Analysis, best_use_cases_name_the_ends_and_the_balance) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  run.trial("a", "A", 0, {}, {trained("fa", 1000, 100), evaluated("ea", 0.90)});
  run.trial("b", "B", 0, {}, {trained("fb", 300, 30), evaluated("eb", 0.88)});
  run.trial("c", "C", 0, {}, {trained("fc", 250, 60), evaluated("ec", 0.50)});
  run.trial("d", "D", 0, {}, {trained("fd", 900, 25), evaluated("ed", 0.40)});
  const Analysis analysis = analyze(run.data());
  EXPECT_THAT(find(analysis, "A").best_for, ElementsAre("highest quality"));
  // Geometric means: B (0.978 * 0.833 * 0.833)^(1/3) = 0.879, C (0.556 * 1 * 0.417)^(1/3) = 0.614.
  EXPECT_THAT(find(analysis, "B").best_for, ElementsAre("best balance"));
  EXPECT_THAT(find(analysis, "C").best_for, ElementsAre("lowest memory"));
  EXPECT_THAT(find(analysis, "D").best_for, ElementsAre("fastest"));
  EXPECT_EQ(analysis.configurations[*analysis.best].label, "A");
}

TEST(Analysis, the_balance_of_a_quality_to_be_minimized_is_best_over_value) {
  RunBuilder run;
  run.report().metric = run.report().select = "test.perplexity";
  run.report().goal = Goal::minimize;
  const auto measured = [](const std::string& job, double perplexity) {
    return RunBuilder::StepResult{
        "test", StepKind::evaluate, job, JobState::succeeded, {{"perplexity", perplexity}}};
  };
  // Ratios to the best of perplexity 20, 100 MB, 10 s and their geometric means:
  run.trial("a", "A", 0, {}, {trained("fa", 400, 40), measured("ea", 20)});  // (1 * 0.25 * 0.25)^(1/3) = 0.397
  run.trial("b", "B", 0, {}, {trained("fb", 100, 40), measured("eb", 50)});  // (0.4 * 1 * 0.25)^(1/3) = 0.464
  run.trial("c", "C", 0, {}, {trained("fc", 150, 10), measured("ec", 80)});  // (0.25 * 0.667 * 1)^(1/3) = 0.550
  run.trial("d", "D", 0, {}, {trained("fd", 160, 12), measured("ed", 25)});  // (0.8 * 0.625 * 0.833)^(1/3) = 0.747
  run.trial("e", "E", 0, {}, {trained("fe", 170, 13), measured("ee", 26)});  // dominated by D
  const Analysis analysis = analyze(run.data());
  EXPECT_THAT(find(analysis, "A").best_for, ElementsAre("highest quality"));
  EXPECT_THAT(find(analysis, "B").best_for, ElementsAre("lowest memory"));
  EXPECT_THAT(find(analysis, "C").best_for, ElementsAre("fastest"));
  EXPECT_THAT(find(analysis, "D").best_for, ElementsAre("best balance"));
  EXPECT_THAT(find(analysis, "E").best_for, IsEmpty());
  std::vector<bool> marks;
  for (const Configuration& configuration : analysis.configurations) marks.push_back(configuration.pareto);
  EXPECT_THAT(marks, ElementsAre(true, true, true, true, false));
}

TEST(Comparison, has_the_other_qualities_sizes_and_each_mode_of_a_benchmark) {
  RunBuilder run;
  run.report().metric = run.report().select = "test.rouge1";
  for (const char* name : {"a", "b"}) {
    const std::string job(name);
    run.trial(name, name, 0, {},
              {{"prune", StepKind::prune, job + "p", JobState::succeeded, {{"sparsity", 0.8}}},
               {"quantize", StepKind::quantize, job + "q", JobState::succeeded, {{"model_mb", 120}}},
               {"test",
                StepKind::evaluate,
                job + "t",
                JobState::succeeded,
                {{"rouge1", 0.3}, {"rougeLsum", 0.2}, {"loss", 1}}},
               {"benchmark",
                StepKind::benchmark,
                job + "b",
                JobState::succeeded,
                {{"forward_ms_mean", 5},
                 {"forward_ms_p99", 6},
                 {"forward_peak_memory_mb", 80},
                 {"generate_samples_per_second_mean", 7},
                 {"generate_samples_per_second_std", 1}}}});
  }
  std::vector<std::string> headings;
  for (const auto& column : compare(analyze(run.data())).columns) headings.push_back(column.heading);
  EXPECT_THAT(headings, ElementsAre("configuration", "test ROUGE-1", "test ROUGE-Lsum", "prune sparsity",
                                    "quantize model size (MB)", "benchmark forward peak memory (MB)",
                                    "benchmark forward time (ms)", "benchmark generate samples/s"));
}

TEST(Analysis, with_a_metric_to_be_minimized_less_is_best) {
  RunBuilder run;
  run.report().metric = run.report().select = "test.accuracy";  // an error rate, say
  run.report().goal = Goal::minimize;
  run.trial("a", "A", 0, {}, {trained("fa", 100, 10), evaluated("ea", 0.4)});
  run.trial("b", "B", 0, {}, {trained("fb", 100, 20), evaluated("eb", 0.1)});
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.configurations[*analysis.best].label, "B");
  EXPECT_THAT(analysis.ranking(), ElementsAre(1, 0));
  EXPECT_THAT(find(analysis, "B").best_for, ElementsAre("highest quality", "best balance"));
  EXPECT_THAT(find(analysis, "A").best_for, ElementsAre("fastest"));
}

TEST(Analysis, the_validation_split_chooses_and_the_test_split_is_shown) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  run.report().select = "validation.accuracy";
  const auto both = [&](const char* name, double validation, double test) {
    run.trial(name, name, 0, {},
              {{"validation",
                StepKind::evaluate,
                std::string(name) + "v",
                JobState::succeeded,
                {{"accuracy", validation}}},
               evaluated(std::string(name) + "t", test)});
  };
  both("a", 0.9, 0.7);
  both("b", 0.8, 0.8);
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.configurations[*analysis.best].label, "a");
  EXPECT_THAT(analysis.ranking(), ElementsAre(1, 0));
  EXPECT_THAT(best_sentence(analysis),
              HasSubstr("Best by validation accuracy (0.9000): a, with test accuracy 0.7000"));
}

TEST(Analysis, a_loss_chooses_downwards_what_is_shown_by_a_score) {
  RunBuilder run;
  run.report() = {.select = "validation.loss", .metric = "test.rougeL", .goal = Goal::maximize, .baseline = ""};
  const auto both = [&](const char* name, double loss, double score) {
    const auto step = [&](const char* split, std::map<std::string, double> metrics) {
      return RunBuilder::StepResult{split, StepKind::evaluate, std::string(name) + split, JobState::succeeded,
                                    std::move(metrics)};
    };
    run.trial(name, name, 0, {}, {step("validation", {{"loss", loss}}), step("test", {{"rougeL", score}})});
  };
  both("a", 2.5, 0.4);
  both("b", 1.5, 0.3);
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.configurations[*analysis.best].label, "b");
  EXPECT_THAT(analysis.best_in("validation.loss"), ElementsAre(1));
  EXPECT_THAT(analysis.best_in("test.rougeL"), ElementsAre(0));
  EXPECT_THAT(analysis.ranking(), ElementsAre(0, 1));
}

TEST(Analysis, a_choice_on_the_test_split_is_warned_about) {
  RunBuilder run;
  run.report().metric = run.report().select = "test.accuracy";
  run.trial("a", "A", 0, {}, {evaluated("ea", 0.9)});
  EXPECT_THAT(analyze(run.data()).warnings, Not(Contains(HasSubstr("test split"))));
  run.report().selects_on_test = true;
  EXPECT_THAT(analyze(run.data()).warnings, Contains(HasSubstr("test split")));
}

TEST(Analysis, a_trial_fails_with_the_first_step_that_failed) {
  RunBuilder run;
  run.trial("a", "A", 0, {},
            {{"finetune", StepKind::finetune, "f", JobState::failed, {}, {}, "out of memory"},
             {"test", StepKind::evaluate, "t", JobState::failed, {}, {}, "needs finetune, which failed"}});
  run.trial("b", "B", 0, {},
            {{"finetune", StepKind::finetune, "g", JobState::cancelled},
             {"test", StepKind::evaluate, "u", JobState::failed, {}, {}, "broken row"}});
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.trials[0].state, JobState::failed);
  EXPECT_EQ(analysis.trials[0].error, "finetune: out of memory");
  EXPECT_EQ(analysis.trials[1].state, JobState::failed);
  EXPECT_EQ(analysis.trials[1].error, "test: broken row");
}

TEST(Analysis, metrics_stand_in_pipeline_order_though_no_trial_has_all_steps) {
  RunBuilder run;
  const auto step = [](const char* name) {
    return RunBuilder::StepResult{name, StepKind::evaluate, name, JobState::succeeded, {{"b", 1}, {"a", 1}}};
  };
  run.trial("a", "A", 0, {}, {step("first"), step("last")});
  run.trial("b", "B", 0, {}, {step("first"), step("middle"), step("last")});
  EXPECT_THAT(analyze(run.data()).metrics,
              ElementsAre("first.a", "first.b", "middle.a", "middle.b", "last.a", "last.b"));
}

TEST(Analysis, equal_labels_are_told_apart) {
  RunBuilder run;
  run.trial("aaaaaaaa", "LoRA", 0, {}, {evaluated("x", 1)});
  run.trial("bbbbbbbb", "LoRA", 0, {}, {evaluated("y", 1)});
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.configurations[0].label, "LoRA (aaaaaaaa)");
  EXPECT_EQ(analysis.configurations[1].label, "LoRA (bbbbbbbb)");
}

TEST(Analysis, a_benchmark_is_preferred_to_training_as_the_cost) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  for (const char* name : {"a", "b"}) {
    const std::string job(name);
    run.trial(name, name, 0, {},
              {trained(job + "f", 10, 10),
               evaluated(job + "e", 0.5),
               {"benchmark",
                StepKind::benchmark,
                job + "b",
                JobState::succeeded,
                {{"generate_ms_mean", 5}, {"generate_peak_memory_mb", 6}}}});
  }
  const Analysis analysis = analyze(run.data());
  EXPECT_EQ(analysis.time, "benchmark.generate_ms_mean");
  EXPECT_EQ(analysis.memory, "benchmark.generate_peak_memory_mb");
}

TEST(Analysis, a_cost_that_most_configurations_lack_is_not_compared) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  const auto evaluated_in = [](const std::string& job, double seconds) {
    return RunBuilder::StepResult{
        "test", StepKind::evaluate, job, JobState::succeeded, {{"accuracy", 0.5}, {"seconds", seconds}}};
  };
  run.trial("a", "A", 0, {}, {evaluated_in("a", 1)});
  run.trial("b", "B", 0, {}, {evaluated_in("b", 2)});
  run.trial("c", "C", 0, {}, {trained("f", 10, 0.5), evaluated_in("c", 3)});
  EXPECT_EQ(analyze(run.data()).time, "test.seconds");
}

TEST(Analysis, a_run_without_report_settings_or_trials_is_no_trouble) {
  RunBuilder empty;
  EXPECT_THAT(analyze(empty.data()).configurations, IsEmpty());
  RunBuilder run;
  run.trial("a", "A", 0, {}, {evaluated("x", 1)});
  const Analysis analysis = analyze(run.data());
  EXPECT_FALSE(analysis.best.has_value());
  EXPECT_THAT(analysis.warnings, IsEmpty());
  EXPECT_EQ(compare(analysis).columns.size(), 1u);
}

}  // namespace
}  // namespace finesweep::reports
