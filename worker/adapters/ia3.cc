#include "worker/adapters/ia3.h"

#include <ATen/ops/ones.h>

#include "worker/adapters/adapter_parameter.h"

namespace finesweep::worker {

Result<std::unique_ptr<Ia3Adapter>> Ia3Adapter::make(Model& model, AdapterOptions options,
                                                     const std::vector<Target>& targets, bool trained) {
  const Result<std::vector<bool>> feedforward = find_feedforward(targets, options);
  if (!feedforward) return feedforward.error();
  std::unique_ptr<Ia3Adapter> adapter(new Ia3Adapter(model, std::move(options)));
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Target& target = targets[i];
    auto layer = std::make_unique<Layer>();
    layer->target = target;
    layer->on_input = (*feedforward)[i];
    const at::TensorOptions type = at::TensorOptions(at::kFloat).device(model.device());
    const at::Tensor ones = layer->on_input ? at::ones({1, target.in}, type) : at::ones({target.out, 1}, type);
    layer->scale =
        adapter_parameter(kPeftPrefix + target.path + ".ia3_l", ones, target.module->weight->type(), trained);
    adapter->layers_.push_back(std::move(layer));
  }
  adapter->attach();
  return adapter;
}

std::vector<Parameter*> Ia3Adapter::parameters() const {
  std::vector<Parameter*> all;
  for (const auto& layer : layers_) all.push_back(&layer->scale);
  return all;
}

void Ia3Adapter::attach() {
  for (const auto& layer : layers_) {
    layer->target.module->scales.push_back({&layer->scale, layer->on_input, layer->target.out_begin});
  }
}

void Ia3Adapter::detach() {
  for (const auto& layer : layers_) {
    std::erase_if(layer->target.module->scales,
                  [&](const ScaleBranch& branch) { return branch.scale == &layer->scale; });
  }
}

std::vector<LinearModule*> Ia3Adapter::modules() const {
  std::vector<LinearModule*> all;
  for (const auto& layer : layers_) {
    if (all.empty() || all.back() != layer->target.module) all.push_back(layer->target.module);
  }
  return all;
}

void Ia3Adapter::fold_into(const LinearModule& module, const at::Tensor& weight, const at::Tensor& bias) const {
  for (const auto& layer : layers_) {
    const Target& target = layer->target;
    if (target.module != &module) continue;
    weight.narrow(0, target.out_begin, target.out).mul_(layer->scale.master);
    if (bias.defined() && !layer->on_input) {
      bias.narrow(0, target.out_begin, target.out).mul_(layer->scale.master.flatten());
    }
  }
}

}  // namespace finesweep::worker
