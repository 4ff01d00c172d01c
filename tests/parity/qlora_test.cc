#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <set>

#include "tests/parity/adapter_cases.h"
#include "worker/models/quantized_base.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using worker::BaseQuantization;

std::vector<fs::path> qlora_cases() {
  auto cases = cases_in(fixtures() / "qlora");
  EXPECT_FALSE(cases.empty());
  return cases;
}

std::shared_ptr<const worker::Pretrained> quantized(const fs::path& folder) {
  return require(pretrained_of(base_of(folder), at::kFloat, BaseQuantization()));
}

/// What the files of the reference hold.
std::shared_ptr<const worker::Pretrained> quantized_by_reference(const fs::path& folder) {
  const auto base = require(pretrained_of(base_of(folder)));
  const auto file = require(worker::SafetensorsFile::open(folder / "base_nf4.safetensors"));
  return require(worker::with_quantized_weights(*base, file));
}

double distance(worker::Model& model, const worker::Batch& batch, const at::Tensor& reference) {
  return largest_difference(logits_of(model, batch), real_rows(reference, batch, model));
}

TEST(QloraParity, exactly_the_linear_layers_inside_the_transformer_layers_are_quantised) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    std::set<std::string> mine;
    const auto base = quantized(folder);
    for (const worker::Parameter& weight : base->weights) {
      if (!weight.present()) continue;  // a head that the files do not have
      EXPECT_NE(weight.quantized != nullptr, weight.value.defined());
      for (const auto& part : weight.parts) {
        if (weight.quantized) mine.insert(part.name.substr(0, part.name.rfind('.')));
      }
    }
    const auto listed = read_json(folder / "expected.json")["quantised_modules"].get<std::set<std::string>>();
    EXPECT_EQ(mine, listed);
  }
}

TEST(QloraParity, quantised_here_the_base_has_the_bytes_of_bitsandbytes) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const fs::path saved = fs::path(testing::TempDir()) / ("nf4_" + folder.filename().string());
    const auto base = quantized(folder);
    ASSERT_TRUE(worker::save_base(*base, saved).ok());
    const Tensors mine = read_tensors(saved / "model.safetensors");
    for (const auto& [name, tensor] : read_tensors(folder / "base_nf4.safetensors")) {
      ASSERT_TRUE(mine.contains(name)) << name;
      EXPECT_TRUE(mine.at(name).equal(tensor)) << name;
    }
    // And the directory loads again, as the same model.
    const auto again = require(pretrained_of(saved));
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const auto a = parity::model_of(base_of(folder), Trains::head, base),
               b = parity::model_of(base_of(folder), Trains::head, again);
    const worker::Batch batch = any_batch_of(expected, "in.", *a);
    EXPECT_TRUE(logits_of(*a, batch).equal(logits_of(*b, batch)));
  }
}

TEST(QloraParity, dequantised_weights_are_those_of_bitsandbytes) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const auto base = quantized_by_reference(folder);
    int compared = 0;
    for (const auto& [key, tensor] : read_tensors(folder / "expected.safetensors")) {
      if (!key.starts_with("deq.")) continue;
      for (const worker::Parameter& weight : base->weights) {
        std::int64_t begin = 0;
        for (const auto& part : weight.parts) {
          if (part.name == key.substr(4) + ".weight") {
            EXPECT_LE(largest_difference(weight.quantized->dequantize(at::kFloat, begin, part.rows), tensor), 1e-6);
            ++compared;
          }
          begin += part.rows;
        }
      }
    }
    EXPECT_GT(compared, 0);
  }
}

TEST(QloraParity, logits_loss_and_gradients_are_the_reference_s) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    for (const auto& base : {quantized(folder), quantized_by_reference(folder)}) {
      const auto model = parity::model_of(base_of(folder), Trains::head, base);
      const worker::Batch batch = any_batch_of(expected, "in.", *model);
      EXPECT_LE(distance(*model, batch, expected.at("base_nf4_logits")), 1e-4);
      const auto adapter = require(worker::read_adapter(*model, folder / "adapter", true));
      EXPECT_LE(distance(*model, batch, expected.at("logits")), 1e-4);
      EXPECT_NEAR(mean_loss_and_gradients(*model, batch), expected.at("loss").item<double>(), 2e-5);
      Tensors mine = gradients_of(adapter->parameters());
      for (const auto& [name, gradient] : gradients_of(worker::trained_parameters(*model))) {
        mine["base_model.model." + name] = gradient;
      }
      EXPECT_EQ(expect_same_gradients(expected, mine, 3e-4), static_cast<int>(mine.size()));
    }
  }
}

TEST(QloraParity, ten_training_steps_are_the_reference_s) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const auto model = parity::model_of(base_of(folder), Trains::head, quantized(folder));
    const auto adapter = require(worker::read_adapter(*model, folder / "adapter", true));
    expect_same_steps(*model, trained_with(*model, *adapter), folder);
    expect_same_final_adapter(*adapter, folder);
  }
}

TEST(Qlora, trains_in_bf16_and_fp16_too) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      const auto model = parity::model_of(base_of(folder), Trains::head, quantized(folder), precision);
      const worker::Batch batch = any_batch_of(expected, "in.", *model);
      const double scale = expected.at("base_nf4_logits").abs().max().item<double>();
      EXPECT_LE(distance(*model, batch, expected.at("base_nf4_logits")), 0.1 * scale);
      const auto adapter = require(worker::read_adapter(*model, folder / "adapter", true));
      const double reference = expected.at("loss").item<double>();
      EXPECT_NEAR(mean_loss_and_gradients(*model, batch), reference, 0.05 * reference);
      Tensors mine = gradients_of(adapter->parameters());
      double there = 0, square = 0, apart = 0;
      for (const auto& [name, gradient] : mine) {
        const at::Tensor& right = expected.at("grad." + name);
        there += at::mul(right, gradient).sum().item<double>();
        square += at::mul(right, right).sum().item<double>();
        apart += at::mul(gradient, gradient).sum().item<double>();
      }
      EXPECT_GT(there / std::sqrt(square * apart), 0.99) << "the gradient points elsewhere";
    }
  }
}

TEST(Qlora, merging_dequantises_and_unmerging_brings_the_few_bits_back) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const auto model = parity::model_of(base_of(folder), Trains::head, quantized(folder));
    const worker::Batch batch = any_batch_of(expected, "in.", *model);
    const auto adapter = require(worker::read_adapter(*model, folder / "adapter"));
    const at::Tensor unmerged = logits_of(*model, batch);
    const auto report = require(worker::merge(*model, *adapter));
    EXPECT_GT(report.dequantized_weights, 0);
    EXPECT_LE(distance(*model, batch, expected.at("logits")), 1e-4);
    ASSERT_TRUE(worker::unmerge(*model, *adapter).ok());
    EXPECT_TRUE(logits_of(*model, batch).equal(unmerged));
    // What is saved of a merged or quantised model is an ordinary one.
    ASSERT_TRUE(worker::merge(*model, *adapter).ok());
    const fs::path saved = fs::path(testing::TempDir()) / ("merged_" + folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    const auto again = parity::model_of(saved, Trains::head);
    EXPECT_LE(distance(*again, batch, expected.at("logits")), 1e-4);
  }
}

TEST(Qlora, an_int8_base_is_near_the_full_one_and_saves_as_itself) {
  for (const fs::path& folder : qlora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const auto full = require(pretrained_of(base_of(folder)));
    const auto base =
        require(worker::quantize_base(*full, BaseQuantization{.format = worker::QuantizedFormat::int8}));
    const auto model = parity::model_of(base_of(folder), Trains::head, base);
    const worker::Batch batch = any_batch_of(expected, "in.", *model);
    const at::Tensor& right = expected.at("full_precision_logits");
    EXPECT_LE(distance(*model, batch, right), 0.05 * right.abs().max().item<double>());
    const fs::path saved = fs::path(testing::TempDir()) / ("int8_" + folder.filename().string());
    ASSERT_TRUE(worker::save_base(*base, saved).ok());
    const auto again = parity::model_of(base_of(folder), Trains::head, require(pretrained_of(saved)));
    EXPECT_LE(largest_difference(logits_of(*model, batch), logits_of(*again, batch)), 1e-4);
  }
}

}  // namespace
}  // namespace finesweep::parity
