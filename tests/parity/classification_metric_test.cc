#include "tests/parity/fixtures.h"
#include "worker/metrics/classification.h"

namespace finesweep::worker {
namespace {

TEST(ClassificationMetricParity, accuracy_and_f1_are_those_of_scikit_learn) {
  const auto cases = parity::read_json(parity::fixtures() / "metrics" / "classification.json")["cases"];
  int checked = 0;
  for (const auto& one : cases) {
    const auto labels = one["labels"].get<std::vector<std::int64_t>>();
    const auto predictions = one["preds"].get<std::vector<std::int64_t>>();
    EXPECT_NEAR(accuracy(labels, predictions), one["accuracy"].get<double>(), 1e-6);
    EXPECT_NEAR(f1_macro(labels, predictions), one["f1_macro"].get<double>(), 1e-6);
    EXPECT_NEAR(f1_micro(labels, predictions), one["f1_micro"].get<double>(), 1e-6);
    EXPECT_NEAR(f1_weighted(labels, predictions), one["f1_weighted"].get<double>(), 1e-6);
    EXPECT_NEAR(matthews_correlation(labels, predictions), one["mcc"].get<double>(), 1e-6);
    const auto classes = one["num_classes"].get<std::int64_t>();
    if (one.contains("f1_binary")) {
      EXPECT_NEAR(f1_binary(labels, predictions), one["f1_binary"].get<double>(), 1e-6);
    }
    const double reported = classes == 2 ? one["f1_binary"].get<double>() : one["f1_macro"].get<double>();
    EXPECT_NEAR(f1(labels, predictions, classes), reported, 1e-6);
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace finesweep::worker
