#include "worker/training/pack_modules.h"

#include <algorithm>

namespace finesweep::worker {
namespace {

/// The same weights in the same memory.
bool same_memory(const Parameter& a, const Parameter& b) {
  if (a.quantized != b.quantized || a.product_type != b.product_type) return false;
  return a.quantized != nullptr || (a.value.defined() && b.value.defined() &&
                                    a.value.data_ptr() == b.value.data_ptr() && a.value.sizes() == b.value.sizes());
}

bool same_memory(const LinearModule& a, const LinearModule& b) {
  if (!same_memory(*a.weight, *b.weight) || (a.bias == nullptr) != (b.bias == nullptr)) return false;
  return a.bias == nullptr || same_memory(*a.bias, *b.bias);
}

bool is_head_of_language_model(Model& model, const LinearModule& module) {
  return model.language_model() != nullptr && &module == model.linear_modules().back();
}

Status check_weights(Model& host, Model& model) {
  const std::vector<Parameter*> theirs = host.parameters(), mine = model.parameters();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const bool same = !mine[i]->trained && same_memory(*mine[i], *theirs[i]);
    if (same) continue;
    const std::string& name = mine[i]->parts.front().name;
    if (!is_head_module(model, name) || !mine[i]->value.defined()) return Error{name + " is not the base's"};
    if (mine[i]->value.sizes() != theirs[i]->value.sizes()) return Error{name + " has another shape"};
  }
  return {};
}

}  // namespace

Status check_packable(Model& host, Model& model) {
  const std::vector<LinearModule*> theirs = host.linear_modules(), modules = model.linear_modules();
  if (host.family() != model.family() || host.compute_type() != model.compute_type() ||
      host.device() != model.device() || host.parameters().size() != model.parameters().size() ||
      theirs.size() != modules.size()) {
    return Error{"the models differ"};
  }
  if (Status fits = check_weights(host, model); !fits || model.device().is_cpu()) return fits;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    const LinearModule& module = *modules[m];
    const bool adapted = !module.branches.empty() || !module.scales.empty();
    if (adapted && (is_head_of_language_model(model, module) || !same_memory(module, *theirs[m]))) {
      return Error{"an adapter works on the head"};
    }
  }
  return {};
}

PackModules::PackModules(Model& host, const std::vector<Model*>& jobs) : host_(host.linear_modules()) {
  std::vector<std::vector<LinearModule*>> modules;
  for (Model* job : jobs) modules.push_back(job->linear_modules());
  const bool on_cpu = host.device().is_cpu();
  for (std::size_t m = 0; m < host_.size(); ++m) {
    const bool own = std::any_of(modules.begin(), modules.end(),
                                 [&](const auto& of_job) { return !same_memory(*of_job[m], *host_[m]); });
    if (!on_cpu && !own) continue;
    for (const auto& of_job : modules) host_[m]->of_jobs.push_back(of_job[m]);
  }
  if (on_cpu) return;
  scales_ = std::make_unique<ScaleGroups>(host_, modules);
  ranks_ = std::make_unique<RankGroups>(host_, modules, host.device());
}

PackModules::~PackModules() {
  for (LinearModule* module : host_) module->of_jobs.clear();
}

PackViews PackModules::views(const Parameter* parameter) const {
  if (!ranks_) return {};
  const PackViews views = ranks_->views(parameter);
  return views.value.defined() ? views : scales_->views(parameter);
}

at::Tensor PackModules::broken() const {
  return ranks_ ? ranks_->broken() : at::Tensor();
}

void PackModules::leave_out(std::size_t job) {
  if (!ranks_) return;
  ranks_->leave_out(job);
  scales_->leave_out(job);
}

}  // namespace finesweep::worker
