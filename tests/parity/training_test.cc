#include <ATen/TensorOperators.h>

#include "tests/parity/models.h"
#include "worker/adapters/lora.h"
#include "worker/training/trainer.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

fs::path base_of(const fs::path& folder) {
  return fixtures() / read_json(folder / "expected.json")["base_model"].get<std::string>();
}

bool is_lora(const fs::path& folder) {
  const fs::path config = folder / "adapter_config.json";
  return fs::exists(config) && read_json(config).value("peft_type", "") == "LORA";
}

std::vector<fs::path> lora_cases() {
  auto cases = classifier_cases(fixtures() / "adapters", base_of);
  std::erase_if(cases, [](const fs::path& folder) { return !is_lora(folder); });
  EXPECT_FALSE(cases.empty());
  return cases;
}

std::unique_ptr<worker::LoraAdapter> adapter_on(worker::Model& model, const fs::path& folder, bool trained) {
  auto adapter = worker::read_lora(model, folder, trained);
  EXPECT_TRUE(adapter.ok()) << (adapter.ok() ? "" : adapter.error().message);
  return std::move(*adapter);
}

std::vector<worker::Parameter*> trained_with(worker::Model& model, worker::LoraAdapter& adapter) {
  std::vector<worker::Parameter*> parameters = adapter.parameters();
  for (worker::Parameter* parameter : worker::trained_parameters(model)) parameters.push_back(parameter);
  return parameters;
}

TrainingSettings settings_of(const nlohmann::json& train) {
  TrainingSettings settings;
  settings.learning_rate = train["lr"];
  settings.beta1 = train["betas"][0];
  settings.beta2 = train["betas"][1];
  settings.epsilon = train["eps"];
  settings.weight_decay = train["weight_decay"];
  settings.max_grad_norm = train["max_grad_norm"];
  settings.warmup.value = train["warmup_steps"];
  settings.schedule = train["schedule"] == "linear"   ? Schedule::linear
                      : train["schedule"] == "cosine" ? Schedule::cosine
                                                      : Schedule::constant;
  return settings;
}

/// Runs the reference's training steps and compares loss, learning rate and gradient norm of each.
void expect_same_steps(worker::Model& model, const std::vector<worker::Parameter*>& parameters,
                       const fs::path& folder) {
  const nlohmann::json train = read_json(folder / "expected.json")["train"];
  const Tensors batches = read_tensors(folder / "train_batches.safetensors");

  const auto no_decay = train["no_decay"].get<std::vector<std::string>>();
  for (const worker::Parameter* parameter : parameters) {
    for (const auto& part : parameter->parts) {
      const bool listed =
          std::find(no_decay.begin(), no_decay.end(), part.name) != no_decay.end() ||
          std::find(no_decay.begin(), no_decay.end(), "base_model.model." + part.name) != no_decay.end();
      EXPECT_EQ(parameter->decays, !listed) << part.name;
    }
  }

  const auto losses = train["steps"]["loss"].get<std::vector<double>>();
  const auto rates = train["steps"]["lr"].get<std::vector<double>>();
  const auto norms = train["steps"]["grad_norm"].get<std::vector<double>>();
  worker::Trainer trainer(model, parameters, settings_of(train), train["total_steps"], 0);
  for (std::size_t step = 0; step < losses.size(); ++step) {
    SCOPED_TRACE(step);
    const auto report = trainer.step({batch_of(batches, std::to_string(step) + ".")});
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->finite);
    EXPECT_NEAR(report->loss, losses[step], 2e-4);
    EXPECT_NEAR(report->learning_rate, rates[step], 1e-9);
    EXPECT_LE(std::abs(report->grad_norm - norms[step]) / norms[step], 1e-3);
  }
  const double after = loss_and_gradients(model, batch_of(batches, "0."));
  EXPECT_NEAR(after, train["steps"].at("loss_after_last_step_on_batch_0").get<double>(), 2e-4);
}

TEST(LoraParity, logits_and_loss_with_the_adapter_are_peft_s) {
  for (const fs::path& folder : lora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const worker::Batch batch = batch_of(expected, "in.");
    const auto model = classifier(base_of(folder), false);
    EXPECT_LE(largest_difference(logits_of(*model, batch), expected.at("base_logits")), 1e-4);
    {
      const auto adapter = adapter_on(*model, folder, false);
      EXPECT_LE(largest_difference(logits_of(*model, batch), expected.at("logits")), 1e-4);
      EXPECT_NEAR(adapter->scale(), read_json(folder / "expected.json")["scaling"].get<double>(), 1e-9);
    }
  }
}

TEST(LoraParity, gradients_of_adapter_and_head_are_peft_s) {
  for (const fs::path& folder : lora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const auto model = classifier(base_of(folder), false);
    const auto adapter = adapter_on(*model, folder, true);
    EXPECT_NEAR(loss_and_gradients(*model, batch_of(expected, "in.")), expected.at("loss").item<double>(), 2e-5);
    Tensors mine = gradients_of(adapter->parameters());
    for (const auto& [name, gradient] : gradients_of(worker::trained_parameters(*model))) {
      mine["base_model.model." + name] = gradient;
    }
    EXPECT_EQ(expect_same_gradients(expected, mine, 3e-4), static_cast<int>(mine.size()));
  }
}

TEST(LoraParity, a_merged_adapter_gives_the_same_logits_and_peft_s_weights) {
  for (const fs::path& folder : lora_cases()) {
    SCOPED_TRACE(folder);
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const worker::Batch batch = batch_of(expected, "in.");
    const auto model = classifier(base_of(folder), false);
    const auto adapter = adapter_on(*model, folder, false);
    worker::merge_lora(*model, *adapter);
    EXPECT_LE(largest_difference(logits_of(*model, batch), expected.at("merged_logits")), 1e-4);
    int compared = 0;
    for (const worker::Parameter* parameter : model->parameters()) {
      for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
        const auto found = expected.find("merged_weight." + parameter->parts[i].name);
        if (found == expected.end()) continue;
        EXPECT_LE(largest_difference(parameter->slice(parameter->value, i), found->second), 1e-5);
        ++compared;
      }
    }
    EXPECT_GT(compared, 0);
  }
}

TEST(LoraParity, ten_training_steps_are_peft_s) {
  for (const fs::path& folder : lora_cases()) {
    SCOPED_TRACE(folder);
    const auto model = classifier(base_of(folder), false);
    const auto adapter = adapter_on(*model, folder, true);
    expect_same_steps(*model, trained_with(*model, *adapter), folder);
    const Tensors final = read_tensors(folder / "train_final.safetensors");
    std::size_t compared = 0;
    for (const auto& [name, tensor] : adapter->tensors()) {
      ASSERT_TRUE(final.contains(name)) << name;
      EXPECT_LE(largest_difference(tensor, final.at(name)), 5e-5) << name;
      ++compared;
    }
    EXPECT_EQ(compared, final.size());
  }
}

TEST(LoraParity, a_written_adapter_has_peft_s_bytes_and_reads_back) {
  for (const fs::path& folder : lora_cases()) {
    SCOPED_TRACE(folder);
    const fs::path copy = fs::path(testing::TempDir()) / ("written_adapter_" + folder.filename().string());
    const auto model = classifier(base_of(folder), false);
    {
      const auto adapter = adapter_on(*model, folder, false);
      ASSERT_TRUE(worker::write_lora(*adapter, "base", copy).ok());
    }
    EXPECT_EQ(read_text(copy / "adapter_model.safetensors"), read_text(folder / "adapter_model.safetensors"));
    const nlohmann::json mine = read_json(copy / "adapter_config.json");
    const nlohmann::json peft = read_json(folder / "adapter_config.json");
    for (const auto& [key, value] : mine.items()) {
      if (key == "base_model_name_or_path") continue;
      EXPECT_TRUE(peft.contains(key)) << key;
      if (key == "target_modules" || key == "modules_to_save") {
        auto a = value.get<std::vector<std::string>>(), b = peft[key].get<std::vector<std::string>>();
        std::sort(a.begin(), a.end());
        std::sort(b.begin(), b.end());
        EXPECT_EQ(a, b) << key;
      } else {
        EXPECT_EQ(value, peft[key]) << key;
      }
    }
    const Tensors expected = read_tensors(folder / "expected.safetensors");
    const auto again = adapter_on(*model, copy, false);
    EXPECT_LE(largest_difference(logits_of(*model, batch_of(expected, "in.")), expected.at("logits")), 1e-4);
  }
}

TEST(FullFineTuningParity, ten_training_steps_are_the_reference_s) {
  for (const fs::path& folder : classifier_cases(fixtures() / "full_finetune", base_of)) {
    SCOPED_TRACE(folder);
    const auto model = classifier(base_of(folder), true);
    expect_same_steps(*model, worker::trained_parameters(*model), folder);
    const fs::path saved = fs::path(testing::TempDir()) / ("full_" + folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    const Tensors mine = read_tensors(saved / "model.safetensors"),
                  final = read_tensors(folder / "train_final.safetensors");
    EXPECT_EQ(mine.size(), final.size());
    for (const auto& [name, tensor] : final) {
      ASSERT_TRUE(mine.contains(name)) << name;
      // Its true gradient is zero: Adam turns rounding noise into steps.
      if (name.ends_with("key.bias")) continue;
      EXPECT_LE(largest_difference(mine.at(name), tensor), 5e-5) << name;
    }

    const Tensors batches = read_tensors(folder / "train_batches.safetensors");
    const auto again = classifier(saved, false);
    EXPECT_LE(
        largest_difference(logits_of(*again, batch_of(batches, "0.")), logits_of(*model, batch_of(batches, "0."))),
        1e-6);
  }
}

}  // namespace
}  // namespace finesweep::parity
