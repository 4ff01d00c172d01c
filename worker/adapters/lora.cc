#include "worker/adapters/lora.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "worker/random.h"

namespace finesweep::worker {

/// The adapter of one linear module, or of one part of a stacked one.
struct LoraAdapter::Layer {
  std::string path;
  LinearModule* module = nullptr;
  std::size_t part = 0;
  Parameter a, b;
};

namespace {

constexpr const char* kPrefix = "base_model.model.";

bool is_head(const Model& model, std::string_view path) {
  const std::vector<std::string> heads = model.head_modules();
  return std::find(heads.begin(), heads.end(), path) != heads.end();
}

Parameter zeros(const std::string& name, std::int64_t rows, std::int64_t columns, c10::Device device) {
  Parameter parameter;
  parameter.parts.push_back({name, rows});
  parameter.value = at::zeros({rows, columns}, at::TensorOptions(at::kFloat).device(device));
  return parameter;
}

/// What the modules of a model can be called, for a message: the ends of their paths, once each.
std::string module_names(Model& model) {
  std::vector<std::string> names;
  for (const LinearModule* module : model.linear_modules()) {
    for (const std::string& path : module->paths) {
      const std::string name = path.substr(path.rfind('.') + 1);
      if (!is_head(model, path) && std::find(names.begin(), names.end(), name) == names.end())
        names.push_back(name);
    }
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

bool target_matches(std::string_view target, std::string_view module_path) {
  if (!module_path.ends_with(target)) return false;
  const std::size_t before = module_path.size() - target.size();
  return before == 0 || module_path[before - 1] == '.';
}

LoraAdapter::LoraAdapter(Model& model, LoraOptions options) : model_(model), options_(std::move(options)) {}

LoraAdapter::~LoraAdapter() {
  for (const std::unique_ptr<Layer>& layer : layers_) {
    std::erase_if(layer->module->branches, [&](const LoraBranch& branch) { return branch.a == &layer->a; });
  }
}

double LoraAdapter::scale() const {
  const double rank = static_cast<double>(options_.rank);
  return options_.alpha / (options_.rslora ? std::sqrt(rank) : rank);
}

Status LoraAdapter::attach(bool trained) {
  if (options_.rank < 1) return Error{"lora: rank must be at least 1"};
  if (options_.targets.empty()) options_.targets = model_.default_lora_targets();
  std::vector<bool> used(options_.targets.size(), false);
  for (LinearModule* module : model_.linear_modules()) {
    std::int64_t begin = 0;
    for (std::size_t part = 0; part < module->paths.size(); ++part) {
      const std::string& path = module->paths[part];
      const std::int64_t out = module->weight->parts[part].rows, in = module->weight->value.size(1);
      bool matched = false;
      for (std::size_t t = 0; t < options_.targets.size(); ++t) {
        if (is_head(model_, path) || !target_matches(options_.targets[t], path)) continue;
        matched = used[t] = true;
      }
      if (matched) {
        auto layer = std::make_unique<Layer>();
        layer->path = path;
        layer->module = module;
        layer->part = part;
        const c10::Device device = module->weight->value.device();
        layer->a = zeros(kPrefix + path + ".lora_A.weight", options_.rank, in, device);
        layer->b = zeros(kPrefix + path + ".lora_B.weight", out, options_.rank, device);
        const at::ScalarType type = module->weight->value.scalar_type();
        for (Parameter* parameter : {&layer->a, &layer->b}) {
          if (trained) {
            parameter->train(type);
          } else {
            parameter->master = parameter->value;
            parameter->value = parameter->value.to(type);
          }
        }
        module->branches.push_back(
            {&layer->a, &layer->b, scale(), options_.dropout, dropout_site(path + ".lora_dropout"), begin});
        layers_.push_back(std::move(layer));
      }
      begin += out;
    }
  }
  for (std::size_t t = 0; t < used.size(); ++t) {
    if (used[t]) continue;
    return Error{"lora: target \"" + options_.targets[t] + "\" names no linear module of this " +
                 std::string(model_.family()) +
                 (is_head(model_, options_.targets[t]) ? " that is not trained anyway" : "") +
                 "; there are: " + module_names(model_)};
  }
  return {};
}

std::vector<Parameter*> LoraAdapter::parameters() {
  std::vector<Parameter*> all;
  for (const std::unique_ptr<Layer>& layer : layers_) {
    all.push_back(&layer->a);
    all.push_back(&layer->b);
  }
  return all;
}

std::vector<std::pair<std::string, at::Tensor>> LoraAdapter::tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const std::unique_ptr<Layer>& layer : layers_) {
    all.emplace_back(layer->a.parts[0].name, layer->a.master);
    all.emplace_back(layer->b.parts[0].name, layer->b.master);
  }
  for (const LinearModule* module : model_.linear_modules()) {
    if (!is_head(model_, module->paths[0])) continue;
    for (const Parameter* parameter : {module->weight, module->bias}) {
      if (parameter == nullptr) continue;
      all.emplace_back(kPrefix + parameter->parts[0].name,
                       parameter->trained ? parameter->master : parameter->value);
    }
  }
  return all;
}

Result<std::unique_ptr<LoraAdapter>> make_lora(Model& model, const LoraOptions& options, std::uint64_t seed,
                                               bool trained) {
  std::unique_ptr<LoraAdapter> adapter(new LoraAdapter(model, options));
  if (Status attached = adapter->attach(trained); !attached) return Error{attached.error()};
  for (const auto& layer : adapter->layers_) {
    // Kaiming-uniform with a = sqrt 5: uniform within 1 / sqrt(in).
    const at::Tensor a = at::zeros(layer->a.master.sizes(), at::kFloat);
    const float bound = 1.0f / std::sqrt(static_cast<float>(a.size(1)));
    fill_uniform(a.mutable_data_ptr<float>(), a.numel(), -bound, bound,
                 RandomStream(seed, purpose::initialisation, {hash_name(layer->a.parts[0].name)}));
    layer->a.master.copy_(a);
    layer->a.refresh_value();
  }
  return adapter;
}

void merge_lora(Model& model, LoraAdapter& adapter) {
  for (const auto& layer : adapter.layers_) {
    Parameter& weight = *layer->module->weight;
    const at::Tensor delta = at::mm(layer->b.master, layer->a.master).mul_(adapter.scale());
    if (weight.trained) {
      weight.slice(weight.master, layer->part).add_(delta);
      weight.refresh_value();
    } else {
      weight.value = weight.value.clone();
      weight.slice(weight.value, layer->part).add_(delta);
    }
    layer->b.master.zero_();
    layer->b.refresh_value();
  }
}

}  // namespace finesweep::worker
