#include "reports/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/analysis.h"
#include "reports/comparison_table.h"
#include "reports/json_report.h"
#include "reports/report.h"
#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

RunData small_run(const std::string& label, double accuracy, double seconds) {
  RunBuilder run;
  run.data().plan.swept_paths = {"finetune.method"};
  run.report().select = run.report().metric = "test.accuracy";
  run.report().baseline = "c";
  for (int r : {0, 1})
    run.trial("c", label, r, {label},
              {{"test",
                StepKind::evaluate,
                "same job in both" + std::to_string(r),
                JobState::succeeded,
                {{"accuracy", accuracy + 0.01 * r}, {"seconds", seconds}}}});
  return std::move(run.data());
}

RunData merged(std::vector<NamedRun> runs, const MergeOptions& options = {}) {
  auto result = merge_runs(std::move(runs), options);
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

TEST(Merge, one_table_names_the_sweep_of_each_row) {
  const RunData data = merged({{"one", small_run("LoRA", 0.8, 10)}, {"two", small_run("QLoRA", 0.7, 5)}});
  const Analysis analysis = analyze(data);
  const ComparisonTable table = compare(analysis);
  ASSERT_EQ(table.columns.size() >= 3, true);
  EXPECT_EQ(table.columns[1].heading, "sweep");
  ASSERT_EQ(table.rows.size(), 2u);
  EXPECT_EQ(table.rows[0][1].text, "one");
  EXPECT_EQ(table.rows[1][1].text, "two");
  EXPECT_THAT(analysis.configurations[0].best_for, Contains("highest quality"));
  EXPECT_THAT(analysis.configurations[1].best_for, Contains("fastest"));
  EXPECT_THAT(report_text(data, Format::csv), HasSubstr("label,sweep,finetune.method,n,"));
  EXPECT_THAT(report_text(data, Format::markdown), HasSubstr("| configuration | sweep | test accuracy |"));
}

TEST(Merge, the_same_job_measured_twice_is_two_measurements) {
  const RunData data = merged({{"one", small_run("LoRA", 0.8, 10)}, {"two", small_run("LoRA", 0.8, 5)}});
  EXPECT_EQ(data.jobs.size(), 4u);
  const Analysis analysis = analyze(data);
  EXPECT_EQ(analysis.configurations[0].metrics.at("test.seconds").mean, 10);
  EXPECT_EQ(analysis.configurations[1].metrics.at("test.seconds").mean, 5);
  EXPECT_EQ(analysis.configurations[0].label, "LoRA (one)");
  EXPECT_EQ(analysis.configurations[1].label, "LoRA (two)");
}

TEST(Merge, differences_pair_trials_of_one_seed_alone) {
  RunData other = small_run("QLoRA", 0.7, 5);
  const RunData paired = merged({{"one", small_run("LoRA", 0.8, 10)}, {"two", other}});
  const auto difference = analyze(paired).configurations[1].difference;
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->n, 2);
  EXPECT_NEAR(difference->mean, -0.1, 1e-12);
  for (Trial& trial : other.plan.trials) trial.seed += 1000;
  const RunData unpaired = merged({{"one", small_run("LoRA", 0.8, 10)}, {"two", other}});
  EXPECT_FALSE(analyze(unpaired).configurations[1].difference);
}

TEST(Merge, sweeps_that_show_different_metrics_are_compared_by_one_and_it_is_said) {
  const RunData data = merged({{"mixed", mixed_run()}, {"single", single_repeat_run()}});
  EXPECT_EQ(data.plan.report.metric, "test.accuracy");
  EXPECT_THAT(data.remarks, Contains(HasSubstr("mixed test.accuracy, single test.perplexity")));
  EXPECT_THAT(analyze(data).warnings, Contains(HasSubstr("--metric")));
  const RunData chosen = merged({{"mixed", mixed_run()}, {"study", study_run()}}, {.metric = "finetune.loss"});
  EXPECT_EQ(chosen.plan.report.metric, "finetune.loss");
  EXPECT_EQ(chosen.plan.report.goal, Goal::minimize);
  EXPECT_THAT(chosen.remarks, IsEmpty());
  const auto unknown = merge_runs({{"mixed", mixed_run()}}, {.metric = "test.f2"});
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.error().message, HasSubstr("test.accuracy"));
}

TEST(Merge, swept_paths_are_united_and_empty_where_a_sweep_has_none) {
  const RunData data = merged({{"study", study_run()}, {"grid", grid_run()}});
  EXPECT_THAT(data.plan.swept_paths, ElementsAre("sweep", "finetune.method", "finetune.rank", "finetune.alpha",
                                                 "quantize", "benchmark.batch_size", "benchmark.sequence_length"));
  const Trial& last = data.plan.trials.back();
  EXPECT_EQ(last.swept[0], "grid");
  EXPECT_TRUE(last.swept[1].is_null());
  EXPECT_EQ(last.swept[6], 512);
}

TEST(JsonReport, can_be_read_back_as_the_data_it_was_made_from) {
  RunData with_profile = grid_run();
  with_profile.profiles[with_profile.plan.trials[0].steps[1].job] = {
      {"forward", 20, {{"attention", 1.5, 0.5, 40}}}};
  for (const RunData& data : {mixed_run(), single_repeat_run(), study_run(), grid_run(), with_profile}) {
    const std::string text = json_report(analyze(data));
    const auto read = parse_json_report(text);
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(json_report(analyze(*read)), text);
    EXPECT_EQ(terminal_table(*read), terminal_table(data));
    EXPECT_EQ(report_text(*read, Format::csv), report_text(data, Format::csv));
  }
  // Bytes that are no UTF-8 are replaced on the way.
  const RunData hostile_data = hostile_run();
  const std::string hostile = json_report(analyze(hostile_data));
  const auto hostile_read = parse_json_report(hostile);
  ASSERT_TRUE(hostile_read.ok()) << hostile_read.error().message;
  EXPECT_EQ(json_report(analyze(*hostile_read)), hostile);
  EXPECT_FALSE(parse_json_report("{}").ok());
  EXPECT_FALSE(parse_json_report("not json").ok());
  EXPECT_FALSE(parse_json_report(R"({"version": 2})").ok());
}

}  // namespace
}  // namespace finesweep::reports
