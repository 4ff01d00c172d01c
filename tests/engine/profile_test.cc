#include "worker/engine/profile.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <set>
#include <stdexcept>

#include "storage/artifact.h"
#include "tests/engine/job_bench.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::IsSubsetOf;
using ::testing::Key;

Json parse(const fs::path& path) {
  return Json::parse(read_bytes(path), nullptr, false);
}

std::set<std::string> names_of_groups(const Json& mode) {
  std::set<std::string> names;
  for (const Json& group : mode.at("groups")) names.insert(group.at("group"));
  return names;
}

void expect_sums(const Json& mode) {
  double ms = 0, share = 0;
  for (const Json& group : mode.at("groups")) {
    EXPECT_GE(group.at("ms").get<double>(), 0);
    EXPECT_GE(group.at("calls").get<int>(), 1);
    ms += group.at("ms").get<double>();
    share += group.at("share").get<double>();
  }
  EXPECT_GT(mode.at("total_ms").get<double>(), 0);
  EXPECT_NEAR(ms, mode.at("total_ms").get<double>(), 1e-6 * ms);
  EXPECT_NEAR(share, 1, 1e-6);
}

/// As the format's description has it, and as Perfetto needs it: complete events in order, each within the one that
/// it began in. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
std::set<std::string> expect_trace(const Json& trace) {
  std::set<std::string> names;
  EXPECT_TRUE(trace.is_object());
  if (!trace.is_object()) return names;
  double last = 0;
  std::map<int, std::vector<double>> ends;
  int complete = 0;
  for (const Json& event : trace.at("traceEvents")) {
    const std::string kind = event.at("ph");
    EXPECT_TRUE(event.at("name").is_string());
    EXPECT_TRUE(event.at("pid").is_number_integer());
    const int thread = event.at("tid");
    if (kind == "M") continue;
    EXPECT_EQ(kind, "X");
    ++complete;
    const double begin = event.at("ts"), end = begin + event.at("dur").get<double>();
    EXPECT_GE(begin, last);
    EXPECT_GE(end, begin);
    last = begin;
    auto& open = ends[thread];
    while (!open.empty() && open.back() <= begin) open.pop_back();
    // Times are rounded to 1 ns.
    if (!open.empty()) {
      EXPECT_LE(end, open.back() + 0.002) << event.dump();
    }
    open.push_back(end);
    names.insert(event.at("name").get<std::string>());
  }
  EXPECT_GT(complete, 0);
  return names;
}

Json benchmark_settings(const Json& modes, const std::string& attention = "flash") {
  return {{"mode", modes}, {"batch_size", 2},     {"sequence_length", 16},  {"new_tokens", 4},  {"iterations", 3},
          {"warmup", 1},   {"precision", "fp32"}, {"attention", attention}, {"kv_cache", true}, {"profile", true}};
}

TEST(Profile, a_benchmark_tells_where_its_time_goes_mode_by_mode) {
  for (const char* name : {"bert", "gpt2", "t5", "llama"}) {
    SCOPED_TRACE(name);
    JobBench bench(name);
    const Json modes = bench.classifies() ? Json{"forward", "train"} : Json{"forward", "generate", "train"};
    const Job job = bench.job(StepKind::benchmark, benchmark_settings(modes));
    const Outcome outcome = bench.run(job);
    ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
    ASSERT_TRUE(outcome.has_artifact);
    const auto manifest = storage::verify_artifact(bench.artifact(job), job.id);
    ASSERT_TRUE(manifest.ok()) << manifest.error().message;
    EXPECT_EQ(manifest->outcome.metrics, outcome.metrics);
    EXPECT_THAT(manifest->files, Contains(Key("profile.json")));
    EXPECT_THAT(manifest->files, Contains(Key("trace.json")));

    const Json profile = parse(bench.artifact(job) / profile_file);
    ASSERT_EQ(profile.size(), modes.size());
    for (std::size_t m = 0; m < modes.size(); ++m) {
      EXPECT_EQ(profile[m].at("mode"), modes[m]);
      EXPECT_EQ(profile[m].at("iterations"), 3);
      expect_sums(profile[m]);
      std::set<std::string> expected{"attention", "matrix products", "normalisation", "embedding", "data", "other"};
      if (modes[m] == "train") expected.insert({"optimiser", "loss"});
      EXPECT_THAT(expected, IsSubsetOf(names_of_groups(profile[m]))) << modes[m];
      EXPECT_EQ(names_of_groups(profile[m]).contains("optimiser"), modes[m] == "train");
    }
    const auto names = expect_trace(parse(bench.artifact(job) / trace_file));
    EXPECT_THAT(names, Contains("attention, backward"));
    EXPECT_THAT(names, Contains("AdamW"));
    EXPECT_THAT(names, Contains("aten::addmm_")) << "operators of libtorch are there too";
  }
}

TEST(Profile, the_plain_products_of_attention_are_seen_where_they_are_asked_for_and_nowhere_else) {
  JobBench bench("gpt2");
  for (const char* attention : {"flash", "math"}) {
    const Job job = bench.job(StepKind::benchmark, benchmark_settings({"forward", "train"}, attention));
    ASSERT_EQ(bench.run(job).kind, OutcomeKind::succeeded);
    const auto names = expect_trace(parse(bench.artifact(job) / trace_file));
    EXPECT_EQ(names.contains("aten::softmax") || names.contains("aten::_softmax"),
              attention == std::string("math"));
  }
}

TEST(Profile, an_evaluation_keeps_one_and_measures_the_same) {
  JobBench bench("t5");
  const Outcome plain = bench.run(bench.job(StepKind::evaluate, bench.evaluate_settings()));
  EXPECT_FALSE(plain.has_artifact);
  Json settings = bench.evaluate_settings();
  settings["profile"] = true;
  const Job job = bench.job(StepKind::evaluate, settings);
  const Outcome outcome = bench.run(job);
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  ASSERT_TRUE(outcome.has_artifact);
  EXPECT_EQ(reproducible(plain), reproducible(outcome));
  ASSERT_TRUE(storage::verify_artifact(bench.artifact(job), job.id).ok());
  const Json profile = parse(bench.artifact(job) / profile_file);
  ASSERT_EQ(profile.size(), 1u);
  EXPECT_EQ(profile[0].at("mode"), "evaluate");
  EXPECT_EQ(profile[0].at("iterations"), 4);  // 30 rows, 8 at a time
  expect_sums(profile[0]);
  expect_trace(parse(bench.artifact(job) / trace_file));
}

TEST(Profile, a_scope_counts_for_its_group_without_those_within_it) {
  using namespace std::chrono_literals;
  const auto work_for = [](std::chrono::milliseconds time) {
    const auto until = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < until) at::mm(at::ones({8, 8}), at::ones({8, 8}));
  };
  Profiler profiler(c10::kCPU);
  profiler.start("test");
  {
    const ProfileScope outer("outer", OperatorGroup::loss);
    work_for(20ms);
    for (int i = 0; i < 2; ++i) {
      const ProfileScope inner("inner", OperatorGroup::attention);
      const ProfileScope same("same", OperatorGroup::attention);
      work_for(10ms);
    }
  }
  profiler.stop(1);
  std::map<std::string, Json> groups;
  for (const Json& group : profiler.profile()[0].at("groups")) groups[group.at("group")] = group;
  EXPECT_GE(groups.at("loss").at("ms").get<double>(), 20);
  EXPECT_GE(groups.at("attention").at("ms").get<double>(), 20);
  EXPECT_EQ(groups.at("loss").at("calls"), 1);
  EXPECT_EQ(groups.at("attention").at("calls"), 2) << "entries from another group";
  expect_sums(profiler.profile()[0]);
}

TEST(Profile, one_that_an_exception_ended_listens_no_more) {
  try {
    Profiler profiler(c10::kCPU);
    profiler.start("test");
    const ProfileScope scope("scope", OperatorGroup::loss);
    throw std::runtime_error("out of memory");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(ScopeListener::of_thread(), nullptr);
  at::mm(at::ones({2, 2}), at::ones({2, 2}));  // no callback of a profiler that is gone
}

TEST(Profile, a_scope_costs_next_to_nothing_while_nobody_listens) {
  double least_ns = 1e9;
  constexpr int count = 1'000'000;
  for (int run = 0; run < 5; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) {
      const ProfileScope scope("scope", OperatorGroup::other);
      asm volatile("" ::: "memory");
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
    least_ns = std::min(least_ns, time.count() / count);
  }
  RecordProperty("nanoseconds", std::to_string(least_ns));
  EXPECT_LT(least_ns, 20);  // about 1 on a quiet machine
}

}  // namespace
}  // namespace finesweep::worker
