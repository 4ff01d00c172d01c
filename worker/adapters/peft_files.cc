#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "storage/files.h"
#include "worker/adapters/lora.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

/// Keys of PEFT's LoraConfig that change what an adapter computes, with the values that leave it plain LoRA.
struct PlainKey {
  const char* key;
  std::vector<Json> plain;
};
const std::vector<PlainKey>& plain_keys() {
  static const std::vector<PlainKey> keys = {
      {"bias", {"none"}},
      {"use_dora", {false}},
      {"use_qalora", {false}},
      {"use_bdlora", {nullptr, false}},
      {"lora_bias", {false}},
      {"fan_in_fan_out", {false}},
      {"rank_pattern", {nullptr, Json::object()}},
      {"alpha_pattern", {nullptr, Json::object()}},
      {"layers_to_transform", {nullptr}},
      {"layer_replication", {nullptr}},
      {"exclude_modules", {nullptr, Json::array()}},
      {"target_parameters", {nullptr, Json::array()}},
      {"trainable_token_indices", {nullptr}},
      {"alora_invocation_tokens", {nullptr}},
      {"arrow_config", {nullptr}},
      {"megatron_config", {nullptr}},
      {"monteclora_config", {nullptr}},
      {"velora_config", {nullptr}},
      {"kasa_config", {nullptr}},
  };
  return keys;
}

Error config_error(const std::string& file, const char* key, const Json& value, const std::string& expected) {
  return Error{file + ": \"" + key + "\" is " + value.dump() + "; expected " + expected};
}

/// target_modules is a list of names, or one regular expression for whole paths, or "all-linear".
Result<std::vector<std::string>> read_targets(Model& model, const Json& config, const std::string& file) {
  const Json value = config.value("target_modules", Json());
  std::vector<std::string> targets;
  if (value.is_array() && !value.empty()) {
    for (const Json& name : value) {
      if (!name.is_string()) return config_error(file, "target_modules", value, "names of modules");
      targets.push_back(name.get<std::string>());
    }
    return targets;
  }
  if (!value.is_string()) return config_error(file, "target_modules", value, "names of modules");
  const std::vector<std::string> heads = model.head_modules();
  const std::regex pattern(value == "all-linear" ? ".*" : value.get<std::string>());
  for (const LinearModule* module : model.linear_modules()) {
    for (const std::string& path : module->paths) {
      const bool is_head = std::find(heads.begin(), heads.end(), path) != heads.end();
      if (!is_head && std::regex_match(path, pattern)) targets.push_back(path);
    }
  }
  if (targets.empty()) return config_error(file, "target_modules", value, "an expression that matches a module");
  return targets;
}

Result<LoraOptions> read_options(Model& model, const Json& config, const std::string& file) {
  if (config.value("peft_type", Json()) != "LORA") {
    return config_error(file, "peft_type", config.value("peft_type", Json()), "\"LORA\"");
  }
  for (const PlainKey& key : plain_keys()) {
    const auto found = config.find(key.key);
    if (found == config.end()) continue;
    if (std::find(key.plain.begin(), key.plain.end(), *found) == key.plain.end()) {
      return config_error(file, key.key, *found, key.plain.back().dump() + " (the rest is not supported)");
    }
  }
  const std::vector<std::string> heads = model.head_modules();
  const Json saved = config.value("modules_to_save", Json());
  for (const Json& name : saved.is_array() ? saved : Json::array()) {
    // PEFT lists both names that a head may have; the one that a model lacks means nothing.
    if (name == "score" || std::find(heads.begin(), heads.end(), name) != heads.end()) continue;
    return config_error(file, "modules_to_save", saved, "only the head of the model");
  }
  LoraOptions options;
  const Json rank = config.value("r", Json()), alpha = config.value("lora_alpha", Json());
  if (!rank.is_number_integer() || rank.get<std::int64_t>() < 1) return config_error(file, "r", rank, "a rank");
  if (!alpha.is_number()) return config_error(file, "lora_alpha", alpha, "a number");
  const Json dropout = config.value("lora_dropout", Json(0.0)), rslora = config.value("use_rslora", Json(false));
  if (!dropout.is_number()) return config_error(file, "lora_dropout", dropout, "a number");
  if (!rslora.is_boolean()) return config_error(file, "use_rslora", rslora, "true or false");
  options.rank = rank.get<std::int64_t>();
  options.alpha = alpha.get<double>();
  options.dropout = dropout.get<double>();
  options.rslora = rslora.get<bool>();
  Result<std::vector<std::string>> targets = read_targets(model, config, file);
  if (!targets) return Error{targets.error()};
  options.targets = std::move(*targets);
  return options;
}

Json describe(const LoraOptions& options, const std::vector<std::string>& heads, const std::string& base_model) {
  std::vector<std::string> targets = options.targets;
  std::sort(targets.begin(), targets.end());
  std::vector<std::string> saved = heads;
  saved.push_back("score");
  // PEFT reads lora_alpha as whatever number stands there; it writes integers as such.
  const bool whole = options.alpha == std::floor(options.alpha);
  return {{"peft_type", "LORA"},
          {"task_type", "SEQ_CLS"},
          {"base_model_name_or_path", base_model},
          {"auto_mapping", nullptr},
          {"revision", nullptr},
          {"inference_mode", true},
          {"r", options.rank},
          {"lora_alpha", whole ? Json(static_cast<std::int64_t>(options.alpha)) : Json(options.alpha)},
          {"lora_dropout", options.dropout},
          {"use_rslora", options.rslora},
          {"target_modules", targets},
          {"exclude_modules", nullptr},
          {"modules_to_save", saved},
          {"bias", "none"},
          {"lora_bias", false},
          {"use_dora", false},
          {"fan_in_fan_out", false},
          {"init_lora_weights", true},
          {"rank_pattern", Json::object()},
          {"alpha_pattern", Json::object()},
          {"layers_to_transform", nullptr},
          {"layers_pattern", nullptr},
          {"layer_replication", nullptr},
          {"loftq_config", Json::object()}};
}

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

/// Copies the file's tensors into `into`; every one of them must be there, and no other.
Status copy_weights(const SafetensorsFile& file, const std::vector<std::pair<std::string, at::Tensor>>& into) {
  const std::string where = file.path().string();
  std::set<std::string> unknown;
  for (const std::string& name : file.names()) unknown.insert(name);
  std::vector<at::Tensor> sources;
  for (const auto& [name, tensor] : into) {
    if (unknown.erase(name) == 0) return Error{where + ": tensor \"" + name + "\" is missing"};
    Result<at::Tensor> source = file.tensor(name);
    if (!source) return Error{source.error()};
    if (source->sizes() != tensor.sizes()) {
      return Error{where + ": tensor \"" + name + "\" has shape " + shape_text(source->sizes()) + "; expected " +
                   shape_text(tensor.sizes()) + " for this model and its number of labels"};
    }
    sources.push_back(std::move(*source));
  }
  if (!unknown.empty()) return Error{where + ": unknown tensor \"" + *unknown.begin() + "\""};
  for (std::size_t i = 0; i < into.size(); ++i) into[i].second.copy_(sources[i]);
  return {};
}

}  // namespace

Result<std::unique_ptr<LoraAdapter>> read_lora(Model& model, const std::filesystem::path& folder,
                                               bool trained) try {
  const std::string config_file = (folder / kConfigFile).string();
  Result<std::string> text = storage::read_file(config_file);
  if (!text) return Error{text.error()};
  const Json config = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return Error{config_file + ": is not a JSON object"};
  Result<LoraOptions> options = read_options(model, config, config_file);
  if (!options) return Error{options.error()};
  Result<SafetensorsFile> file = SafetensorsFile::open(folder / kWeightsFile);
  if (!file) return Error{file.error()};

  std::unique_ptr<LoraAdapter> adapter(new LoraAdapter(model, *options));
  if (Status attached = adapter->attach(trained); !attached) {
    return Error{config_file + ": " + attached.error().message};
  }
  if (Status copied = copy_weights(*file, adapter->tensors()); !copied) return Error{copied.error()};
  for (Parameter* parameter : adapter->parameters()) parameter->refresh_value();
  for (Parameter* parameter : model.parameters()) {
    if (parameter->trained) parameter->refresh_value();
  }
  return adapter;
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot read the adapter: " + error.what()};
}

Status write_lora(const LoraAdapter& adapter, const std::string& base_model,
                  const std::filesystem::path& folder) try {
  std::filesystem::create_directories(folder);
  if (Status written = write_safetensors(folder / kWeightsFile, adapter.tensors(), {{"format", "pt"}}); !written) {
    return written;
  }
  const Json config = describe(adapter.options(), adapter.head_modules(), base_model);
  return storage::write_file_atomically(folder / kConfigFile, config.dump(2) + "\n");
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot write the adapter: " + error.what()};
}

}  // namespace finesweep::worker
