#include "worker/adapters/adapter.h"

#include "tests/parity/adapter_cases.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> adapter_cases() {
  auto cases = cases_in(fixtures() / "adapters");
  EXPECT_FALSE(cases.empty());
  return cases;
}

std::unique_ptr<worker::Adapter> adapter_on(worker::Model& model, const fs::path& folder, bool trained) {
  return require(worker::read_adapter(model, folder, trained));
}

struct AdapterCase {
  fs::path folder;
  Tensors expected;
  std::unique_ptr<worker::Model> model;
  worker::Batch batch;

  explicit AdapterCase(const fs::path& where, Precision precision = Precision::fp32)
      : folder(where),
        expected(read_tensors(where / "expected.safetensors")),
        model(parity::model_of(base_of(where), Trains::head, nullptr, precision)),
        batch(any_batch_of(expected, "in.", *model)) {}

  /// How far the model's logits are from the reference's.
  double distance(const std::string& which) const {
    return largest_difference(logits_of(*model, batch), real_rows(expected.at(which), batch, *model));
  }
};

TEST(AdapterParity, logits_and_loss_with_the_adapter_are_peft_s) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    AdapterCase c(folder);
    EXPECT_LE(c.distance("base_logits"), 1e-4);
    {
      const auto adapter = adapter_on(*c.model, folder, false);
      EXPECT_LE(c.distance("logits"), 1e-4);
      EXPECT_GT(c.distance("base_logits"), 1e-3) << "the adapter changes nothing";
    }
    if (c.model->head_modules().empty()) {
      EXPECT_LE(c.distance("base_logits"), 1e-4) << "the adapter left something behind";
    }
  }
}

TEST(AdapterParity, gradients_of_adapter_and_head_are_peft_s) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    AdapterCase c(folder);
    const auto adapter = adapter_on(*c.model, folder, true);
    EXPECT_NEAR(mean_loss_and_gradients(*c.model, c.batch), c.expected.at("loss").item<double>(), 2e-5);
    Tensors mine = gradients_of(adapter->parameters());
    for (const auto& [name, gradient] : gradients_of(worker::trained_parameters(*c.model))) {
      mine["base_model.model." + name] = gradient;
    }
    EXPECT_EQ(expect_same_gradients(c.expected, mine, 3e-4), static_cast<int>(mine.size()));
  }
}

TEST(AdapterParity, a_merged_adapter_gives_the_same_logits_and_peft_s_weights) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    AdapterCase c(folder);
    auto adapter = adapter_on(*c.model, folder, false);
    const at::Tensor unmerged = logits_of(*c.model, c.batch);
    const auto report = worker::merge(*c.model, *adapter);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_EQ(report->largest_rounding, 0);
    EXPECT_LE(c.distance("merged_logits"), 1e-4);
    int compared = 0;
    for (const worker::Parameter* parameter : c.model->parameters()) {
      for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
        const auto found = c.expected.find("merged_weight." + parameter->parts[i].name);
        if (found == c.expected.end()) continue;
        EXPECT_LE(largest_difference(parameter->in_file_layout(parameter->value, i), found->second), 1e-5);
        ++compared;
      }
    }
    EXPECT_GT(compared, 0);
    const Status unmerge = worker::unmerge(*c.model, *adapter);
    ASSERT_TRUE(unmerge.ok()) << unmerge.error().message;
    EXPECT_TRUE(logits_of(*c.model, c.batch).equal(unmerged));
    ASSERT_TRUE(worker::merge(*c.model, *adapter).ok());
    adapter.reset();
    EXPECT_LE(c.distance("merged_logits"), 1e-4) << "what was merged went with the adapter";
  }
}

TEST(AdapterParity, ten_training_steps_are_peft_s) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    const auto model = parity::model_of(base_of(folder), Trains::head);
    const auto adapter = adapter_on(*model, folder, true);
    expect_same_steps(*model, trained_with(*model, *adapter), folder);
    expect_same_final_adapter(*adapter, folder);
  }
}

void expect_same_config(const nlohmann::json& mine, const nlohmann::json& peft) {
  for (const auto& [key, value] : mine.items()) {
    if (key == "base_model_name_or_path") continue;
    EXPECT_TRUE(peft.contains(key)) << key;
    if (value.is_array()) {
      auto a = value.get<std::vector<std::string>>(), b = peft[key].get<std::vector<std::string>>();
      std::sort(a.begin(), a.end());
      std::sort(b.begin(), b.end());
      EXPECT_EQ(a, b) << key;
    } else {
      EXPECT_EQ(value, peft[key]) << key;
    }
  }
  // What only PEFT writes leaves the adapter plain: docs/peft.md lists it.
  for (const auto& [key, value] : peft.items()) {
    if (mine.contains(key)) continue;
    const bool harmless = key == "peft_version" || key == "megatron_core" || key == "qalora_group_size";
    EXPECT_TRUE(harmless || value.is_null() || value == false || value.empty()) << key << ": " << value;
  }
}

TEST(AdapterParity, a_written_adapter_has_peft_s_bytes_and_reads_back) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    const fs::path copy = fs::path(testing::TempDir()) / ("written_adapter_" + folder.filename().string());
    AdapterCase c(folder);
    {
      const auto adapter = adapter_on(*c.model, folder, false);
      const Status written = worker::write_adapter(*adapter, "base", copy);
      ASSERT_TRUE(written.ok()) << written.error().message;
    }
    EXPECT_TRUE(read_text(copy / "adapter_model.safetensors") == read_text(folder / "adapter_model.safetensors"));
    expect_same_config(read_json(copy / "adapter_config.json"), read_json(folder / "adapter_config.json"));
    const auto again = adapter_on(*c.model, copy, false);
    EXPECT_LE(c.distance("logits"), 1e-4);
  }
}

TEST(AdapterParity, bf16_is_near_and_merging_reports_its_rounding) {
  for (const fs::path& folder : adapter_cases()) {
    SCOPED_TRACE(folder);
    AdapterCase c(folder, Precision::bf16);
    const double scale = c.expected.at("logits").abs().max().item<double>();
    auto adapter = adapter_on(*c.model, folder, false);
    EXPECT_LE(c.distance("logits"), 0.1 * scale);
    const at::Tensor unmerged = logits_of(*c.model, c.batch);
    const auto report = worker::merge(*c.model, *adapter);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_GT(report->largest_rounding, 0);
    EXPECT_LE(report->largest_rounding, report->largest_weight / 256);
    EXPECT_LE(c.distance("merged_logits"), 0.1 * scale);
    ASSERT_TRUE(worker::unmerge(*c.model, *adapter).ok());
    EXPECT_TRUE(logits_of(*c.model, c.batch).equal(unmerged));
  }
}

}  // namespace
}  // namespace finesweep::parity
