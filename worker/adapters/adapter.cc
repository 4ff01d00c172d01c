#include "worker/adapters/adapter.h"

#include <ATen/ops/sub.h>

#include <algorithm>
#include <utility>

#include "worker/adapters/adapter_parameter.h"
#include "worker/adapters/ia3.h"
#include "worker/adapters/lora.h"
#include "worker/adapters/targets.h"

namespace finesweep::worker {
namespace {

/// Fills in the family's targets, and leaves of the feed-forward targets those that the targets have.
Result<std::vector<Target>> choose_targets(Model& model, AdapterOptions& options) {
  const bool lora = options.kind == AdapterKind::lora;
  if (options.targets.empty() && options.target_expression.empty()) {
    options.targets = lora ? model.default_lora_targets() : model.default_ia3_targets();
  }
  Result<std::vector<Target>> targets = find_targets(model, options, UnmatchedTargets::refuse);
  if (!targets || lora || !options.feedforward_expression.empty()) return targets;
  const bool given = !options.feedforward_targets.empty();
  std::vector<std::string> used;
  for (const std::string& name : given ? options.feedforward_targets : model.default_ia3_feedforward()) {
    if (std::any_of(targets->begin(), targets->end(),
                    [&](const Target& target) { return target.path.ends_with(name); })) {
      used.push_back(name);
    } else if (given) {
      return Error{"feed-forward target \"" + name + "\" matches none of the targets"};
    }
  }
  options.feedforward_targets = std::move(used);
  return targets;
}

/// fp32, never the parameter's own memory.
at::Tensor full_copy(const Parameter& parameter) {
  if (parameter.quantized) return parameter.quantized->dequantize(at::kFloat, 0, parameter.rows());
  return parameter.value.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

Status can_hold_merged(const LinearModule& module) {
  if (shares_its_weight(module)) {
    return Error{"merge: the weight of " + module.paths.front() +
                 " is the input embedding too, which the adapter must not change; use it unmerged"};
  }
  if (module.weight->trained || (module.bias != nullptr && module.bias->trained)) {
    return Error{"merge: " + module.paths.front() + " is being trained; merge into a frozen model"};
  }
  return {};
}

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> Adapter::tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const Parameter* parameter : parameters()) {
    all.emplace_back(parameter->parts[0].name, parameter->master);
  }
  for (const LinearModule* module : model_.linear_modules()) {
    if (!is_head_module(model_, module->paths[0])) continue;
    for (const Parameter* parameter : {module->weight, module->bias}) {
      if (parameter == nullptr) continue;
      all.emplace_back(kPeftPrefix + parameter->parts[0].name,
                       parameter->trained ? parameter->master : parameter->value);
    }
  }
  return all;
}

Result<std::unique_ptr<Adapter>> make_adapter(Model& model, const AdapterOptions& given, std::uint64_t seed,
                                              bool trained) {
  AdapterOptions options = given;
  const std::string kind = options.kind == AdapterKind::lora ? "lora: " : "ia3: ";
  const Result<std::vector<Target>> targets = choose_targets(model, options);
  if (!targets) return Error{kind + targets.error().message};
  if (options.kind == AdapterKind::ia3) {
    auto adapter = Ia3Adapter::make(model, std::move(options), *targets, trained);
    if (!adapter) return Error{kind + adapter.error().message};
    return std::unique_ptr<Adapter>(std::move(*adapter));
  }
  auto adapter = LoraAdapter::make(model, std::move(options), *targets, trained);
  if (!adapter) return Error{kind + adapter.error().message};
  (*adapter)->initialise(seed);
  return std::unique_ptr<Adapter>(std::move(*adapter));
}

Result<MergeReport> merge(Model& model, Adapter& adapter) {
  if (&adapter.model_ != &model) return Error{"merge: the adapter belongs to another model"};
  if (adapter.merged_) return Error{"merge: the adapter is merged already"};
  for (const LinearModule* module : adapter.modules()) {
    if (Status fits = can_hold_merged(*module); !fits) return fits.error();
  }
  MergeReport report;
  for (const LinearModule* module : adapter.modules()) {
    const at::Tensor weight = full_copy(*module->weight);
    const at::Tensor bias = module->bias == nullptr ? at::Tensor() : full_copy(*module->bias);
    adapter.fold_into(*module, weight, bias);
    for (const auto& [parameter, exact] : {std::pair(module->weight, weight), std::pair(module->bias, bias)}) {
      if (parameter == nullptr) continue;
      adapter.originals_.push_back({parameter, parameter->value, parameter->quantized});
      if (parameter->quantized) ++report.dequantized_weights;
      const at::ScalarType type = parameter->type();
      parameter->quantized.reset();
      parameter->value = exact.to(type);
      report.largest_weight = std::max(report.largest_weight, exact.abs().max().item<double>());
      report.largest_rounding = std::max(
          report.largest_rounding, at::sub(parameter->value.to(at::kFloat), exact).abs().max().item<double>());
    }
  }
  adapter.detach();
  adapter.merged_ = true;
  return report;
}

Status unmerge(Model& model, Adapter& adapter) {
  if (&adapter.model_ != &model) return Error{"unmerge: the adapter belongs to another model"};
  if (!adapter.merged_) return Error{"unmerge: the adapter is not merged"};
  for (Adapter::Original& original : adapter.originals_) {
    original.parameter->value = std::move(original.value);
    original.parameter->quantized = std::move(original.quantized);
  }
  adapter.originals_.clear();
  adapter.attach();
  adapter.merged_ = false;
  return {};
}

}  // namespace finesweep::worker
