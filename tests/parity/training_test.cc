#include <ATen/ops/cat.h>

#include "tests/parity/adapter_cases.h"
#include "worker/training/trainer.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

/// The true gradient of a key's bias is zero: Adam turns rounding noise into steps. In a bias of query, key and
/// value side by side it is the middle third.
at::Tensor without_key_bias(const std::string& name, const at::Tensor& tensor) {
  if (name.ends_with("key.bias") || name.ends_with("k_proj.bias")) return at::Tensor();
  if (!name.ends_with("c_attn.bias")) return tensor;
  const auto thirds = tensor.chunk(3);
  return at::cat({thirds[0], thirds[2]});
}

TEST(FullFineTuningParity, ten_training_steps_are_the_reference_s) {
  const auto cases = cases_in(fixtures() / "full_finetune");
  EXPECT_FALSE(cases.empty());
  for (const fs::path& folder : cases) {
    SCOPED_TRACE(folder);
    const auto model = parity::model_of(base_of(folder), Trains::all);
    expect_same_steps(*model, worker::trained_parameters(*model), folder);
    const fs::path saved = fs::path(testing::TempDir()) / ("full_" + folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    const Tensors mine = read_tensors(saved / "model.safetensors"),
                  final = read_tensors(folder / "train_final.safetensors");
    EXPECT_EQ(mine.size(), final.size());
    for (const auto& [name, tensor] : final) {
      ASSERT_TRUE(mine.contains(name)) << name;
      const at::Tensor a = without_key_bias(name, mine.at(name)), b = without_key_bias(name, tensor);
      if (!a.defined()) continue;
      EXPECT_LE(largest_difference(a, b), 5e-5) << name;
    }

    const Tensors batches = read_tensors(folder / "train_batches.safetensors");
    const auto again = parity::model_of(saved, Trains::head);
    const worker::Batch batch = any_batch_of(batches, "0.", *model);
    EXPECT_LE(largest_difference(logits_of(*again, batch), logits_of(*model, batch)), 1e-6);
  }
}

}  // namespace
}  // namespace finesweep::parity
