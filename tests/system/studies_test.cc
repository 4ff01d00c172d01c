// Each small study in examples/studies with the real program and real models, from its file to its report: what
// stands in the table, and whether it can be true.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "tests/system/csv_table.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class Study : public ::testing::Test {
 protected:
  /// Runs examples/studies/NAME-small.yaml; `shorter` are settings that make it so.
  void run(const std::string& name, const std::vector<std::string>& shorter) {
    const fs::path root = FINESWEEP_SOURCE_DIR;
    for (const char* model : {"minilm-l6", "smollm2-135m-instruct.gguf", "random-t5"}) {
      if (!fs::exists(root / "models" / model)) {
        GTEST_SKIP() << "models/" << model << " is not there: run scripts/setup --models";
      }
    }
    std::vector<std::string> command{finesweep_program(), "run", root / "examples/studies" / (name + "-small.yaml"),
                                     "--out", workspace_ / "run"};
    if (!is_whole()) {
      for (const std::string& setting : shorter) command.insert(command.end(), {"--set", setting});
    }
    Process process(command, workspace_.path());
    const auto exit_code = process.wait(570s);
    ASSERT_EQ(exit_code.value_or(-1), 0) << process.output();
  }
  static bool is_whole() {
    const char* choice = std::getenv("FINESWEEP_STUDIES");
    return choice != nullptr && choice == std::string("whole");
  }
  CsvTable table(const std::string& name = "results.csv") const { return CsvTable(reports() / name); }
  fs::path reports() const { return workspace_.path() / "run/reports"; }

  /// The report is whole: a page, its plots, a table that names every configuration.
  void expect_report(const std::vector<std::string>& labels) {
    const std::string text = read_text(reports() / "report.md"), page = read_text(reports() / "report.html");
    for (const std::string& label : labels) {
      EXPECT_THAT(text, HasSubstr(label));
      EXPECT_THAT(page, HasSubstr(label));
    }
    EXPECT_THAT(text, HasSubstr("best use case"));
    int plots = 0;
    for (const auto& plot : fs::directory_iterator(reports() / "plots")) plots += plot.path().extension() == ".svg";
    EXPECT_GT(plots, 0);
    const CsvTable results = table();
    for (const auto& row : results.rows()) EXPECT_EQ(row.at("state"), "succeeded") << row.at("error");
  }

 private:
  Workspace workspace_;
};

TEST_F(Study, gpt_neo_summarisation) {
  ASSERT_NO_FATAL_FAILURE(run(
      "gpt-neo-summarisation",
      {"data.limit.train=32", "data.limit.test=8", "finetune.steps=8", "evaluate.generation.max_new_tokens=6"}));
  if (IsSkipped()) return;
  const auto rows = table();
  expect_report({"Baseline", "LoRA r8", "LoRA r16", "FP16 quantisation", "LoRA r8 + FP16 quantisation"});
  ASSERT_EQ(rows.rows().size(), 5u);
  for (const char* column : {"evaluate.seconds", "evaluate.peak_memory_mb", "evaluate.rouge1", "evaluate.rouge2",
                             "evaluate.rougeL", "evaluate.rougeLsum"}) {
    EXPECT_THAT(rows.columns(), Contains(column));
  }
  // What it learns in 20 steps: to answer with a verse and nothing else.
  if (is_whole()) {
    EXPECT_GT(rows.number("LoRA r8", "evaluate.rougeL"), rows.number("Baseline", "evaluate.rougeL") + 0.1);
  }
  EXPECT_LT(rows.number("LoRA r8", "evaluate.perplexity"), 0.8 * rows.number("Baseline", "evaluate.perplexity"));
  // 2 bytes a weight in place of 4 change little.
  EXPECT_NEAR(
      rows.number("FP16 quantisation", "evaluate.perplexity") / rows.number("Baseline", "evaluate.perplexity"), 1,
      0.02);
  const double values = 134.515e6;
  EXPECT_NEAR(rows.number("FP16 quantisation", "quantize.model_mb"), values * 2 / 1e6, values * 0.01 / 1e6);
  EXPECT_EQ(rows.number("LoRA r16", "finetune.trainable_parameters"),
            2 * rows.number("LoRA r8", "finetune.trainable_parameters"));
  EXPECT_LT(rows.number("LoRA r16", "finetune.trainable_parameters"), 0.02 * values);
}

TEST_F(Study, gpt2_t5_adapters) {
  ASSERT_NO_FATAL_FAILURE(run("gpt2-t5-adapters", {"data.limit.train=12", "data.limit.validation=4",
                                                   "data.limit.test=4", "finetune.sequence_length=48"}));
  if (IsSkipped()) return;
  const auto rows = table();
  expect_report({"SmolLM2 full", "SmolLM2 LoRA", "SmolLM2 IA3", "random-init T5 full", "random-init T5 LoRA",
                 "random-init T5 IA3"});
  ASSERT_EQ(rows.rows().size(), 6u);
  for (const char* column : {"test.rouge1", "test.rouge2", "test.rougeL", "test.bleu"})
    EXPECT_THAT(rows.columns(), Contains(column));
  for (const std::string model : {"SmolLM2 ", "random-init T5 "}) {
    const double full = rows.number(model + "full", "finetune.trainable_parameters"),
                 lora = rows.number(model + "LoRA", "finetune.trainable_parameters"),
                 ia3 = rows.number(model + "IA3", "finetune.trainable_parameters");
    EXPECT_LT(lora, 0.02 * full) << model;
    EXPECT_LT(ia3, lora) << model;
  }
  EXPECT_LT(rows.number("SmolLM2 LoRA", "validation.loss"), rows.number("random-init T5 LoRA", "validation.loss"));
  // The loss of each epoch, falling.
  int falling = 0;
  std::map<std::string, double> before;
  const CsvTable history = table("history.csv");
  for (const auto& point : history.rows()) {
    if (point.at("metric") != "loss" || point.at("step") != "finetune") continue;
    const double value = std::stod(point.at("value"));
    if (const auto first = before.find(point.at("trial")); first != before.end()) falling += value < first->second;
    before[point.at("trial")] = value;
  }
  EXPECT_EQ(before.size(), 6u);
  EXPECT_EQ(falling, 6);
}

TEST_F(Study, tinybert_paraphrase) {
  ASSERT_NO_FATAL_FAILURE(run("tinybert-paraphrase", {"data.limit.validation=30", "data.limit.test=120",
                                                      "benchmark.iterations=3", "benchmark.warmup=1"}));
  if (IsSkipped()) return;
  const auto rows = table();
  std::vector<std::string> labels;
  for (const char* model : {"full", "LoRA", "LoRA INT8", "LoRA NF4"})
    for (const char* attention : {" flash attention", " plain attention"})
      labels.push_back(std::string(model) + attention);
  expect_report(labels);
  ASSERT_EQ(rows.rows().size(), labels.size());
  for (const std::string& label : labels) {
    EXPECT_GT(rows.number(label, "test.accuracy"), 0.65) << label;  // of two classes that are equally frequent
    EXPECT_GT(rows.number(label, "benchmark.forward_ms_mean"), 0) << label;
    EXPECT_GT(rows.number(label, "benchmark.forward_ms_p99"), 0) << label;
  }
  // Weights in 8 bits answer nearly as those in 32 do, and in 4 bits take less than half as much.
  EXPECT_NEAR(rows.number("LoRA INT8 flash attention", "test.accuracy"),
              rows.number("LoRA flash attention", "test.accuracy"), 0.03);
  const double layers = 10.6e6;  // values in the linear layers, of 22.6 million
  EXPECT_NEAR(rows.number("LoRA INT8 flash attention", "quantize.model_mb") -
                  rows.number("LoRA NF4 flash attention", "quantize.model_mb"),
              layers * (1 - 0.516) / 1e6, 0.5);
  EXPECT_LT(rows.number("LoRA flash attention", "finetune.trainable_parameters"),
            0.02 * rows.number("full flash attention", "finetune.trainable_parameters"));
  EXPECT_THAT(read_text(reports() / "report.md"), HasSubstr("attention"));
}

TEST_F(Study, gpt2_distillation) {
  ASSERT_NO_FATAL_FAILURE(
      run("gpt2-distillation",
          {"data.limit.train=12", "data.limit.validation=4", "data.limit.test=8", "distill.sequence_length=32",
           "finetune.steps=4", "finetune.sequence_length=32", "benchmark.iterations=3", "benchmark.new_tokens=8"}));
  if (IsSkipped()) return;
  const auto rows = table();
  expect_report(
      {"1 epoch KV cache", "2 epochs KV cache", "4 epochs KV cache", "1 epoch no cache", "4 epochs no cache"});
  ASSERT_EQ(rows.rows().size(), 6u);
  for (const char* mode : {"benchmark.forward", "benchmark.generate"})
    for (const char* column : {"_ms_mean", "_ms_std", "_peak_memory_mb", "_samples_per_second_mean",
                               "_samples_per_second_std", "_tokens_per_second"})
      EXPECT_THAT(rows.columns(), Contains(std::string(mode) + column));
  double before = 1e9;
  for (const std::string epochs : {"1 epoch", "2 epochs", "4 epochs"}) {
    const std::string label = epochs + " KV cache", without = epochs + " no cache";
    EXPECT_LT(rows.number(label, "distilled.perplexity"), before) << label;
    before = rows.number(label, "distilled.perplexity");
    EXPECT_EQ(rows.number(without, "distilled.perplexity"), before) << label;
    EXPECT_NEAR(rows.number(label, "prune.sparsity"), 0.8, 1e-3) << label;
    EXPECT_GT(rows.number(without, "benchmark.generate_ms_mean"), rows.number(label, "benchmark.generate_ms_mean"))
        << label;
  }
  // 6 layers of 3.54 million values in NF4 take 0.516 bytes each; the embedding keeps its 4.
  const double layers = 6 * 3.54e6, embedding = 49152 * 576;
  EXPECT_NEAR(rows.number("4 epochs KV cache", "quantize.model_mb"), (layers * 0.516 + embedding * 4) / 1e6, 2);
}

TEST_F(Study, roberta_topics) {
  ASSERT_NO_FATAL_FAILURE(
      run("roberta-topics", {"data.limit.validation=60", "data.limit.test=120", "finetune.steps=20",
                             "finetune.batch_size=8", "finetune.sequence_length=48"}));
  if (IsSkipped()) return;
  const auto rows = table();
  std::vector<std::string> labels{"Full fine-tuning"};
  for (const std::string method : {"LoRA ", "QLoRA "})
    for (const char* rank : {"2-4", "4-8", "8-16"}) labels.push_back(method + rank);
  expect_report(labels);
  ASSERT_EQ(rows.rows().size(), labels.size());
  for (const std::string& label : labels) {
    EXPECT_GT(rows.number(label, "test.accuracy"), is_whole() ? 0.45 : 0.25)
        << label;  // of six classes, equally frequent
    EXPECT_GT(rows.number(label, "finetune.seconds"), 0) << label;
    EXPECT_GT(rows.number(label, "finetune.peak_memory_mb"), 0) << label;
  }
  for (const std::string method : {"LoRA ", "QLoRA "}) {
    const auto trained = [&](const char* rank) {
      return rows.number(method + rank, "finetune.trainable_parameters");
    };
    EXPECT_LT(trained("2-4"), trained("4-8"));
    EXPECT_LT(trained("4-8"), trained("8-16"));
    EXPECT_LT(trained("8-16"), 0.02 * rows.number("Full fine-tuning", "finetune.trainable_parameters"));
  }
  for (const char* rank : {"2-4", "4-8", "8-16"}) {
    EXPECT_LT(rows.number(std::string("LoRA ") + rank, "finetune.peak_memory_mb"),
              rows.number("Full fine-tuning", "finetune.peak_memory_mb"));
  }
}

}  // namespace
}  // namespace finesweep::tests
