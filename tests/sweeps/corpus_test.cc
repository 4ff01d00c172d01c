// Files that are wrong with the exact words that say so, and files that are right with what they mean. To accept a
// change after reading it: FINESWEEP_UPDATE_EXPECTED=1 sweeps_tests --gtest_filter='*Corpus*'.

#include <gtest/gtest.h>

#include <algorithm>

#include "sweeps/describe.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> yaml_files(const char* folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(FINESWEEP_SOURCE_DIR) / "tests/sweeps" / folder))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void expect_same_as_file(const std::string& actual, const fs::path& expected) {
  if (update_expected()) std::ofstream(expected, std::ios::binary) << actual;
  EXPECT_EQ(actual, read_text(expected)) << expected;
}

/// What a plan says, without what only machines read. Names of configurations and ids of jobs are in it: should
/// they change, then every existing run directory would train anew.
Json summary(const Plan& plan) {
  Json trials = Json::array();
  for (const Trial& trial : plan.trials) {
    Json steps = Json::array();
    for (const TrialStep& step : trial.steps) steps.push_back(step.name + " " + step.job.hex().substr(0, 12));
    trials.push_back({{"name", trial.name}, {"label", trial.label}, {"swept", trial.swept}, {"steps", steps}});
  }
  Json jobs = Json::array();
  for (const Job& job : plan.jobs) {
    std::string text = job.id.hex().substr(0, 12) + " " + job.title;
    for (const JobId& input : job.inputs) text += ", from " + input.hex().substr(0, 12);
    if (job.continues) text += ", continues " + job.continues->hex().substr(0, 12);
    if (job.keep_training_state) text += ", keeps its state";
    if (job.seed) text += ", seeded";
    if (job.isolate) text += ", alone";
    if (job.gpus > 1) text += ", on " + std::to_string(job.gpus) + " GPUs";
    jobs.push_back(text);
  }
  return Json{{"name", plan.name},  {"swept_paths", plan.swept_paths},   {"trials", trials},
              {"jobs", jobs},       {"report", Json(plan).at("report")}, {"resources", Json(plan).at("resources")},
              {"notes", plan.notes}};
}

TEST(CorpusTest, every_bad_file_is_refused_with_its_exact_diagnostics) {
  const auto files = yaml_files("bad");
  EXPECT_GE(files.size(), 60u);
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.filename().string());
    MemoryFiles world = make_world();
    const SweepParse parse = parse_in_world(read_text(file), world);
    EXPECT_FALSE(parse.sweep.has_value());
    EXPECT_TRUE(std::any_of(parse.diagnostics.begin(), parse.diagnostics.end(),
                            [](const Diagnostic& d) { return d.severity == Severity::error; }));
    expect_same_as_file(format_diagnostics(parse.diagnostics, "sweep.yaml"),
                        fs::path(file).replace_extension(".expected"));
  }
}

TEST(CorpusTest, every_good_file_gives_its_plan) {
  const auto files = yaml_files("good");
  EXPECT_GE(files.size(), 10u);
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.filename().string());
    MemoryFiles world = make_world();
    const SweepParse parse = parse_in_world(read_text(file), world);
    ASSERT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "sweep.yaml");
    Json result = summary(parse.sweep->plan);
    if (!parse.diagnostics.empty()) result["warnings"] = format_diagnostics(parse.diagnostics, "sweep.yaml");
    expect_same_as_file(result.dump(2) + "\n", fs::path(file).replace_extension(".json"));
  }
}

TEST(CorpusTest, the_text_kept_in_the_run_directory_means_the_same_from_anywhere) {
  for (const fs::path& file : yaml_files("good")) {
    SCOPED_TRACE(file.filename().string());
    MemoryFiles world = make_world();
    const SweepParse first = parse_in_world(read_text(file), world);
    ASSERT_TRUE(first.sweep.has_value());
    SweepRequest request;
    request.file = "/runs/far/away/sweep.yaml";
    const SweepParse second = parse_sweep_text(first.sweep->resolved_text, request, world);
    ASSERT_TRUE(second.sweep.has_value())
        << first.sweep->resolved_text << format_diagnostics(second.diagnostics, "sweep.yaml");
    EXPECT_EQ(Json(first.sweep->plan), Json(second.sweep->plan)) << first.sweep->resolved_text;
    EXPECT_EQ(first.sweep->resolved_text, second.sweep->resolved_text);
  }
}

TEST(CorpusTest, every_good_plan_can_be_described) {
  for (const fs::path& file : yaml_files("good")) {
    SCOPED_TRACE(file.filename().string());
    MemoryFiles world = make_world();
    const SweepParse parse = parse_in_world(read_text(file), world);
    ASSERT_TRUE(parse.sweep.has_value());
    const Plan& plan = parse.sweep->plan;
    const std::string text = plan_text(plan, world);
    for (const Trial& trial : plan.trials) EXPECT_NE(text.find(trial.label), std::string::npos) << trial.label;
    const Json json = plan_json(plan, world);
    EXPECT_EQ(json.at("jobs").size(), plan.jobs.size());
  }
}

}  // namespace
}  // namespace finesweep::sweeps
