#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "tests/parity/models.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> models() {
  return classifier_cases(fixtures() / "models", [](const fs::path& folder) { return folder; });
}

struct Expected {
  Tensors tensors;
  nlohmann::json facts;
  worker::Batch batch;
};

Expected expected_of(const fs::path& model) {
  const fs::path base = fixtures() / "expected" / model.filename();
  Expected expected{read_tensors(base.string() + ".safetensors"), read_json(base.string() + ".json"), {}};
  expected.batch = batch_of(expected.tensors, "in.");
  return expected;
}

TEST(ClassifierParity, logits_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, false);
    EXPECT_LE(largest_difference(logits_of(*model, expected.batch), expected.tensors.at("logits")), 1e-4);
  }
}

TEST(ClassifierParity, hidden_states_of_every_layer_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, false);
    std::vector<at::Tensor> hidden;
    worker::Pass pass;
    pass.hidden_states = &hidden;
    const at::Tensor logits = model->logits(expected.batch, pass).value;
    EXPECT_LE(largest_difference(logits, expected.tensors.at("logits")), 1e-4);
    const at::Tensor mask = expected.batch.attention_mask[0].to(at::kBool);
    const std::int64_t tokens = mask.sum().item<std::int64_t>();
    ASSERT_FALSE(hidden.empty());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      SCOPED_TRACE(i);
      const at::Tensor reference = expected.tensors.at("hidden." + std::to_string(i))[0];
      EXPECT_LE(largest_difference(hidden[i].narrow(0, 0, tokens), reference.index({mask})), 1e-4);
    }
    EXPECT_FALSE(expected.tensors.contains("hidden." + std::to_string(hidden.size())));
  }
}

TEST(ClassifierParity, loss_and_gradients_of_all_parameters_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, true);
    EXPECT_NEAR(loss_and_gradients(*model, expected.batch), expected.facts["loss"].get<double>(), 2e-5);
    const Tensors mine = gradients_of(worker::trained_parameters(*model));
    EXPECT_GT(expect_same_gradients(expected.tensors, mine, 3e-4), 0);

    const auto norms = expected.facts["grad_norms"].get<std::map<std::string, double>>();
    EXPECT_EQ(norms.size(), mine.size());
    double largest = 0;
    for (const auto& [name, norm] : norms) largest = std::max(largest, norm);
    for (const auto& [name, norm] : norms) {
      ASSERT_TRUE(mine.contains(name)) << name;
      EXPECT_LE(std::abs(mine.at(name).norm().item<double>() - norm) / (norm + 1e-4 * largest), 2e-4) << name;
    }
  }
}

TEST(ClassifierParity, bf16_agrees_loosely_with_fp32) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, true, Precision::bf16);
    const at::Tensor logits = logits_of(*model, expected.batch);
    const at::Tensor& reference = expected.tensors.at("logits");
    const double spread = reference.abs().max().item<double>();
    EXPECT_LE(largest_difference(logits, reference), 0.12 * spread + 0.05);
    EXPECT_GT(largest_difference(logits, reference), 1e-5) << "computed in fp32";

    const auto exact = classifier(folder, true);
    loss_and_gradients(*model, expected.batch);
    loss_and_gradients(*exact, expected.batch);
    double dot = 0, mine_squared = 0, exact_squared = 0;
    const Tensors mine = gradients_of(worker::trained_parameters(*model));
    for (const auto& [name, gradient] : gradients_of(worker::trained_parameters(*exact))) {
      dot += (gradient * mine.at(name)).sum().item<double>();
      mine_squared += (mine.at(name) * mine.at(name)).sum().item<double>();
      exact_squared += (gradient * gradient).sum().item<double>();
    }
    EXPECT_GT(dot / std::sqrt(mine_squared * exact_squared), 0.9);
  }
}

}  // namespace
}  // namespace finesweep::parity
