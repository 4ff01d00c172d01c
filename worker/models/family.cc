#include "worker/models/family.h"

#include <array>
#include <nlohmann/json.hpp>

#include "worker/models/bert.h"
#include "worker/models/gpt2.h"
#include "worker/models/gpt_neo.h"
#include "worker/models/llama.h"
#include "worker/models/roberta.h"
#include "worker/models/t5.h"

namespace finesweep::worker {
namespace {

const std::array kFamilies = {&bert_family,  &gpt2_family,    &gpt_neo_family,
                              &llama_family, &roberta_family, &t5_family};

}  // namespace

const Family* find_family(std::string_view model_type) {
  for (const Family* family : kFamilies) {
    if (family->model_type == model_type) return family;
  }
  return nullptr;
}

std::vector<std::string_view> family_names() {
  std::vector<std::string_view> names;
  for (const Family* family : kFamilies) names.push_back(family->model_type);
  return names;
}

Result<std::int64_t> config_integer(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return Error{std::string("\"") + key + "\" is missing"};
  if (!found->is_number_integer() || found->get<std::int64_t>() < 1) {
    return Error{std::string("\"") + key + "\" must be a positive integer, and is " + found->dump()};
  }
  return found->get<std::int64_t>();
}

Result<std::int64_t> config_integer(const Json& config, const char* key, std::int64_t otherwise) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  return config_integer(config, key);
}

Result<bool> config_boolean(const Json& config, const char* key, bool otherwise) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_boolean())
    return Error{std::string("\"") + key + "\" must be true or false, and is " + found->dump()};
  return found->get<bool>();
}

Result<Activation> config_activation(const Json& config, const char* key, const char* otherwise) {
  const auto found = config.find(key);
  const Json name = found == config.end() || found->is_null() ? Json(otherwise) : *found;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  if (name == "silu" || name == "swish") return Activation::silu;
  return Error{std::string("\"") + key + "\" " + name.dump() +
               " is not supported; gelu, gelu_new, gelu_pytorch_tanh, relu and silu are"};
}

Result<double> config_number(const Json& config, const char* key, double otherwise) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_number()) return Error{std::string("\"") + key + "\" must be a number, and is " + found->dump()};
  return found->get<double>();
}

}  // namespace finesweep::worker
