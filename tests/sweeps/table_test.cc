// The settings table agrees with itself and with what is made from it: the docs page, the starters, the examples.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "jobs/settings_table.h"
#include "sweeps/describe.h"
#include "sweeps/values.h"
#include "sweeps/yaml_reader.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path source(const std::string& path) {
  return fs::path(FINESWEEP_SOURCE_DIR) / path;
}

TEST(SettingsTableTest, every_default_is_a_value_that_the_setting_accepts) {
  int defaults = 0;
  for (const Setting& setting : settings_table()) {
    if (setting.fallback.empty()) continue;
    ++defaults;
    const Json expected = Json::parse(setting.fallback);
    Diagnostics diagnostics;
    auto node = read_yaml(setting.fallback, 0, diagnostics);
    ASSERT_TRUE(node.has_value()) << setting.key;
    PathResolver paths("/", "/");
    const auto value = read_value(*node, setting, std::string(setting.key), paths, diagnostics);
    ASSERT_TRUE(value.has_value()) << setting.key << format_diagnostics(diagnostics.sorted(), "default");
    EXPECT_EQ(*value, expected) << setting.key;
    EXPECT_EQ(value->is_number_float(), expected.is_number_float())
        << setting.key << ": a number's default needs a point or an exponent";
  }
  EXPECT_GT(defaults, 50);
}

TEST(SettingsTableTest, rows_of_one_key_differ_only_in_when_they_are_used) {
  const auto table = settings_table();
  for (std::size_t i = 0; i < table.size(); ++i) {
    EXPECT_FALSE(table[i].doc.empty()) << table[i].key;
    EXPECT_NE(table[i].sections, 0u) << table[i].key;
    for (std::size_t j = 0; j < i; ++j) {
      if (table[i].key != table[j].key || (table[i].sections & table[j].sections) == 0) continue;
      EXPECT_NE(table[i].use, table[j].use) << table[i].key;
      EXPECT_EQ(table[i].type, table[j].type) << table[i].key;
    }
  }
}

TEST(SettingsTableTest, the_docs_page_is_the_table) {
  const fs::path page = source("docs/settings.md");
  if (update_expected()) std::ofstream(page, std::ios::binary) << settings_page();
  EXPECT_EQ(read_text(page), settings_page())
      << "run FINESWEEP_UPDATE_EXPECTED=1 sweeps_tests --gtest_filter='*docs_page*'";
}

TEST(StarterTest, every_starter_is_a_sweep_that_plans) {
  for (const Starter& starter : starters()) {
    MemoryFiles world = make_world();
    const std::string text(starter_text(starter.name).value());
    // The starters' sequences are longer than the small model of the tests.
    const SweepParse parse = parse_in_world("#set finetune.sequence_length=64\n" + text, world);
    ASSERT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, starter.name);
    EXPECT_THAT(parse.diagnostics, ::testing::IsEmpty());
    EXPECT_GT(parse.sweep->plan.trials.size(), 1u);
    for (std::size_t i = 0, line = 0; i < text.size(); ++i, line = text[i - 1] == '\n' ? 0 : line + 1)
      ASSERT_LT(line, 121u) << starter.name;
  }
  const auto unknown = starter_text("nonsense");
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.error().message, HasSubstr("classification"));
}

/// The examples' own data, with models like those that set-up fetches.
MemoryFiles example_world() {
  MemoryFiles world;
  for (const auto& entry : fs::recursive_directory_iterator(source("examples")))
    if (entry.is_regular_file())
      world.files["/repository" / fs::relative(entry.path(), source(""))] = read_text(entry.path());
  const fs::path model = "/repository/models/minilm-l6";
  world.files[model / "config.json"] = Json{{"model_type", "bert"},           {"hidden_size", 384},
                                            {"num_hidden_layers", 6},         {"num_attention_heads", 12},
                                            {"max_position_embeddings", 512}, {"vocab_size", 30522}}
                                           .dump();
  world.files[model / "model.safetensors"] = bert_weights(1, 384, 1536);
  world.files[model / "vocab.txt"] = "[PAD]\n";
  world.files["/repository/models/smollm2-135m-instruct.gguf"] = gguf_file("llama", 30);
  const fs::path t5 = "/repository/models/random-t5";
  world.files[t5 / "config.json"] =
      Json{{"model_type", "t5"}, {"d_model", 40}, {"num_layers", 1}, {"num_heads", 4}, {"vocab_size", 100}}.dump();
  const std::string attention = "encoder.block.0.layer.0.SelfAttention.",
                    dense = "encoder.block.0.layer.1.DenseReluDense.";
  world.files[t5 / "model.safetensors"] = weight_file({{attention + "q.weight", {32, 40}},
                                                       {attention + "k.weight", {32, 40}},
                                                       {attention + "v.weight", {32, 40}},
                                                       {dense + "wi_1.weight", {80, 40}},
                                                       {dense + "wo.weight", {40, 80}}});
  world.files[t5 / "tokenizer.json"] = "{}";
  return world;
}

/// Plans examples/FILE, which must give no warning.
void expect_plan(const fs::path& file) {
  SCOPED_TRACE(file.string());
  MemoryFiles world = example_world();
  SweepRequest request;
  request.file = "/repository/examples" / file;
  const SweepParse parse = parse_sweep(request, world);
  EXPECT_EQ(format_diagnostics(parse.diagnostics, request.file.string()), "");
  ASSERT_TRUE(parse.sweep.has_value());
  EXPECT_EQ(parse.sweep->plan.name, file.stem());
  EXPECT_FALSE(parse.sweep->plan.report.baseline.empty());
}

TEST(ExampleTest, every_example_plans_without_a_warning) {
  int examples = 0;
  for (const auto& entry : fs::directory_iterator(source("examples"))) {
    if (entry.path().extension() != ".yaml") continue;
    ++examples;
    expect_plan(entry.path().filename());
  }
  EXPECT_GE(examples, 2);
}

TEST(ExampleTest, every_study_for_a_cpu_plans_without_a_warning) {
  int studies = 0;
  for (const auto& entry : fs::directory_iterator(source("examples/studies"))) {
    if (!entry.path().filename().string().ends_with("-small.yaml")) continue;
    ++studies;
    expect_plan(fs::path("studies") / entry.path().filename());
  }
  EXPECT_EQ(studies, 5);
}

TEST(NotebookPageTest, its_sweeps_plan) {
  const std::string page = read_text(source("docs/from-a-notebook.md"));
  std::vector<std::string> blocks;
  const std::string opening = "```yaml\n";
  for (std::size_t at = page.find(opening); at != std::string::npos; at = page.find(opening, at)) {
    at += opening.size();
    blocks.push_back(page.substr(at, page.find("```\n", at) - at));
  }
  ASSERT_EQ(blocks.size(), 2u);
  // The second is put in the place of the first one's end.
  const std::string one = blocks[0], many = one.substr(0, one.find("sweep:")) + blocks[1];
  for (const auto& [text, trials] : {std::pair(one, 1u), std::pair(many, 21u)}) {
    std::string here = text;
    for (const auto& [from, to] : {std::pair<std::string, std::string>{"roberta-base", "models/roberta"},
                                   {"train.jsonl", "data/train.jsonl"},
                                   {"validation.jsonl", "data/validation.jsonl"},
                                   {"test.jsonl", "data/test.jsonl"},
                                   {"128", "64"}}) {
      for (std::size_t at = 0; (at = here.find(from, at)) != std::string::npos; at += to.size())
        here.replace(at, from.size(), to);
    }
    MemoryFiles world = make_world();
    const SweepParse parse = parse_in_world(here, world);
    ASSERT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "page");
    EXPECT_EQ(parse.sweep->plan.trials.size(), trials);
  }
}

TEST(DescribeTest, a_plan_is_shown_with_its_sharing_memory_and_notes) {
  MemoryFiles world = example_world();
  SweepRequest request;
  request.file = "/repository/examples/quickstart.yaml";
  const SweepParse parse = parse_sweep(request, world);
  ASSERT_TRUE(parse.sweep.has_value());
  const std::string text = plan_text(parse.sweep->plan, world);
  EXPECT_THAT(text, HasSubstr("quickstart: 4 configurations, 8 trials, 24 jobs\n"));
  EXPECT_THAT(text, HasSubstr("Full fine-tuning"));
  EXPECT_THAT(text, HasSubstr("memory, MB (estimate)"));
  EXPECT_THAT(text, HasSubstr("compares with 'Full fine-tuning'"));
  EXPECT_THAT(text, HasSubstr("note: finetune.rank is dropped in 1 of 4 configurations"));
  const Json json = plan_json(parse.sweep->plan, world);
  EXPECT_EQ(json["configurations"][3]["label"], "Full fine-tuning");
  EXPECT_EQ(json["configurations"][3]["swept"]["finetune.rank"], nullptr);
  for (const Json& job : json["jobs"])
    if (job["kind"] == "finetune" && job["settings"]["method"] == "full") {
      // 4 bytes a weight, 4 a gradient, 8 for both moments.
      const double weights = job["memory_mb"]["weights"];
      EXPECT_DOUBLE_EQ(job["memory_mb"]["gradients"], weights);
      EXPECT_DOUBLE_EQ(job["memory_mb"]["moments"], 2 * weights);
      // 1 hidden layer's worth of weights is here, but 6 layers of 16 × 64 × 17 × 384 numbers of 4 bytes.
      EXPECT_DOUBLE_EQ(job["memory_mb"]["activations"], 6 * 16 * 64 * 17 * 384 * 4 / 1e6);
    }
}

}  // namespace
}  // namespace finesweep::sweeps
