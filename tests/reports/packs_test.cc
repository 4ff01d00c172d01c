// What was measured inside a pack is marked, left empty, and not compared.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/charts.h"
#include "reports/comparison_table.h"
#include "reports/csv.h"
#include "reports/html.h"
#include "reports/json_report.h"
#include "reports/markdown.h"
#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* kNote = "ran beside on the same device, in a pack";

/// Two configurations of one repeat that trained together in a pack of eight; a third trained alone.
RunData packed_run(bool with_one_alone = true) {
  RunBuilder run;
  run.report() = {.select = "", .metric = "evaluate.accuracy", .goal = Goal::maximize, .baseline = ""};
  const auto add = [&](const char* name, double seconds, double accuracy, int pack) {
    std::map<std::string, double> trained{{"loss", 0.5}, {"seconds", seconds}, {"trainable_parameters", 100}};
    if (pack == 1) trained["peak_memory_mb"] = 900;
    const std::string job(name);
    run.trial(name, name, 0, {"lora", 4},
              {{"finetune", StepKind::finetune, job + "f", JobState::succeeded, trained},
               {"evaluate",
                StepKind::evaluate,
                job + "e",
                JobState::succeeded,
                {{"accuracy", accuracy}, {"seconds", 0.5}}}});
    if (pack > 1) run.data().jobs.at(JobId::of(job + "f")).outcome->environment["pack"] = pack;
  };
  add("aaaaaaaa", 12.5, 0.75, 8);
  add("bbbbbbbb", 12.6, 0.8, 8);
  if (with_one_alone) add("cccccccc", 31, 0.85, 1);
  return std::move(run.data());
}

TEST(Packs, a_training_time_is_marked_and_the_mark_explained) {
  const RunData data = packed_run();
  const Analysis analysis = analyze(data);
  EXPECT_EQ(value_text(analysis.configurations[0], "finetune.seconds"), "12.50 †");
  EXPECT_EQ(value_text(analysis.configurations[2], "finetune.seconds"), "31");
  EXPECT_EQ(value_text(analysis.configurations[0], "finetune.loss"), "0.5000");
  EXPECT_EQ(value_text(analysis.configurations[0], "evaluate.seconds"), "0.5000") << "evaluations are not packed";
  const std::string markdown = markdown_report(analysis), html = html_report(analysis, charts_of(analysis));
  for (const std::string& report : {markdown, html}) {
    EXPECT_THAT(report, HasSubstr("12.50 †"));
    EXPECT_THAT(report, HasSubstr(kNote));
    EXPECT_THAT(report, Not(HasSubstr("differ in pack")));
  }
  ComparisonTable table = compare(analysis);
  shorten(table);
  bool is_marked = false;
  for (const auto& row : table.rows)
    for (const auto& cell : row) is_marked |= cell.text == "12.50 †";
  EXPECT_TRUE(is_marked) << "where there is less room too";
}

TEST(Packs, without_one_there_is_no_mark) {
  const RunData data = mixed_run();
  EXPECT_THAT(markdown_report(analyze(data)), Not(HasSubstr(kNote)));
}

TEST(Packs, such_a_time_is_not_compared) {
  const RunData data = packed_run();
  const Analysis analysis = analyze(data);
  EXPECT_EQ(analysis.time, "evaluate.seconds");
  EXPECT_THAT(analysis.best_in("finetune.seconds"), IsEmpty());
  for (const Configuration& configuration : analysis.configurations)
    EXPECT_THAT(configuration.best_for, Not(Contains("fastest")));
  EXPECT_FALSE(mean_and_range(analysis.configurations[0], "finetune.seconds")) << "nor drawn";
  EXPECT_TRUE(mean_and_range(analysis.configurations[2], "finetune.seconds"));
}

TEST(Packs, memory_is_an_empty_cell_also_where_all_trained_in_packs) {
  for (const bool with_one_alone : {true, false}) {
    const RunData data = packed_run(with_one_alone);
    const Analysis analysis = analyze(data);
    EXPECT_THAT(analysis.metrics, Contains("finetune.peak_memory_mb"));
    EXPECT_THAT(results_csv(analysis), HasSubstr("finetune.loss,finetune.peak_memory_mb,finetune.seconds"));
    EXPECT_THAT(results_csv(analysis), HasSubstr(",0.5,,12.5,"));
    EXPECT_EQ(analysis.memory, with_one_alone ? "finetune.peak_memory_mb" : "");
    EXPECT_THAT(summary_csv(analysis), HasSubstr("finetune.peak_memory_mb_mean"));
    markdown_report(analysis, charts_of(analysis));
  }
}

TEST(Packs, report_json_says_which_steps_and_reads_back) {
  const RunData data = packed_run();
  const Analysis analysis = analyze(data);
  const std::string text = json_report(analysis);
  const Json json = Json::parse(text);
  EXPECT_EQ(json["trials"][0]["packs"], (Json{{"finetune", 8}}));
  EXPECT_FALSE(json["trials"][2].contains("packs"));
  EXPECT_EQ(json["configurations"][0]["packed_steps"], (Json{"finetune"}));
  EXPECT_FALSE(json["environment"].contains("pack"));
  const auto back = parse_json_report(text);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(json_report(analyze(*back)), text);
}

}  // namespace
}  // namespace finesweep::reports
