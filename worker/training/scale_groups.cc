#include "worker/training/scale_groups.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace finesweep::worker {
namespace {

/// Kernels want rows that begin at multiples of 16 bytes.
constexpr std::int64_t kColumnMultiple = 8;

std::int64_t padded(std::int64_t columns) {
  return (columns + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple;
}

}  // namespace

ScaleGroups::ScaleGroups(const std::vector<LinearModule*>& host,
                         const std::vector<std::vector<LinearModule*>>& jobs)
    : host_(host) {
  for (std::size_t m = 0; m < host.size(); ++m) {
    std::map<std::pair<bool, std::int64_t>, std::vector<Member>> parts;
    for (std::size_t j = 0; j < jobs.size(); ++j) {
      for (const ScaleBranch& branch : jobs[j][m]->scales) {
        parts[{branch.on_input, branch.out_begin}].push_back({j, &branch});
      }
    }
    for (const auto& [place, members] : parts) add(*host[m], members, jobs.size());
  }
}

ScaleGroups::~ScaleGroups() {
  for (LinearModule* module : host_) {
    std::erase_if(module->scales, [](const ScaleBranch& branch) { return branch.of_jobs; });
  }
}

void ScaleGroups::add(LinearModule& module, const std::vector<Member>& members, std::size_t jobs) {
  const ScaleBranch& first = *members.front().branch;
  const std::int64_t columns = first.columns();
  const auto rows = static_cast<std::int64_t>(jobs);
  const at::TensorOptions type = first.scale->value.options();

  auto group = std::make_unique<Parameter>();
  group->value = at::ones({rows, padded(columns)}, type).narrow(1, 0, columns);
  if (first.scale->trained) {
    group->grad = at::zeros({rows, padded(columns)}, type.dtype(at::kFloat)).narrow(1, 0, columns);
    group->trained = true;
  }
  for (const auto& [job, branch] : members) {
    const auto row_of = [&, row = static_cast<std::int64_t>(job), of = branch->scale](const at::Tensor& all) {
      return all.defined() ? all.select(0, row).view(of->value.sizes()) : all;
    };
    PackViews& views = views_[branch->scale];
    views = {row_of(group->value), row_of(group->grad)};
    views.value.copy_(branch->scale->master);
  }
  module.scales.push_back({group.get(), first.on_input, first.out_begin, /*of_jobs=*/true});
  groups_.push_back(std::move(group));
}

void ScaleGroups::leave_out(std::size_t job) {
  for (const auto& group : groups_) group->value.select(0, static_cast<std::int64_t>(job)).zero_();
}

PackViews ScaleGroups::views(const Parameter* parameter) const {
  const auto found = views_.find(parameter);
  return found == views_.end() ? PackViews() : found->second;
}

}  // namespace finesweep::worker
