#include "worker/models/quantized_base.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>

#include <cmath>

#include "tests/models/repository_models.h"
#include "tests/parity/adapter_cases.h"
#include "worker/models/family.h"
#include "worker/models/language_model.h"
#include "worker/random.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using worker::BaseQuantization;
using worker::QuantizedFormat;

constexpr BaseQuantization kInt8 = {.format = QuantizedFormat::int8};

/// A stacked weight with parts of unequal numbers of rows.
worker::Parameter stacked(std::int64_t width) {
  worker::Parameter weight;
  std::int64_t rows = 0;
  for (const std::int64_t count : {384, 96, 97}) {
    weight.parts.push_back({"part" + std::to_string(count) + ".weight", count});
    rows += count;
  }
  weight.value = at::zeros({rows, width}, at::kFloat);
  worker::fill_normal(weight.value.mutable_data_ptr<float>(), static_cast<std::size_t>(weight.value.numel()), 0, 1,
                      worker::RandomStream(1, "test"));
  return weight;
}

TEST(QuantizedBase, nf4_takes_little_more_than_half_a_byte_a_weight) {
  for (const bool twice : {true, false}) {
    worker::Parameter weight = stacked(512);
    worker::quantize_weight(weight, {.double_quantization = twice});
    EXPECT_FALSE(weight.value.defined());
    const double values = static_cast<double>(weight.rows() * weight.columns());
    EXPECT_LT(static_cast<double>(weight.quantized->bytes()) / values, twice ? 0.53 : 0.57);
  }
}

TEST(QuantizedBase, a_frozen_base_of_any_family_takes_less_than_0_6_bytes_a_linear_weight) {
  for (const fs::path& folder : every_model()) {
    SCOPED_TRACE(folder);
    const auto base = require(worker::load_pretrained(folder, at::kFloat, c10::kCPU, BaseQuantization()));
    const worker::QuantizedSize size = worker::quantized_size(*base);
    EXPECT_GT(size.values, 0);
    EXPECT_LT(static_cast<double>(size.bytes), 0.6 * static_cast<double>(size.values));
  }
}

TEST(QuantizedBase, any_rows_of_a_stacked_weight_are_those_of_the_whole) {
  // An odd width: rows begin in the middle of a byte and of a block.
  for (const std::int64_t width : {64, 75}) {
    for (const BaseQuantization& how : {BaseQuantization(), kInt8}) {
      worker::Parameter weight = stacked(width);
      const at::Tensor original = weight.value;
      worker::quantize_weight(weight, how);
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
        const at::Tensor whole = weight.quantized->dequantize(type, 0, weight.rows());
        EXPECT_EQ(whole.scalar_type(), type);
        EXPECT_LT(largest_difference(whole, original), how.format == QuantizedFormat::int8 ? 0.05 : 0.8);
        for (const auto& [begin, count] : {std::pair(0, 1), {3, 381}, {383, 2}, {384, 96}, {400, 177}, {576, 1}}) {
          EXPECT_TRUE(weight.quantized->dequantize(type, begin, count).equal(whole.narrow(0, begin, count)))
              << begin << " " << count;
        }
      }
    }
  }
}

TEST(QuantizedBase, each_part_of_a_stacked_weight_is_quantised_on_its_own) {
  worker::Parameter whole = stacked(75);
  worker::Parameter last;
  last.parts = {whole.parts[2]};
  last.value = whole.slice(whole.value, 2).clone();
  worker::quantize_weight(whole, BaseQuantization());
  worker::quantize_weight(last, BaseQuantization());
  EXPECT_TRUE(
      whole.quantized->dequantize(at::kFloat, 480, 97).equal(last.quantized->dequantize(at::kFloat, 0, 97)));
}

TEST(QuantizedBase, adapters_on_one_in_fp8_get_the_gradients_of_one_in_bf16) {
  for (const fs::path& folder : every_model()) {
    SCOPED_TRACE(folder.string());
    std::map<Precision, std::pair<double, Tensors>> results;
    for (const Precision precision : {Precision::bf16, Precision::fp8_base}) {
      const bool fp8 = precision == Precision::fp8_base;
      const auto base = require(worker::load_pretrained(
          folder, at::kBFloat16, c10::kCPU,
          fp8 ? std::optional(BaseQuantization{.format = QuantizedFormat::fp8}) : std::nullopt));
      for (std::size_t i = 0; i < base->weights.size(); ++i) {
        EXPECT_EQ(base->weights[i].quantized != nullptr, fp8 && base->specs[i].quantizable);
      }
      const auto model = parity::model_of(folder, Trains::head, base, precision);
      EXPECT_EQ(model->compute_type(), at::kBFloat16);
      worker::AdapterOptions options;
      options.targets = {"all-linear"};
      const auto adapter = require(worker::make_adapter(*model, options, 1));
      const double loss = mean_loss_and_gradients(*model, some_batch(*model));
      results[precision] = {loss, gradients_of(adapter->parameters())};
    }
    const auto& [loss, gradients] = results[Precision::bf16];
    EXPECT_NEAR(results[Precision::fp8_base].first, loss, 0.5 * loss);
    EXPECT_GT(gradient_cosine(gradients, results[Precision::fp8_base].second), 0.9);
  }
}

TEST(QuantizedBase, adapters_train_on_one_of_every_family_in_every_type) {
  for (const fs::path& folder : every_model()) {
    for (const BaseQuantization& how : {BaseQuantization(), kInt8}) {
      SCOPED_TRACE(folder.string() + (how.format == QuantizedFormat::int8 ? " int8" : " nf4"));
      const auto base = require(worker::load_pretrained(folder, at::kFloat, c10::kCPU, how));
      Tensors right;
      double loss = 0;
      for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::fp16}) {
        const auto model = parity::model_of(folder, Trains::head, base, precision);
        worker::AdapterOptions options;
        options.targets = {"all-linear"};
        const auto adapter = require(worker::make_adapter(*model, options, 1));
        const double mine = mean_loss_and_gradients(*model, some_batch(*model));
        const Tensors gradients = gradients_of(adapter->parameters());
        if (precision == Precision::fp32) {
          right = gradients;
          loss = mine;
          continue;
        }
        EXPECT_NEAR(mine, loss, 0.1 * loss);
        EXPECT_GT(gradient_cosine(right, gradients), 0.98);
      }
    }
  }
}

TEST(QuantizedBase, a_saved_one_loads_as_the_same_model_and_not_to_be_quantised_again) {
  for (const fs::path& folder : every_model()) {
    for (const BaseQuantization& how :
         {BaseQuantization(), BaseQuantization{.double_quantization = false}, kInt8}) {
      SCOPED_TRACE(folder.string());
      const auto base = require(worker::load_pretrained(folder, at::kFloat, c10::kCPU, how));
      const fs::path saved = fs::path(testing::TempDir()) / "quantized_base";
      fs::remove_all(saved);
      ASSERT_TRUE(worker::save_base(*base, saved).ok());
      const nlohmann::json config = read_json(saved / "config.json")["quantization_config"];
      EXPECT_EQ(config["load_in_4bit"], how.format == QuantizedFormat::nf4);
      const auto again = require(worker::load_pretrained(saved));
      const auto a = parity::model_of(folder, Trains::head, base),
                 b = parity::model_of(folder, Trains::head, again);
      const worker::Batch batch = some_batch(*a);
      const double apart = largest_difference(logits_of(*a, batch), logits_of(*b, batch));
      EXPECT_LE(apart, how.format == QuantizedFormat::int8 ? 1e-4 : 0);
      const auto twice = worker::load_pretrained(saved, at::kFloat, c10::kCPU, BaseQuantization());
      ASSERT_FALSE(twice.ok());
      EXPECT_THAT(twice.error().message, HasSubstr("quantised already"));
      EXPECT_THAT(worker::quantize_base(*base, BaseQuantization()).error().message, HasSubstr("quantised already"));
    }
  }
}

}  // namespace
}  // namespace finesweep::parity
