#include "worker/adapters/lora.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "worker/adapters/adapter_parameter.h"
#include "worker/kernels/upload.h"
#include "worker/random.h"

namespace finesweep::worker {

Result<std::int64_t> LoraAdapter::rank_of(const std::string& path) const {
  for (const auto& [expression, rank] : options_.rank_pattern) {
    const Result<bool> matched = pattern_matches(expression, path);
    if (!matched) return Error{"rank_pattern: " + matched.error().message};
    if (*matched) return rank;
  }
  return options_.rank;
}

Result<double> LoraAdapter::alpha_of(const std::string& path) const {
  for (const auto& [expression, alpha] : options_.alpha_pattern) {
    const Result<bool> matched = pattern_matches(expression, path);
    if (!matched) return Error{"alpha_pattern: " + matched.error().message};
    if (*matched) return alpha;
  }
  return options_.alpha;
}

double LoraAdapter::scale_of(std::int64_t rank, double alpha) const {
  const double width = static_cast<double>(rank);
  return alpha / (options_.rslora ? std::sqrt(width) : width);
}

Result<std::unique_ptr<LoraAdapter>> LoraAdapter::make(Model& model, AdapterOptions options,
                                                       const std::vector<Target>& targets, bool trained) {
  std::unique_ptr<LoraAdapter> adapter(new LoraAdapter(model, std::move(options)));
  if (adapter->options_.dropout < 0 || adapter->options_.dropout >= 1) {
    return Error{"dropout is " + std::to_string(adapter->options_.dropout) + "; expected 0 or more, below 1"};
  }
  for (const Target& target : targets) {
    const Result<std::int64_t> rank = adapter->rank_of(target.path);
    if (!rank) return rank.error();
    if (*rank < 1) return Error{"the rank of " + target.path + " is " + std::to_string(*rank) + "; at least 1"};
    const Result<double> alpha = adapter->alpha_of(target.path);
    if (!alpha) return alpha.error();
    auto layer = std::make_unique<Layer>();
    layer->target = target;
    layer->scale = adapter->scale_of(*rank, *alpha);
    const auto zeros = [&](std::int64_t rows, std::int64_t columns) {
      return at::zeros({rows, columns}, at::TensorOptions(at::kFloat).device(model.device()));
    };
    const std::string name = kPeftPrefix + target.path;
    layer->a =
        adapter_parameter(name + ".lora_A.weight", zeros(*rank, target.in), target.module->weight->type(), trained);
    layer->b = adapter_parameter(name + ".lora_B.weight", zeros(target.out, *rank), target.module->weight->type(),
                                 trained);
    adapter->layers_.push_back(std::move(layer));
  }
  adapter->attach();
  return adapter;
}

void LoraAdapter::initialise(std::uint64_t seed) {
  for (const auto& layer : layers_) {
    // Kaiming-uniform with a = sqrt 5: uniform within 1 / sqrt(in).
    const at::Tensor a = at::zeros(layer->a.master.sizes(), at::kFloat);
    const float bound = 1.0f / std::sqrt(static_cast<float>(a.size(1)));
    fill_uniform(a.mutable_data_ptr<float>(), static_cast<std::size_t>(a.numel()), -bound, bound,
                 RandomStream(seed, purpose::initialisation, {hash_name(layer->a.parts[0].name)}));
    upload(a, layer->a.master);
    layer->a.refresh_value();
  }
}

std::vector<Parameter*> LoraAdapter::parameters() const {
  std::vector<Parameter*> all;
  for (const auto& layer : layers_) {
    all.push_back(&layer->a);
    all.push_back(&layer->b);
  }
  return all;
}

void LoraAdapter::attach() {
  for (const auto& layer : layers_) {
    const Target& target = layer->target;
    target.module->branches.push_back({&layer->a, &layer->b, layer->scale, options_.dropout,
                                       dropout_site(target.path + ".lora_dropout"), target.out_begin});
  }
}

void LoraAdapter::detach() {
  for (const auto& layer : layers_) {
    std::erase_if(layer->target.module->branches, [&](const LoraBranch& branch) { return branch.a == &layer->a; });
  }
}

std::vector<LinearModule*> LoraAdapter::modules() const {
  std::vector<LinearModule*> all;
  for (const auto& layer : layers_) {
    if (all.empty() || all.back() != layer->target.module) all.push_back(layer->target.module);
  }
  return all;
}

void LoraAdapter::fold_into(const LinearModule& module, const at::Tensor& weight, const at::Tensor&) const {
  for (const auto& layer : layers_) {
    const Target& target = layer->target;
    if (target.module != &module) continue;
    weight.narrow(0, target.out_begin, target.out).add_(at::mm(layer->b.master, layer->a.master), layer->scale);
  }
}

}  // namespace finesweep::worker
