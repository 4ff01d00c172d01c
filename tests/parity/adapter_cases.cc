#include "tests/parity/adapter_cases.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include "worker/models/family.h"
#include "worker/models/language_model.h"
#include "worker/training/trainer.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

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

bool is_encoder_decoder(const worker::Model& model) {
  worker::LanguageModel* language = const_cast<worker::Model&>(model).language_model();
  return language != nullptr && language->is_encoder_decoder();
}

}  // namespace

fs::path base_of(const fs::path& folder) {
  return fixtures() / read_json(folder / "expected.json")["base_model"].get<std::string>();
}

std::vector<fs::path> cases_in(const fs::path& parent) {
  std::vector<fs::path> cases;
  if (!fs::exists(parent)) return cases;
  for (const fs::path& folder : folders_in(parent)) {
    const std::string family = read_json(base_of(folder) / "config.json").value("model_type", "");
    if (worker::find_family(family) != nullptr) {
      cases.push_back(folder);
    } else {
      std::fprintf(stderr, "left out: %s, since there is no family \"%s\"\n", folder.c_str(), family.c_str());
    }
  }
  return cases;
}

std::unique_ptr<worker::Model> model_of(const fs::path& folder, Trains trains,
                                        std::shared_ptr<const worker::Pretrained> pretrained, Precision precision) {
  if (pretrained == nullptr) pretrained = require(pretrained_of(folder));
  const nlohmann::json config = read_json(folder / "config.json");
  const std::string architecture = config.value("architectures", nlohmann::json::array({""})).at(0);
  worker::ModelOptions options;
  options.train_all = trains == Trains::all;
  options.precision = precision;
  options.model_dropout = 0;
  if (architecture.ends_with("ForSequenceClassification")) {
    // Not stored when it is 2.
    options.labels = config.contains("id2label") ? static_cast<std::int64_t>(config["id2label"].size()) : 2;
  } else {
    options.head = worker::ModelHead::language_model;
  }
  return require(worker::make_model(std::move(pretrained), options));
}

worker::Batch any_batch_of(const Tensors& tensors, const std::string& prefix, const worker::Model& model) {
  worker::Batch batch = batch_of(tensors, prefix);
  const auto optional = [&](const char* name) {
    const auto found = tensors.find(prefix + name);
    return found == tensors.end() ? at::Tensor() : found->second;
  };
  batch.position_ids = optional("position_ids");
  batch.decoder_input_ids = optional("decoder_input_ids");
  if (is_encoder_decoder(model) && !batch.decoder_input_ids.defined()) {
    const at::Tensor shifted = at::zeros_like(batch.labels);
    const std::int64_t length = batch.labels.size(1);
    if (length > 1) {
      shifted.narrow(1, 1, length - 1).copy_(batch.labels.narrow(1, 0, length - 1).clamp_min(0));
    }
    batch.decoder_input_ids = shifted;
  }
  return batch;
}

at::Tensor real_rows(const at::Tensor& reference, const worker::Batch& batch, worker::Model& model) {
  if (reference.dim() == 2) return reference;
  const at::Tensor rows = reference.flatten(0, 1);
  if (is_encoder_decoder(model)) return rows;
  return rows.index({batch.attention_mask.flatten().nonzero().flatten()});
}

std::vector<worker::Parameter*> trained_with(worker::Model& model, worker::Adapter& adapter) {
  std::vector<worker::Parameter*> parameters = adapter.parameters();
  for (worker::Parameter* parameter : worker::trained_parameters(model)) parameters.push_back(parameter);
  return parameters;
}

double mean_loss_and_gradients(worker::Model& model, const worker::Batch& batch) {
  const at::NoGradGuard no_graph;
  worker::Tape tape;
  worker::Pass pass;
  pass.tape = &tape;
  const worker::Var loss = model.loss(batch, pass, static_cast<double>(model.counted(batch)));
  worker::backward(tape, loss);
  return loss.value.item<double>();
}

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
    const auto report = trainer.step({any_batch_of(batches, std::to_string(step) + ".", model)});
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->finite);
    EXPECT_NEAR(report->loss, losses[step], 2e-4);
    EXPECT_NEAR(report->learning_rate, rates[step], 1e-9);
    EXPECT_LE(std::abs(report->grad_norm - norms[step]) / norms[step], 1e-3);
  }
  const double after = mean_loss_and_gradients(model, any_batch_of(batches, "0.", model));
  EXPECT_NEAR(after, train["steps"].at("loss_after_last_step_on_batch_0").get<double>(), 2e-4);
}

void expect_same_final_adapter(const worker::Adapter& adapter, const fs::path& folder) {
  const Tensors final = read_tensors(folder / "train_final.safetensors");
  std::size_t compared = 0;
  for (const auto& [name, tensor] : adapter.tensors()) {
    ASSERT_TRUE(final.contains(name)) << name;
    EXPECT_LE(largest_difference(tensor, final.at(name)), 5e-5) << name;
    ++compared;
  }
  EXPECT_EQ(compared, final.size());
}

}  // namespace finesweep::parity
