#include "worker/engine/masks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "worker/formats/safetensors.h"

namespace finesweep::worker {

Result<NamedMasks> read_masks(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  if (!file) return file.error();
  NamedMasks masks;
  for (const std::string& name : file->names()) {
    auto mask = file->tensor(name);
    if (!mask) return mask.error();
    masks.emplace_back(name, std::move(*mask));
  }
  return masks;
}

Status write_masks(const NamedMasks& masks, const std::filesystem::path& artifact) {
  if (masks.empty()) return {};
  return write_safetensors(artifact / kMasksName, masks);
}

std::vector<ParameterMask> apply_masks(const NamedMasks& masks, const std::vector<Parameter*>& parameters) {
  const std::map<std::string, at::Tensor> by_name(masks.begin(), masks.end());
  std::vector<ParameterMask> applied;
  for (Parameter* parameter : parameters) {
    at::Tensor mask;
    for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
      const auto found = by_name.find(parameter->parts[i].name);
      if (found == by_name.end()) continue;
      if (!mask.defined()) mask = at::ones_like(parameter->value, at::kByte);
      parameter->in_file_layout(mask, i).copy_(found->second);
    }
    if (!mask.defined()) continue;
    applied.push_back({parameter, std::move(mask)});
    applied.back().apply();
  }
  return applied;
}

NamedMasks named(const std::vector<ParameterMask>& masks) {
  NamedMasks all;
  for (const auto& [parameter, mask] : masks) {
    for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
      all.emplace_back(parameter->parts[i].name, parameter->in_file_layout(mask, i));
    }
  }
  return all;
}

NamedMasks both(const NamedMasks& masks, const NamedMasks& earlier) {
  std::map<std::string, at::Tensor> before(earlier.begin(), earlier.end());
  NamedMasks all;
  for (const auto& [name, mask] : masks) {
    const auto found = before.find(name);
    all.emplace_back(name, found == before.end() ? mask : mask * found->second.to(mask.device()));
    if (found != before.end()) before.erase(found);
  }
  all.insert(all.end(), before.begin(), before.end());
  return all;
}

Result<NamedMasks> masks_before_training(const Adapter& adapter, const PruneSettings& settings,
                                         const NamedMasks& earlier) {
  std::vector<at::Tensor> tensors;
  for (const Parameter* parameter : adapter.parameters()) tensors.push_back(parameter->master);
  const auto chosen = magnitude_masks(tensors, settings.amount, settings.scope);
  if (!chosen) return chosen.error();
  NamedMasks masks;
  bool learns = adapter.kind() != AdapterKind::lora;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = adapter.parameters()[i]->parts.front().name;
    if (name.find(".lora_B.") != std::string::npos) learns = learns || (*chosen)[i].any().item<bool>();
    masks.emplace_back(name, (*chosen)[i]);
  }
  if (!learns) {
    std::fprintf(stderr,
                 "warning: the masks prune every B of the adapter, which are 0 before training: it cannot learn. "
                 "Use scope per_tensor, or a smaller amount.\n");
  }
  return both(masks, earlier);
}

}  // namespace finesweep::worker
