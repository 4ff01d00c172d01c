// A model that an evaluation leaves serves the next adapter of its kind, and no other.

#include "worker/engine/evaluated_model.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/engine/evaluations.h"
#include "worker/engine/loaded_base.h"

namespace finesweep::worker {
namespace {

struct ServedCase {
  std::string family, method;
  friend void PrintTo(const ServedCase& c, std::ostream* out) { *out << c.family << ' ' << c.method; }
};

class EvaluatedModelTest : public ::testing::TestWithParam<ServedCase> {
 protected:
  EvaluatedModelTest() : bench(GetParam().family) {}

  Job train(std::uint64_t seed, double alpha = 16) {
    Json settings = bench.finetune_settings(GetParam().method);
    settings.update({{"epochs", 1}, {"learning_rate", 1e-2}});
    if (settings.contains("alpha")) settings["alpha"] = alpha;
    const Job job = bench.job(StepKind::finetune, settings, seed);
    EXPECT_EQ(bench.run(job).kind, OutcomeKind::succeeded);
    return job;
  }
  double loss_of(const Job& training) {
    return bench.run(evaluation_of(bench, training, measuring_settings(bench))).metrics.at("loss");
  }

  JobBench bench;
};

INSTANTIATE_TEST_SUITE_P(Models, EvaluatedModelTest,
                         ::testing::Values(ServedCase{"bert", "lora"}, ServedCase{"gpt2", "lora"},
                                           ServedCase{"gpt2", "qlora"}, ServedCase{"t5", "ia3"}),
                         [](const auto& info) { return info.param.family + "_" + info.param.method; });

TEST_P(EvaluatedModelTest, the_next_adapter_gets_the_numbers_that_it_gets_from_a_model_of_its_own) {
  const Job a = train(1), b = train(2);
  forget_base();
  const double of_b = loss_of(b);
  forget_base();
  const double of_a = loss_of(a);
  EXPECT_NE(of_a, of_b);
  const std::shared_ptr<void> left = kept_beside_base();
  ASSERT_NE(left, nullptr);
  EXPECT_EQ(loss_of(b), of_b);
  EXPECT_EQ(kept_beside_base(), left) << "the same model";
  EXPECT_EQ(loss_of(a), of_a);
}

TEST_P(EvaluatedModelTest, an_adapter_of_another_kind_gets_a_model_of_its_own) {
  if (GetParam().method == "ia3") GTEST_SKIP() << "IA3 has no scale";
  const Job a = train(1), other = train(1, 5);
  loss_of(a);
  const std::shared_ptr<void> left = kept_beside_base();
  const double beside = loss_of(other);
  EXPECT_NE(kept_beside_base(), left);
  forget_base();
  EXPECT_EQ(loss_of(other), beside);
}

}  // namespace
}  // namespace finesweep::worker
