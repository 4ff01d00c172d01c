// Quantising and merging: what a model is kept in, what it then weighs, and that it is the same model still.

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/pipeline.h"
#include "worker/models/pretrained.h"
#include "worker/models/quantized_base.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Quantize : public ::testing::TestWithParam<std::string> {
 protected:
  double loss(Pipeline& pipeline, const std::string& precision = "fp32") {
    Json settings = bench_.evaluate_settings();
    settings["precision"] = precision;
    return pipeline.run(StepKind::evaluate, settings).metrics.at("loss");
  }

  JobBench bench_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Execute, Quantize, ::testing::Values("bert", "gpt2", "t5", "llama"),
                         [](const auto& info) { return info.param; });

TEST_P(Quantize, a_model_takes_fewer_bytes_in_every_format_and_stays_near_what_it_was) {
  Pipeline trained(bench_);
  trained.run(StepKind::finetune, bench_.finetune_settings("full"));
  const double before = loss(trained);
  const double full_mb = static_cast<double>(fs::file_size(trained.artifact() / "model/model.safetensors")) / 1e6;
  double least = full_mb;
  for (const char* format : {"fp16", "bf16", "int8", "nf4"}) {
    SCOPED_TRACE(format);
    Pipeline pipeline = trained;
    const Outcome outcome = pipeline.run(StepKind::quantize, quantize_settings(format));
    const double mb = outcome.metrics.at("model_mb");
    EXPECT_LT(mb, full_mb);
    // What lies in the files is what is kept in memory, but for their headers and the tables of the format.
    const fs::path model = pipeline.artifact() / "model";
    const auto base = load_pretrained(model, format[0] == 'f'   ? at::kHalf
                                             : format[0] == 'b' ? at::kBFloat16
                                                                : at::kFloat);
    ASSERT_TRUE(base.ok()) << base.error().message;
    EXPECT_EQ(static_cast<double>(bytes_in_memory(**base)) / 1e6, mb);
    if (std::string(format) == "nf4") {
      const QuantizedSize size = quantized_size(**base);
      EXPECT_GT(size.values, 0);
      EXPECT_LT(static_cast<double>(size.bytes), 0.6 * static_cast<double>(size.values));
    }
    const std::string precision = format[0] == 'f' ? "fp16" : format[0] == 'b' ? "bf16" : "fp32";
    EXPECT_NEAR(loss(pipeline, precision), before, std::string(format) == "nf4" ? 0.5 : 0.05);
    EXPECT_NEAR(loss(pipeline), before, std::string(format) == "nf4" ? 0.5 : 0.05);
    least = std::min(least, mb);
  }
  EXPECT_LT(least, 0.95 * full_mb);
}

TEST_P(Quantize, under_an_unmerged_adapter_only_the_base_is_quantised) {
  Pipeline pipeline(bench_);
  pipeline.run(StepKind::finetune, bench_.finetune_settings("lora"));
  const auto adapter = pipeline.adapter();
  const double before = loss(pipeline);
  const Outcome outcome = pipeline.run(StepKind::quantize, quantize_settings("nf4"));
  EXPECT_GT(outcome.metrics.at("model_mb"), 0);
  EXPECT_EQ(pipeline.manifest().at("kind"), "adapter");
  EXPECT_EQ(pipeline.manifest().at("quantization").at("format"), "nf4");
  for (const auto& [name, tensor] : pipeline.adapter()) EXPECT_TRUE(at::equal(tensor, adapter.at(name))) << name;
  const double after = loss(pipeline);
  EXPECT_NE(before, after);
  EXPECT_NEAR(before, after, 1);
  // It is trained further on that base.
  pipeline.run(StepKind::finetune, bench_.finetune_settings("lora"));
  EXPECT_EQ(pipeline.manifest().at("quantization").at("format"), "nf4");
}

TEST_P(Quantize, an_adapter_on_a_quantised_model_is_what_qlora_trains) {
  Pipeline pipeline(bench_), qlora(bench_);
  pipeline.run(StepKind::quantize, quantize_settings("nf4"));
  const Outcome lora = pipeline.run(StepKind::finetune, bench_.finetune_settings("lora"));
  const Outcome direct = qlora.run(StepKind::finetune, bench_.finetune_settings("qlora"));
  EXPECT_EQ(lora.metrics.at("loss"), direct.metrics.at("loss"));
  EXPECT_EQ(loss(pipeline), loss(qlora));
}

TEST_P(Quantize, a_merged_adapter_computes_the_same_whatever_its_base_is_kept_in) {
  for (const char* method : {"lora", "qlora", "ia3"}) {
    SCOPED_TRACE(method);
    Pipeline pipeline(bench_);
    Json training = bench_.finetune_settings(method);
    training["learning_rate"] = 1e-2;
    pipeline.run(StepKind::finetune, training);
    const double before = loss(pipeline);
    const Outcome outcome = pipeline.run(StepKind::merge, Json::object());
    EXPECT_EQ(pipeline.manifest().at("kind"), "model");
    EXPECT_FALSE(pipeline.manifest().contains("quantization"));
    EXPECT_FALSE(fs::exists(pipeline.artifact() / "adapter"));
    EXPECT_LT(outcome.metrics.at("relative_error"), 1e-5);
    EXPECT_EQ(outcome.metrics.contains("requantized_error"), std::string(method) == "qlora");
    EXPECT_NEAR(loss(pipeline), before, 1e-4);
    if (std::string(method) != "qlora") continue;
    EXPECT_GT(outcome.metrics.at("requantized_error"), outcome.metrics.at("relative_error"));
    pipeline.run(StepKind::quantize, quantize_settings("nf4"));
    EXPECT_NEAR(loss(pipeline), before, 1);
  }
}

TEST(ExecuteQuantize, a_base_in_fp16_stays_so_under_an_adapter_and_when_it_is_merged) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::finetune, bench.finetune_settings("lora"));
  pipeline.run(StepKind::quantize, quantize_settings("fp16"));
  EXPECT_EQ(pipeline.manifest().at("storage"), "fp16");
  const Outcome merged = pipeline.run(StepKind::merge, Json::object());
  EXPECT_GT(merged.metrics.at("relative_error"), 0);
  EXPECT_LT(merged.metrics.at("relative_error"), 1e-2);
  const auto tensors = pipeline.tensors("model/model.safetensors");
  const at::Tensor& weight = tensors.at("transformer.h.0.attn.c_attn.weight");
  EXPECT_TRUE(at::equal(weight, weight.to(at::kHalf).to(at::kFloat)));
}

TEST(ExecuteQuantize, weights_are_quantised_once) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::quantize, quantize_settings("int8"));
  for (const char* format : {"nf4", "fp16"}) {
    const Outcome outcome = bench.run(pipeline.next(StepKind::quantize, quantize_settings(format)));
    EXPECT_EQ(outcome.kind, OutcomeKind::failed);
    EXPECT_TRUE(outcome.permanent);
    EXPECT_THAT(outcome.error, HasSubstr("quantised already"));
  }
  const Outcome full = bench.run(pipeline.next(StepKind::finetune, bench.finetune_settings("full")));
  EXPECT_THAT(full.error, HasSubstr("Quantised weights cannot be trained"));
}

TEST(ExecuteMerge, there_must_be_an_adapter) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::finetune, bench.finetune_settings("full"));
  const Outcome outcome = bench.run(pipeline.next(StepKind::merge, Json::object()));
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_THAT(outcome.error, HasSubstr("no adapter to merge"));
}

}  // namespace
}  // namespace finesweep::worker
