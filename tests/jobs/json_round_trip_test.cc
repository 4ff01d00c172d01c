#include <gtest/gtest.h>

#include "jobs/json.h"
#include "tests/jobs/examples.h"

namespace finesweep {
namespace {

/// Through text, as the database and the run directory keep it.
template <typename T>
T through_text(const T& value) {
  return parse_json(Json(value).dump(), "test")->template get<T>();
}

TEST(JsonRoundTripTest, a_job_comes_back_as_it_was) {
  const Job job = example_job(), back = through_text(job);
  EXPECT_EQ(Json(back), Json(job));
  EXPECT_EQ(back.seed, job.seed) << "all 64 bits";
  EXPECT_EQ(back.continues, job.continues);
  EXPECT_EQ(back.inputs, job.inputs);
  EXPECT_EQ(back.title, job.title);
}

TEST(JsonRoundTripTest, what_a_job_does_not_have_stays_absent) {
  Job read_into = example_job();
  from_json(Json(Job{}), read_into);
  EXPECT_FALSE(read_into.seed);
  EXPECT_FALSE(read_into.continues);
  EXPECT_TRUE(read_into.inputs.empty());
}

TEST(JsonRoundTripTest, an_outcome_comes_back_bit_for_bit) {
  const Outcome outcome = example_outcome(), back = through_text(outcome);
  EXPECT_EQ(Json(back), Json(outcome));
  EXPECT_EQ(back.metrics.at("accuracy"), 0.1);
  EXPECT_EQ(back.metrics.at("loss"), 1e-300);
  EXPECT_TRUE(std::signbit(back.history[0].value));
  EXPECT_EQ(back.history[0].global_step, 1'000'000'000'000);
  for (auto kind : {OutcomeKind::succeeded, OutcomeKind::failed, OutcomeKind::interrupted}) {
    Outcome other;
    other.kind = kind;
    EXPECT_EQ(through_text(other).kind, kind);
  }
}

TEST(JsonRoundTripTest, a_loss_that_is_not_known_stays_unknown) {
  Progress progress{1, 2, "training", std::numeric_limits<double>::quiet_NaN()};
  EXPECT_TRUE(std::isnan(through_text(progress).loss));
  progress.loss = 0.5;
  EXPECT_EQ(through_text(progress).loss, 0.5);
}

TEST(JsonRoundTripTest, a_plan_comes_back_as_it_was) {
  Plan plan;
  plan.name = "sweep";
  plan.swept_paths = {"finetune.rank", "model"};
  plan.jobs = {example_job()};
  plan.trials = {{"1a2b3c4d.1",
                  "1a2b3c4d",
                  "rank 2",
                  1,
                  std::numeric_limits<std::uint64_t>::max(),
                  {Json(2), Json()},
                  {{"test", StepKind::evaluate, JobId::of("job")}}}};
  plan.report = {"validation.loss", "test.loss", Goal::minimize, "1a2b3c4d", true};
  plan.resources = {2, 5, 3, "off"};
  plan.notes = {"rank was dropped"};
  const Plan back = through_text(plan);
  EXPECT_EQ(Json(back), Json(plan));
  EXPECT_EQ(back.report.goal, Goal::minimize);
  EXPECT_EQ(back.trials[0].seed, plan.trials[0].seed);
  EXPECT_TRUE(back.trials[0].swept[1].is_null());
}

TEST(JsonRoundTripTest, a_missing_or_ill_typed_key_is_noticed) {
  const Json whole = example_job();
  for (const auto& [key, value] : whole.items()) {
    if (key == "continues" || key == "seed") continue;
    Json without = whole;
    without.erase(key);
    EXPECT_ANY_THROW(without.get<Job>()) << key;
  }
  Json job = example_job();
  job["kind"] = "train";
  EXPECT_ANY_THROW(job.get<Job>());
  job = example_job();
  job["id"] = "../x";
  EXPECT_ANY_THROW(job.get<Job>());
  job = example_job();
  job["retries"] = std::int64_t{1} << 40;
  EXPECT_ANY_THROW(job.get<Job>());
  job["retries"] = 1.5;
  EXPECT_ANY_THROW(job.get<Job>());
}

TEST(JsonTest, text_that_is_not_json_is_an_error_that_names_it) {
  const auto parsed = parse_json("{\"a\": ", "status.json");
  ASSERT_FALSE(parsed);
  EXPECT_NE(parsed.error().message.find("status.json"), std::string::npos);
}

TEST(JsonTest, equal_values_have_equal_text) {
  EXPECT_EQ((Json{{"b", 1}, {"a", 2}}).dump(), (Json{{"a", 2}, {"b", 1}}).dump());
}

TEST(JsonTest, integers_are_never_changed_silently) {
  EXPECT_EQ(checked_integer<int>(Json(-5)), -5);
  EXPECT_EQ(checked_integer<std::uint64_t>(Json(~std::uint64_t{0})), ~std::uint64_t{0});
  EXPECT_THROW(checked_integer<int>(Json(std::int64_t{1} << 31)), std::out_of_range);
  EXPECT_THROW(checked_integer<int>(Json(~std::uint64_t{0})), std::out_of_range);
  EXPECT_THROW(checked_integer<std::uint64_t>(Json(-1)), std::out_of_range);
  EXPECT_THROW(checked_integer<int>(Json(1.0)), std::invalid_argument);
  EXPECT_THROW(checked_integer<int>(Json("1")), std::invalid_argument);
}

TEST(CborTest, what_json_writes_is_read_back) {
  const Json value{{"list", {1, -1, 1'000'000'000'000, 0.1, true, nullptr, "text", Json::array(), Json::object()}},
                   {"text", std::string(70'000, 'x')},
                   {"bytes", Json::binary({1, 2, 3})}};
  EXPECT_EQ(*parse_cbor(Json::to_cbor(value)), value);
}

TEST(CborTest, what_it_never_writes_is_refused) {
  const auto reason = [](const std::vector<std::uint8_t>& bytes) {
    const auto parsed = parse_cbor(bytes);
    return parsed ? std::string("accepted") : parsed.error().message;
  };
  EXPECT_EQ(reason({}), "not valid CBOR: cut short");
  EXPECT_EQ(reason({0x82, 0x01}), "not valid CBOR: cut short");
  EXPECT_EQ(reason({0x63, 'a', 'b'}), "not valid CBOR: cut short");
  EXPECT_EQ(reason({0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), "not valid CBOR: cut short");
  EXPECT_EQ(reason({0x01, 0x01}), "not valid CBOR: bytes after the end");
  EXPECT_EQ(reason({0x9f, 0xff}), "not valid CBOR: an indefinite length");
  EXPECT_EQ(reason({0xc0, 0x61, 'a'}), "not valid CBOR: a tag");
  EXPECT_EQ(reason({0xa1, 0x01, 0x01}).substr(0, 15), "not valid CBOR:") << "a key that is no text";
}

TEST(CborTest, deep_nesting_is_refused_instead_of_filling_the_stack) {
  const auto nested = [](std::size_t levels) {
    std::vector<std::uint8_t> bytes(levels, 0x81);
    bytes.push_back(0x00);
    return bytes;
  };
  EXPECT_TRUE(parse_cbor(nested(kMaxCborNesting)));
  EXPECT_FALSE(parse_cbor(nested(kMaxCborNesting + 1)));
  EXPECT_EQ(parse_cbor(nested(50'000'000)).error().message, "not valid CBOR: nested too deeply");
}

}  // namespace
}  // namespace finesweep
