#include "worker/models/student.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "worker/models/family.h"

namespace finesweep::worker {
namespace {

/// "h.", 3 and ".attn.weight" of "h.3.attn.weight": the first number between dots is the layer's.
struct LayerName {
  std::string before, behind;
  std::int64_t layer = 0;
};

std::optional<LayerName> layer_of(const std::string& name) {
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string word = name.substr(begin, end - begin);
    if (!word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c); })) {
      return LayerName{name.substr(0, begin), name.substr(end), std::stoll(word)};
    }
    begin = end + 1;
  }
  return std::nullopt;
}

/// Layers of each stack, by what stands before their number.
std::map<std::string, std::int64_t> count_layers(const Pretrained& model) {
  std::map<std::string, std::int64_t> counts;
  for (const WeightSpec& spec : model.specs) {
    const auto layer = layer_of(spec.names.front());
    if (layer) counts[layer->before] = std::max(counts[layer->before], layer->layer + 1);
  }
  return counts;
}

Json config_of_student(const Json& teacher, std::int64_t layers) {
  Json config = teacher;
  for (const char* key : {"num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"}) {
    if (config.contains(key)) config[key] = layers;
  }
  // What the config says layer by layer.
  const auto choose = [&](const Json& kinds) {
    Json chosen = Json::array();
    for (const std::int64_t layer : layers_of_student(static_cast<std::int64_t>(kinds.size()), layers)) {
      chosen.push_back(kinds[static_cast<std::size_t>(layer)]);
    }
    return chosen;
  };
  for (const char* key : {"attention_layers", "layer_types"}) {
    if (config.contains(key) && config[key].is_array()) config[key] = choose(config[key]);
  }
  if (const auto types = config.find("attention_types"); types != config.end() && types->is_array()) {
    Json kinds = Json::array();
    for (const Json& item : *types) {
      for (std::int64_t i = 0; i < item.at(1).get<std::int64_t>(); ++i) {
        kinds.insert(kinds.end(), item.at(0).begin(), item.at(0).end());
      }
    }
    *types = Json::array({Json::array({choose(kinds), 1u})});
  }
  return config;
}

/// GPT-Neo's layers alternate where its config says nothing: the student's are of the kinds that its teacher's are.
void write_out_attention(const std::string& family, std::int64_t layers, Json& config) {
  if (family != "gpt_neo" || config.contains("attention_types") || config.contains("attention_layers")) return;
  Json kinds = Json::array();
  for (std::int64_t i = 0; i < layers; ++i) kinds.push_back(i % 2 == 0 ? "global" : "local");
  config["attention_layers"] = kinds;
}

}  // namespace

std::vector<std::int64_t> layers_of_student(std::int64_t teacher, std::int64_t student) {
  std::vector<std::int64_t> layers;
  for (std::int64_t i = 0; i < student; ++i) {
    // In whole numbers: round(a / b) is floor((2 a + b) / (2 b)).
    const std::int64_t steps = student - 1;
    layers.push_back(steps == 0 ? 0 : (2 * i * (teacher - 1) + steps) / (2 * steps));
  }
  return layers;
}

Result<std::shared_ptr<const Pretrained>> student_of_layers(const Pretrained& teacher, std::int64_t layers) try {
  const auto counts = count_layers(teacher);
  for (const auto& [before, count] : counts) {
    if (layers > count) {
      return Error{"The student is to have " + std::to_string(layers) + " layers and the teacher has " +
                   std::to_string(count) + ". Set student.layers to at most that."};
    }
  }
  Json config = teacher.config;
  if (!counts.empty()) write_out_attention(teacher.family, counts.begin()->second, config);
  auto student = std::make_shared<Pretrained>(teacher);
  student->config = config_of_student(config, layers);
  auto specs = find_family(teacher.family)->weights(student->config);
  if (!specs) return Error{"The student's config: " + specs.error().message};
  student->specs = std::move(*specs);
  std::map<std::string, const Parameter*> by_name;
  for (std::size_t i = 0; i < teacher.specs.size(); ++i) {
    by_name[teacher.specs[i].names.front()] = &teacher.weights[i];
  }
  student->weights.clear();
  for (const WeightSpec& spec : student->specs) {
    std::string name = spec.names.front();
    const auto layer = layer_of(name);
    if (layer) {
      const auto chosen = layers_of_student(counts.at(layer->before), layers);
      name = layer->before + std::to_string(chosen[static_cast<std::size_t>(layer->layer)]) + layer->behind;
    }
    Parameter weight = *by_name.at(name);
    for (std::size_t part = 0; part < weight.parts.size(); ++part) weight.parts[part].name = spec.names[part];
    student->weights.push_back(std::move(weight));
  }
  return std::shared_ptr<const Pretrained>(std::move(student));
} catch (const std::exception& error) {
  return Error{teacher.folder.string() + ": cannot take layers of it: " + error.what()};
}

}  // namespace finesweep::worker
