// finesweep's side of the round trip of adapters (docs/peft.md): for every case that peft_cases.py made, reads
// PEFT's adapter and writes it again, makes one of its own with the same options, and leaves the logits of both.

#include <ATen/TensorIndexing.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "worker/adapters/adapter.h"
#include "worker/data/batch.h"
#include "worker/formats/safetensors.h"
#include "worker/models/family.h"
#include "worker/models/pretrained.h"
#include "worker/random.h"

namespace {

using namespace finesweep;
using namespace finesweep::worker;
namespace fs = std::filesystem;

template <typename T>
T require(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

void require(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

Json read_json(const fs::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

std::unique_ptr<Model> load(const fs::path& folder) {
  const auto pretrained = require(load_pretrained(folder));
  ModelOptions options;
  options.frozen = true;
  if (pretrained->config.at("architectures").at(0).get<std::string>().ends_with("ForSequenceClassification")) {
    options.labels = pretrained->config.contains("id2label")
                         ? static_cast<std::int64_t>(pretrained->config["id2label"].size())
                         : 2;
  } else {
    options.head = ModelHead::language_model;
  }
  return require(make_model(pretrained, options));
}

Batch read_inputs(const fs::path& path) {
  const SafetensorsFile file = require(SafetensorsFile::open(path));
  Batch batch;
  batch.input_ids = require(file.tensor("input_ids"));
  batch.attention_mask = require(file.tensor("attention_mask"));
  if (file.contains("decoder_input_ids")) batch.decoder_input_ids = require(file.tensor("decoder_input_ids"));
  for (std::int64_t i = 0; i < batch.input_ids.size(0); ++i) batch.row_indices.push_back(i);
  return batch;
}

/// "target_modules" and the like: a list or an expression.
void read_names(const Json& names, std::vector<std::string>& list, std::string& expression) {
  if (names.is_array()) list = names.get<std::vector<std::string>>();
  if (!names.is_string()) return;
  if (names == "all-linear") {
    list = {names};
  } else {
    expression = names;
  }
}

AdapterOptions options_of(const Json& wanted) {
  AdapterOptions options;
  options.kind = wanted.at("kind") == "ia3" ? AdapterKind::ia3 : AdapterKind::lora;
  read_names(wanted.at("target_modules"), options.targets, options.target_expression);
  read_names(wanted.at("feedforward_modules"), options.feedforward_targets, options.feedforward_expression);
  if (options.kind == AdapterKind::ia3) return options;
  options.rank = wanted.at("r");
  options.alpha = wanted.at("lora_alpha");
  options.dropout = wanted.at("lora_dropout");
  options.rslora = wanted.at("use_rslora");
  for (const auto& [name, rank] : wanted.at("rank_pattern").items()) options.rank_pattern.emplace_back(name, rank);
  for (const auto& [name, alpha] : wanted.at("alpha_pattern").items()) {
    options.alpha_pattern.emplace_back(name, alpha);
  }
  return options;
}

void randomise(Adapter& adapter) {
  for (Parameter* parameter : adapter.parameters()) {
    const at::Tensor values = at::zeros(parameter->master.sizes(), at::kFloat);
    fill_normal(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel()),
                adapter.kind() == AdapterKind::ia3 ? 1.0f : 0.0f, 0.3f,
                RandomStream(1, "test", {hash_name(parameter->parts[0].name)}));
    parameter->master.copy_(values);
    parameter->refresh_value();
  }
}

void run_case(const fs::path& folder) {
  const auto model = load(folder / "model");
  const Batch batch = read_inputs(folder / "inputs.safetensors");
  const auto logits = [&] { return model->logits(batch, Pass()).value.clone(); };
  std::vector<std::pair<std::string, at::Tensor>> results;
  {
    const auto adapter = require(read_adapter(*model, folder / "peft"));
    results.emplace_back("peft", logits());
    results.emplace_back("rewritten", results.back().second.clone());
    require(write_adapter(*adapter, "model", folder / "rewritten"));
  }
  const auto adapter = require(make_adapter(*model, options_of(read_json(folder / "case.json")), 1, false));
  randomise(*adapter);
  results.emplace_back("made", logits());
  require(write_adapter(*adapter, "model", folder / "made"));
  // A head that shares its weight with the embedding takes an adapter and no merging.
  if (merge(*model, *adapter)) results.emplace_back("merged", logits());
  require(write_safetensors(folder / "logits.safetensors", results));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", arguments[0]);
    return 2;
  }
  const at::NoGradGuard no_graph;
  int failures = 0;
  for (const auto& entry : fs::directory_iterator(arguments[1])) {
    if (!fs::exists(entry.path() / "case.json")) continue;
    const std::string family = read_json(entry.path() / "model" / "config.json").at("model_type");
    if (find_family(family) == nullptr) continue;
    try {
      run_case(entry.path());
    } catch (const std::exception& error) {
      std::printf("%s: %s\n", entry.path().filename().c_str(), error.what());
      ++failures;
    }
  }
  return failures == 0 ? 0 : 1;
}
