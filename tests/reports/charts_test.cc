#include "reports/charts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const Chart& chart(const Charts& charts, const std::string& id) {
  for (const Chart& one : charts.charts)
    if (one.id == id) return one;
  throw std::runtime_error("no chart " + id);
}

TEST(Charts, a_swept_number_has_a_line_for_each_value_of_the_other_axes_and_levels_for_those_without_it) {
  const RunData data = study_run();
  const Charts charts = charts_of(analyze(data));
  const Chart& against_rank = chart(charts, "test-accuracy-against-finetune-rank");
  EXPECT_EQ(against_rank.x.label, "finetune.rank (with finetune.alpha)");
  EXPECT_THAT(against_rank.x.ticks, ElementsAre(2, 4, 8));
  EXPECT_TRUE(against_rank.x.is_logarithmic);
  ASSERT_EQ(against_rank.series.size(), 3u);
  EXPECT_EQ(against_rank.series[0].name, "lora");
  EXPECT_EQ(against_rank.series[1].name, "qlora");
  EXPECT_EQ(against_rank.series[2].name, "Full fine-tuning");
  EXPECT_EQ(against_rank.series[2].style, Chart::Style::reference);
  ASSERT_EQ(against_rank.series[0].points.size(), 3u);
  const Chart::Point& point = against_rank.series[0].points[1];
  EXPECT_EQ(point.x, 4);
  EXPECT_NEAR(point.y, 0.865, 1e-12);
  // Repeats at -0.004, 0 and +0.004 around the mean: a deviation of 0.004.
  ASSERT_TRUE(point.y_range);
  EXPECT_NEAR(point.y_range->low, 0.861, 1e-12);
  EXPECT_NEAR(point.y_range->high, 0.869, 1e-12);
  EXPECT_EQ(against_rank.choice, "test accuracy");
  EXPECT_TRUE(against_rank.is_plotted);
}

TEST(Charts, numbers_that_vary_together_have_one_chart) {
  const RunData data = study_run();
  for (const Chart& one : charts_of(analyze(data)).charts)
    EXPECT_THAT(one.id, testing::Not(HasSubstr("alpha"))) << one.id;
}

TEST(Charts, what_was_measured_before_the_number_matters_has_no_chart_against_it) {
  const RunData data = grid_run();
  bool has_time = false;
  for (const Chart& one : charts_of(analyze(data)).charts) {
    EXPECT_THAT(one.id, testing::Not(HasSubstr("perplexity-against"))) << "evaluated once for all batch sizes";
    has_time = has_time || one.id == "benchmark-forward-ms-mean-against-benchmark-batch-size";
  }
  EXPECT_TRUE(has_time);
}

TEST(Charts, the_front_is_what_nothing_beats_in_both) {
  const std::vector<Chart::Point> points{{10, 0.9}, {5, 0.8}, {7, 0.8}, {12, 0.9}, {2, 0.3}, {5, 0.2}, {1, 0.3}};
  // Less of x and more of y is better: 12 costs more than 10 for the same; 7 more than 5; 2 more than 1.
  EXPECT_THAT(front_of(points, -1, 1), ElementsAre(0, 1, 6));
  // Less of both: (5, 0.2) and (1, 0.3).
  EXPECT_THAT(front_of(points, -1, -1), ElementsAre(5, 6));
  EXPECT_THAT(front_of({{1, 1}, {1, 1}}, 1, 1), ElementsAre(0, 1));
  EXPECT_THAT(front_of({}, 1, 1), IsEmpty());
}

TEST(Charts, the_stairs_of_a_front_go_through_its_points_and_never_through_better_ones) {
  const RunData data = study_run();
  const Charts charts = charts_of(analyze(data));
  const Chart& tradeoff = chart(charts, "quality-against-memory");
  const Chart::Series& stairs = tradeoff.series.back();
  ASSERT_EQ(stairs.style, Chart::Style::front);
  EXPECT_EQ(tradeoff.x.label, "finetune peak memory (MB)");
  for (std::size_t i = 1; i < stairs.points.size(); ++i) {
    EXPECT_TRUE(stairs.points[i].x == stairs.points[i - 1].x || stairs.points[i].y == stairs.points[i - 1].y);
  }
  for (const auto& series : tradeoff.series) {
    if (series.style == Chart::Style::front) continue;
    for (const auto& point : series.points)
      for (const auto& corner : stairs.points)
        EXPECT_FALSE(point.x < corner.x && point.y > corner.y && !corner.label.empty()) << series.name;
  }
}

TEST(Charts, curves_are_means_with_deviations_at_steps_that_all_repeats_have) {
  RunBuilder run;
  const auto trained = [](const std::string& job, std::vector<HistoryPoint> history) {
    return RunBuilder::StepResult{"finetune", StepKind::finetune, job, JobState::succeeded, {{"loss", 1}}, history};
  };
  run.trial("a", "A", 0, {}, {trained("a0", {{1, 10, "loss", 2}, {2, 20, "loss", 1}, {3, 30, "loss", 0.5}})});
  run.trial("a", "A", 1, {}, {trained("a1", {{1, 10, "loss", 4}, {2, 20, "loss", 1}})});
  const Charts charts = charts_of(analyze(run.data()));
  const Chart& loss = chart(charts, "finetune-loss-by-epoch");
  ASSERT_EQ(loss.series.size(), 1u);
  ASSERT_EQ(loss.series[0].points.size(), 2u);
  EXPECT_EQ(loss.series[0].points[0].x, 1);
  EXPECT_EQ(loss.series[0].points[0].y, 3);
  EXPECT_NEAR(loss.series[0].points[0].y_range->high - 3, std::sqrt(2.0), 1e-12);
  EXPECT_EQ(loss.y.label, "training loss");
}

TEST(Charts, configurations_that_share_their_training_share_a_curve) {
  RunBuilder run;
  const RunBuilder::StepResult shared{
      "finetune", StepKind::finetune, "f", JobState::succeeded, {}, {{1, 1, "loss", 2}, {2, 2, "loss", 1}}};
  run.trial("a", "plain", 0, {}, {shared});
  run.trial("b", "quantised", 0, {}, {shared, {"quantize", StepKind::quantize, "q"}});
  const Charts charts = charts_of(analyze(run.data()));
  ASSERT_EQ(charts.charts.size(), 1u);
  ASSERT_EQ(charts.charts[0].series.size(), 1u);
  EXPECT_EQ(charts.charts[0].series[0].name, "plain and 1 more");
}

TEST(Charts, a_grid_of_batch_sizes_and_lengths_is_a_heat_map_with_a_panel_for_each_arm) {
  const RunData data = grid_run();
  const Charts charts = charts_of(analyze(data));
  std::vector<std::string> ids;
  for (const HeatMap& map : charts.heat_maps) ids.push_back(map.id);
  EXPECT_THAT(ids,
              UnorderedElementsAre("benchmark-forward-ms-mean-by-batch-size-and-sequence-length",
                                   "benchmark-forward-peak-memory-mb-by-batch-size-and-sequence-length",
                                   "benchmark-forward-samples-per-second-mean-by-batch-size-and-sequence-length"));
  const HeatMap& time = charts.heat_maps[0];
  EXPECT_THAT(time.rows, ElementsAre(1, 4, 16));
  EXPECT_THAT(time.columns, ElementsAre(64, 128, 256, 512));
  EXPECT_EQ(time.value_label, "benchmark forward time (ms)");
  ASSERT_EQ(time.panels.size(), 2u);
  EXPECT_EQ(time.panels[0].name, "quantize skip");
  EXPECT_NEAR(time.panels[0].cells[1][2]->value, 0.02 * 4 * 256 + 4, 1e-12);
  EXPECT_EQ(time.panels[0].cells[1][2]->text, "24.48 ± 0.82");
  EXPECT_THAT(time.caption, HasSubstr("over the batches of one run"));
  EXPECT_FALSE(time.panels[1].cells[2][3].has_value()) << "the trial failed";
}

TEST(Charts, a_run_without_results_has_none) {
  RunData data = study_run();
  data.jobs.clear();
  const Charts charts = charts_of(analyze(data));
  EXPECT_THAT(charts.charts, IsEmpty());
  EXPECT_THAT(charts.heat_maps, IsEmpty());
}

TEST(Charts, ids_are_file_names_and_unique) {
  EXPECT_EQ(file_stem("Test.rougeL / ../x"), "test-rougel-x");
  EXPECT_EQ(file_stem("…"), "chart");
  std::set<std::string> ids;
  const RunData data = hostile_run();
  for (const Chart& one : charts_of(analyze(data)).charts) {
    EXPECT_TRUE(ids.insert(one.id).second) << one.id;
    EXPECT_EQ(one.id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-"), std::string::npos) << one.id;
  }
}

}  // namespace
}  // namespace finesweep::reports
