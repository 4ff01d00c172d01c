#include "jobs/runner_request.h"

#include <gtest/gtest.h>

namespace finesweep {
namespace {

void expect_round_trip(const RunnerRequest& request) {
  const Json json = request_to_json(request);
  const auto parsed = parse_request(Json::parse(json.dump()));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(request_to_json(*parsed), json);
}

TEST(RunnerRequest, what_is_asked_is_what_is_read) {
  GenerateRequest generate{{"/models/m", "/adapter", "nf4"}, "bf16", {"one", "zwei \"…\"\n"}, {}, 4, 17};
  generate.generation.do_sample = true;
  generate.generation.top_p = 0.5;
  expect_round_trip({generate, 2});
  EvaluateRequest evaluate;
  evaluate.job.kind = StepKind::evaluate;
  evaluate.job.settings = {{"split", "test"}};
  expect_round_trip({evaluate, 1});
  expect_round_trip({MergeRequest{{"/base", "/adapter", ""}, "/to"}, 1});
}

TEST(RunnerRequest, what_is_no_request_is_refused) {
  const Json good = request_to_json({MergeRequest{{"/base", "/adapter", ""}, "/to"}, 1});
  for (const char* key : {"command", "choice", "to", "threads"}) {
    Json bad = good;
    bad.erase(key);
    EXPECT_FALSE(parse_request(bad).ok()) << key;
    bad[key] = Json::array();
    EXPECT_FALSE(parse_request(bad).ok()) << key;
  }
  Json unknown = good;
  unknown["command"] = "train";
  EXPECT_FALSE(parse_request(unknown).ok());
}

}  // namespace
}  // namespace finesweep
