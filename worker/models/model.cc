#include "worker/models/model.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "storage/files.h"
#include "worker/formats/safetensors.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

std::string structure_of(Model& model) {
  std::size_t branches = 0, scales = 0, trained = 0, quantized = 0;
  for (const LinearModule* module : model.linear_modules()) {
    branches += module->branches.size();
    scales += module->scales.size();
    trained += module->weight->trained ? 1 : 0;
    quantized += module->weight->quantized ? 1 : 0;
  }
  const Json structure = {std::string(model.family()),
                          c10::toString(model.compute_type()),
                          model.config(),
                          branches,
                          scales,
                          trained,
                          quantized};
  return structure.dump();
}

std::string ranks_of(Model& model) {
  std::string ranks;
  for (const LinearModule* module : model.linear_modules()) {
    for (const LoraBranch& branch : module->branches) ranks += std::to_string(branch.a->rows()) + " ";
  }
  return ranks;
}

std::vector<Parameter*> trained_parameters(Model& model) {
  std::vector<Parameter*> trained;
  for (Parameter* parameter : model.parameters()) {
    if (parameter->trained) trained.push_back(parameter);
  }
  return trained;
}

std::int64_t count_values(const std::vector<Parameter*>& parameters) {
  std::int64_t count = 0;
  for (const Parameter* parameter : parameters) {
    count += parameter->quantized ? parameter->rows() * parameter->columns() : parameter->value.numel();
  }
  return count;
}

Status check_within(const at::Tensor& values, std::int64_t limit, const char* what) {
  const ProfileScope scope("checks", OperatorGroup::data);
  if (!values.defined() || values.numel() == 0) return {};
  const std::int64_t least = values.min().item<std::int64_t>(), most = values.max().item<std::int64_t>();
  if (least >= 0 && most < limit) return {};
  return Error{std::string(what) + " " + std::to_string(least < 0 ? least : most) +
               " is outside of the model's 0 … " + std::to_string(limit - 1)};
}

void describe_labels(const Model& model, std::int64_t labels, Pooling pooling, Json& config) {
  Json id2label = Json::object(), label2id = Json::object();
  for (std::int64_t i = 0; i < labels; ++i) {
    const bool named = i < static_cast<std::int64_t>(model.label_names.size());
    const std::string name = named ? model.label_names[static_cast<std::size_t>(i)] : "LABEL_" + std::to_string(i);
    id2label[std::to_string(i)] = name;
    label2id[name] = i;
  }
  config["id2label"] = id2label;
  config["label2id"] = label2id;
  config["problem_type"] = labels == 1 ? "regression" : "single_label_classification";
  config.erase("num_labels");
  if (pooling == Pooling::mean) {
    config["finesweep_pooling"] = "mean";  // transformers has no such head: its class would pool otherwise
  } else {
    config.erase("finesweep_pooling");
  }
}

bool is_head_module(const Model& model, std::string_view path) {
  for (const std::string& head : model.head_modules()) {
    if (path == head || (path.starts_with(head) && path[head.size()] == '.')) return true;
  }
  return false;
}

Status save_pretrained(Model& model, const std::filesystem::path& folder) try {
  std::filesystem::create_directories(folder);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const Parameter* parameter : model.parameters()) {
    const at::Tensor whole = parameter->quantized
                                 ? parameter->quantized->dequantize(at::kFloat, 0, parameter->rows())
                                 : (parameter->trained ? parameter->master : parameter->value).to(at::kFloat);
    for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
      tensors.emplace_back(parameter->parts[i].name, parameter->in_file_layout(whole, i));
    }
  }
  if (Status written = write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}}); !written) {
    return written;
  }
  Json config = model.config();
  config.erase("quantization_config");
  return storage::write_file_atomically(folder / "config.json", config.dump(2) + "\n");
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot save the model: " + error.what()};
}

}  // namespace finesweep::worker
