#include "reports/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>

#include "reports/metric_names.h"
#include "reports/numbers.h"
#include "reports/report.h"
#include "storage/files.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::reports {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(Numbers, exact_ones_read_back_as_the_same_number_and_are_the_shortest) {
  for (const double value :
       {0.1, 0.1 + 0.2, 5e-4, 1.0 / 3, 22713218.0, 1e300, 2.3e-308, -2.5, 1e15, 9e14, 1e-5, 9.99e-6})
    EXPECT_EQ(std::stod(exact(value)), value);
  EXPECT_EQ(exact(0.1 + 0.2), "0.30000000000000004");
  EXPECT_EQ(exact(22713218.0), "22713218");
  EXPECT_EQ(exact(2.5e-7), "2.5e-07");
  EXPECT_EQ(exact(-0.0), "0");
  EXPECT_EQ(exact(std::numeric_limits<double>::quiet_NaN()), "");
  EXPECT_EQ(exact(std::numeric_limits<double>::infinity()), "");
}

TEST(Numbers, swept_values_are_written_as_a_person_would) {
  EXPECT_EQ(exact(Json("lora")), "lora");
  EXPECT_EQ(exact(Json(8)), "8");
  EXPECT_EQ(exact(Json(5.0e-4)), "0.0005");
  EXPECT_EQ(exact(Json(true)), "true");
  EXPECT_EQ(exact(Json()), "");
  EXPECT_EQ(exact(Json{"query", "value"}), R"(["query","value"])");
}

TEST(Numbers, rounded_ones_show_what_the_deviation_allows) {
  EXPECT_EQ(rounded(0.84321, 0.00213), "0.8432 ± 0.0021");
  EXPECT_EQ(rounded(12.3456, 1.26), "12.3 ± 1.3");
  EXPECT_EQ(rounded(12.3456, 0.0), "12.35 ± 0");
  EXPECT_EQ(rounded(0.5, 1e-12), "0.500000 ± 0.000000");
  EXPECT_EQ(rounded(1234.5, 250), "1,235 ± 250");
  EXPECT_EQ(rounded(12.3456, std::nullopt), "12.35");
  EXPECT_EQ(rounded(22713218), "22,713,218");
  EXPECT_EQ(rounded(-1234.0), "-1,234");
  EXPECT_EQ(rounded(0.00001234), "0.00001234");
  EXPECT_EQ(rounded(1e20), "1.000e+20");
  EXPECT_EQ(rounded(0), "0");
}

TEST(Numbers, differences_have_a_sign) {
  Sample difference{3, 0.01234, 0.004, Interval{0.0024, 0.0223}};
  EXPECT_EQ(rounded_difference(difference, true), "+0.0123 [0.0024, 0.0223]");
  EXPECT_EQ(rounded_difference(difference, false), "+0.0123");
  EXPECT_EQ(rounded_difference({1, -0.5, {}, {}}, true), "-0.500");
  EXPECT_EQ(rounded_difference({1, 0, {}, {}}, true), "+0");
}

TEST(Text, is_cut_between_characters) {
  EXPECT_EQ(display_width("α = 16 …"), 8u);
  EXPECT_EQ(shortened("αβγδ", 3), "αβ…");
  EXPECT_EQ(shortened("αβγ", 3), "αβγ");
  EXPECT_EQ(shortened("abc", 0), "");
}

TEST(Text, wraps_at_spaces) {
  EXPECT_THAT(wrapped("peak memory (MB)", 11), ElementsAre("peak memory", "(MB)"));
  EXPECT_THAT(wrapped("", 5), ElementsAre(""));
  EXPECT_THAT(wrapped("unbreakable", 5), ElementsAre("unbr…"));
}

TEST(Text, cannot_break_out_of_a_table) {
  EXPECT_EQ(markdown_escaped("a|b\n<b>*\x1b[31m"), "a\\|b \\<b>\\* [31m");
}

TEST(MetricNames, are_readable_and_know_what_is_better) {
  EXPECT_EQ(heading("test.accuracy"), "test accuracy");
  EXPECT_EQ(heading("finetune.peak_memory_mb"), "finetune peak memory (MB)");
  EXPECT_EQ(heading("benchmark.generate_ms_p99"), "benchmark generate time (ms), 99th percentile");
  EXPECT_EQ(heading("finetune.samples_per_second_mean"), "finetune samples/s");
  EXPECT_EQ(heading("test.rougeLsum"), "test ROUGE-Lsum");
  for (const char* more : {"test.accuracy", "test.bleu", "finetune.tokens_per_second", "prune.sparsity"})
    EXPECT_TRUE(higher_is_better(more)) << more;
  for (const char* less : {"test.loss", "x.perplexity", "finetune.seconds", "finetune.peak_memory_mb",
                           "finetune.batch_ms_mean", "finetune.trainable_parameters", "quantize.model_mb"})
    EXPECT_FALSE(higher_is_better(less)) << less;
}

TEST(Terminal, fits_the_width_it_is_given) {
  for (const std::size_t width : {100u, 80u, 60u}) {
    for (const RunData& data : {mixed_run(), single_repeat_run()}) {
      std::istringstream lines(terminal_table(data, width));
      for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), width) << line;
    }
  }
}

TEST(Terminal, shows_the_best_of_many_configurations) {
  RunBuilder run;
  run.report().metric = "test.accuracy";
  for (int i = 0; i < 120; ++i) {
    const std::string name = "configuration " + std::to_string(i);
    run.trial(name, name, 0, {Json(i), Json()},
              {{"test", StepKind::evaluate, name, JobState::succeeded, {{"accuracy", i / 200.0}}}});
  }
  const std::string table = terminal_table(run.data());
  EXPECT_THAT(table, HasSubstr("configuration 119 "));
  EXPECT_THAT(table, HasSubstr("configuration 70 "));
  EXPECT_THAT(table, Not(HasSubstr("configuration 69 ")));
  EXPECT_THAT(table, HasSubstr("The first 50 of 120 configurations; all are in summary.csv."));
}

TEST(Reports, are_written_as_files_and_only_those_asked_for) {
  storage::TemporaryFolder folder;
  const RunData data = mixed_run();
  ASSERT_TRUE(write_reports(data, folder / "csv/reports", {Format::csv}).ok());
  ASSERT_TRUE(write_reports(data, folder / "all").ok());
  const auto count = [](const std::filesystem::path& path) {
    return std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator());
  };
  EXPECT_EQ(count(folder / "csv/reports"), 3);
  EXPECT_GE(count(folder / "all"), 6);  // and plots/
  for (const char* name : {"report.md", "report.html", "report.json", "results.csv", "summary.csv", "history.csv"})
    EXPECT_TRUE(std::filesystem::exists(folder.path() / "all" / name)) << name;
  EXPECT_THAT(*storage::read_file(folder / "all/report.md"), HasSubstr("# made-up"));
  EXPECT_EQ(*storage::read_file(folder / "all/results.csv"),
            *storage::read_file(folder / "csv/reports/results.csv"));
}

TEST(Reports, hold_no_number_that_is_not_one) {
  RunBuilder run;
  run.report().metric = "test.loss";
  run.trial("a", "A", 0, {Json(), Json()},
            {{"test",
              StepKind::evaluate,
              "x",
              JobState::succeeded,
              {{"loss", std::numeric_limits<double>::quiet_NaN()}, {"accuracy", 0.5}}}});
  storage::TemporaryFolder folder;
  ASSERT_TRUE(write_reports(run.data(), folder.path()).ok());
  for (const char* name : {"report.md", "report.json", "results.csv", "summary.csv", "history.csv"})
    EXPECT_THAT(*storage::read_file(folder / name), Not(testing::ContainsRegex("[^a-z]nan|[^a-z]inf[^o]"))) << name;
}

TEST(Reports, come_from_the_store_as_they_were_recorded) {
  storage::TemporaryFolder folder;
  const RunData made_up = single_repeat_run();
  {
    storage::Store store = std::move(*storage::Store::create_or_open(folder.path()));
    ASSERT_TRUE(store.begin_generation("node", 1, 1).ok());
    Plan plan = made_up.plan;
    for (const auto& [id, job] : made_up.jobs) plan.jobs.emplace_back().id = id;
    ASSERT_TRUE(store.save_plan(plan, "").ok());
    std::vector<storage::Change> changes;
    for (const auto& [id, job] : made_up.jobs) {
      changes.push_back(storage::AttemptStarted{{id, 1}, 1, "node", 2});
      changes.push_back(storage::JobSucceeded{{id, 1}, *job.outcome, 3});
    }
    ASSERT_TRUE(store.apply(changes).ok());
  }
  const Result<RunData> read =
      read_run_data(*storage::Store::open_read_only(folder.path()), storage::RunDirectory(folder.path()));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(terminal_table(*read), terminal_table(made_up));
}

}  // namespace
}  // namespace finesweep::reports
