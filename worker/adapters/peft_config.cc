#include "worker/adapters/peft_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "worker/adapters/targets.h"
#include "worker/models/language_model.h"

namespace finesweep::worker {
namespace {

/// A key that changes what an adapter computes, with the values that leave it plain; the last is named in messages.
struct PlainKey {
  const char* key;
  std::vector<Json> plain;
};

const std::vector<PlainKey>& plain_keys(AdapterKind kind) {
  static const std::vector<PlainKey> lora = {
      {"bias", {"none"}},
      {"use_dora", {nullptr, false}},
      {"use_qalora", {nullptr, false}},
      {"use_bdlora", {nullptr, false}},
      {"lora_bias", {nullptr, false}},
      // Those that change the base model's weights are not among them.
      {"init_lora_weights", {false, "gaussian", "eva", "orthogonal", nullptr, true}},
      {"layers_to_transform", {nullptr}},
      {"layer_replication", {nullptr}},
      {"exclude_modules", {Json::array(), nullptr}},
      {"target_parameters", {Json::array(), nullptr}},
      {"trainable_token_indices", {nullptr}},
      {"alora_invocation_tokens", {nullptr}},
      {"arrow_config", {nullptr}},
      {"corda_config", {nullptr}},
      {"lora_ga_config", {nullptr}},
      {"megatron_config", {nullptr}},
      {"monteclora_config", {nullptr}},
      {"velora_config", {nullptr}},
      {"kasa_config", {nullptr}},
  };
  static const std::vector<PlainKey> ia3 = {
      {"exclude_modules", {Json::array(), nullptr}},
  };
  return kind == AdapterKind::lora ? lora : ia3;
}

Error key_error(const char* key, const Json& value, const std::string& expected) {
  return Error{std::string("\"") + key + "\" is " + value.dump() + "; expected " + expected};
}

Json at_key(const Json& config, const char* key) {
  return config.value(key, Json());
}

/// As PEFT's TaskType.
std::string task_of(const Model& model) {
  LanguageModel* language = const_cast<Model&>(model).language_model();
  if (language == nullptr) return "SEQ_CLS";
  return language->is_encoder_decoder() ? "SEQ_2_SEQ_LM" : "CAUSAL_LM";
}

/// A list of names, or one expression.
Status read_names(const Json& config, const char* key, std::vector<std::string>& names, std::string& expression) {
  const Json value = at_key(config, key);
  if (value.is_string() && !value.get<std::string>().empty()) {
    expression = value.get<std::string>();
    return {};
  }
  if (!value.is_array()) return key_error(key, value, "names of modules");
  for (const Json& name : value) {
    if (!name.is_string()) return key_error(key, value, "names of modules");
    names.push_back(name.get<std::string>());
  }
  return {};
}

Status read_targets(const Json& config, AdapterOptions& options) {
  Status read = read_names(config, "target_modules", options.targets, options.target_expression);
  if (!read) return read;
  if (options.targets.empty() && options.target_expression.empty()) {
    return key_error("target_modules", at_key(config, "target_modules"), "names of modules");
  }
  std::string lower = options.target_expression;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower == kAllLinear) {
    options.targets = {std::string(kAllLinear)};
    options.target_expression.clear();
  }
  return {};
}

/// PEFT lists names that a head may have ("classifier", "score"); one that the model lacks means nothing.
Result<bool> read_saved_modules(const Model& model, const Json& config) {
  const Json saved = at_key(config, "modules_to_save");
  if (saved.is_null()) return false;
  bool has_head = false;
  for (const Json& name : saved.is_array() ? saved : Json::array({saved})) {
    if (!name.is_string()) return key_error("modules_to_save", saved, "names of modules");
    if (is_head_module(model, name.get<std::string>())) {
      has_head = true;
    } else if (name != "score" && name != "classifier") {
      return key_error("modules_to_save", saved, "no module but the head of a classifier");
    }
  }
  const std::vector<std::string> heads = model.head_modules();
  for (const std::string& head : has_head ? heads : std::vector<std::string>()) {
    if (std::find(saved.begin(), saved.end(), head) == saved.end()) {
      return key_error("modules_to_save", saved, "the whole head, \"" + head + "\" too");
    }
  }
  return has_head;
}

template <typename Value>
Status read_pattern(const Json& config, const char* key, std::vector<std::pair<std::string, Value>>& into) {
  const Json pattern = at_key(config, key);
  if (pattern.is_null()) return {};
  if (!pattern.is_object()) return key_error(key, pattern, "a map from names of modules to numbers");
  for (const auto& [expression, value] : pattern.items()) {
    const bool fits = std::is_integral_v<Value> ? value.is_number_integer() : value.is_number();
    if (!fits) return key_error(key, pattern, "a map from names of modules to numbers");
    into.emplace_back(expression, value.template get<Value>());
  }
  return {};
}

Status read_lora(const Json& config, AdapterOptions& options) {
  const Json rank = at_key(config, "r"), alpha = at_key(config, "lora_alpha");
  const Json dropout = config.value("lora_dropout", Json(0.0)), rslora = config.value("use_rslora", Json(false));
  if (!rank.is_number_integer() || rank.get<std::int64_t>() < 1) return key_error("r", rank, "a rank");
  if (!alpha.is_number()) return key_error("lora_alpha", alpha, "a number");
  if (!dropout.is_number()) return key_error("lora_dropout", dropout, "a number");
  if (!rslora.is_boolean()) return key_error("use_rslora", rslora, "true or false");
  options.rank = rank.get<std::int64_t>();
  options.alpha = alpha.get<double>();
  options.dropout = dropout.get<double>();
  options.rslora = rslora.get<bool>();
  if (Status read = read_pattern(config, "rank_pattern", options.rank_pattern); !read) return read;
  return read_pattern(config, "alpha_pattern", options.alpha_pattern);
}

/// PEFT writes an integer where it was given one.
Json number(double value) {
  return value == std::floor(value) ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

Json names_or_expression(std::vector<std::string> names, const std::string& expression) {
  if (!expression.empty()) return expression;
  if (names == std::vector<std::string>{std::string(kAllLinear)}) return std::string(kAllLinear);
  std::sort(names.begin(), names.end());
  return names;
}

void describe_lora(const AdapterOptions& options, Json& config) {
  config.update({{"peft_type", "LORA"},
                 {"r", options.rank},
                 {"lora_alpha", number(options.alpha)},
                 {"lora_dropout", options.dropout},
                 {"use_rslora", options.rslora},
                 {"bias", "none"},
                 {"lora_bias", false},
                 {"use_dora", false},
                 {"init_lora_weights", true},
                 {"layers_to_transform", nullptr},
                 {"layers_pattern", nullptr},
                 {"layer_replication", nullptr},
                 {"loftq_config", Json::object()},
                 {"rank_pattern", Json::object()},
                 {"alpha_pattern", Json::object()}});
  for (const auto& [expression, rank] : options.rank_pattern) config["rank_pattern"][expression] = rank;
  for (const auto& [expression, alpha] : options.alpha_pattern) config["alpha_pattern"][expression] = number(alpha);
}

/// PEFT refuses a list of feed-forward modules that is no part of the list of targets: then paths stand in both.
void describe_ia3(const Adapter& adapter, Json& config) {
  const AdapterOptions& options = adapter.options();
  config.update(
      {{"peft_type", "IA3"},
       {"init_ia3_weights", true},
       {"feedforward_modules", names_or_expression(options.feedforward_targets, options.feedforward_expression)}});
  if (!options.target_expression.empty() || !options.feedforward_expression.empty()) return;
  if (config["target_modules"].is_string()) return;
  const std::set<std::string> targets(options.targets.begin(), options.targets.end());
  if (std::all_of(options.feedforward_targets.begin(), options.feedforward_targets.end(),
                  [&](const std::string& name) { return targets.contains(name); })) {
    return;
  }
  config["target_modules"] = config["feedforward_modules"] = Json::array();
  const auto found = find_targets(adapter.model(), options, UnmatchedTargets::ignore);
  const auto feedforward = find_feedforward(*found, options);
  for (std::size_t i = 0; i < found->size(); ++i) {
    config["target_modules"].push_back((*found)[i].path);
    if ((*feedforward)[i]) config["feedforward_modules"].push_back((*found)[i].path);
  }
}

/// The files of one of the adapter's modules hold the transpose of its weight (GPT-2's Conv1D).
bool fan_in_fan_out(const Adapter& adapter) {
  const auto targets = find_targets(adapter.model(), adapter.options(), UnmatchedTargets::ignore);
  return targets && std::any_of(targets->begin(), targets->end(),
                                [](const Target& target) { return target.module->weight->transposed_in_files; });
}

}  // namespace

Result<PeftConfig> read_peft_config(const Model& model, const Json& config) {
  PeftConfig result;
  const Json type = at_key(config, "peft_type"), task = at_key(config, "task_type");
  if (type != "LORA" && type != "IA3") return key_error("peft_type", type, "\"LORA\" or \"IA3\"");
  result.options.kind = type == "LORA" ? AdapterKind::lora : AdapterKind::ia3;
  if (!task.is_null() && task != task_of(model)) {
    return key_error("task_type", task, "\"" + task_of(model) + "\" for this use of the model");
  }
  for (const PlainKey& key : plain_keys(result.options.kind)) {
    const auto found = config.find(key.key);
    if (found == config.end()) continue;
    if (std::find(key.plain.begin(), key.plain.end(), *found) == key.plain.end()) {
      return key_error(key.key, *found, key.plain.back().dump() + " (the rest is not supported)");
    }
  }
  const Result<bool> saves_head = read_saved_modules(model, config);
  if (!saves_head) return saves_head.error();
  result.saves_head = *saves_head;
  if (Status read = read_targets(config, result.options); !read) return read.error();
  Status read = result.options.kind == AdapterKind::lora
                    ? read_lora(config, result.options)
                    : read_names(config, "feedforward_modules", result.options.feedforward_targets,
                                 result.options.feedforward_expression);
  if (!read) return read.error();
  return result;
}

Json peft_config(const Adapter& adapter, const std::string& base_model) {
  const AdapterOptions& options = adapter.options();
  Json config = {{"task_type", task_of(adapter.model())},
                 {"base_model_name_or_path", base_model},
                 {"auto_mapping", nullptr},
                 {"revision", nullptr},
                 {"inference_mode", true},
                 {"fan_in_fan_out", fan_in_fan_out(adapter)},
                 {"target_modules", names_or_expression(options.targets, options.target_expression)},
                 {"exclude_modules", nullptr},
                 {"modules_to_save", nullptr}};
  if (const std::vector<std::string> heads = adapter.head_modules(); !heads.empty()) {
    std::set<std::string> saved = {"classifier", "score"};
    saved.insert(heads.begin(), heads.end());
    config["modules_to_save"] = saved;
  }
  if (options.kind == AdapterKind::lora) {
    describe_lora(options, config);
  } else {
    describe_ia3(adapter, config);
  }
  return config;
}

}  // namespace finesweep::worker
