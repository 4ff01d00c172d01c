#include "worker/training/rank_groups.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <stdexcept>
#include <utility>

namespace finesweep::worker {

RankGroups::RankGroups(const std::vector<LinearModule*>& host, const std::vector<std::vector<LinearModule*>>& jobs,
                       c10::Device device)
    : host_(host) {
  broken_ = at::zeros({static_cast<std::int64_t>(jobs.size())}, at::TensorOptions(at::kInt).device(device));
  for (std::size_t m = 0; m < host.size(); ++m) {
    std::map<std::int64_t, std::vector<Member>> parts;  // by their first column
    for (std::size_t j = 0; j < jobs.size(); ++j) {
      for (const LoraBranch& branch : jobs[j][m]->branches) parts[branch.out_begin].push_back({j, &branch});
    }
    for (const auto& [begin, members] : parts) add(*host[m], members);
  }
  fused_ = std::make_unique<FusedLora>(host);
  settle_views();
}

RankGroups::~RankGroups() {
  fused_.reset();
  for (LinearModule* module : host_) {
    std::erase_if(module->branches, [](const LoraBranch& branch) { return branch.columns != nullptr; });
  }
}

void RankGroups::add(LinearModule& module, const std::vector<Member>& members) {
  const LoraBranch& first = *members.front().branch;
  const bool trained = first.a->trained;
  std::int64_t ranks = 0;
  for (const Member& member : members) {
    if (trained && member.branch->dropout != first.dropout) {
      throw std::logic_error("adapters of a pack differ in dropout");
    }
    ranks += member.branch->a->rows();
  }
  const std::int64_t all = (ranks + kRankMultiple - 1) / kRankMultiple * kRankMultiple;
  const std::int64_t in = first.a->columns(), out = first.b->rows();
  const at::TensorOptions type = first.a->value.options(), wide = type.dtype(at::kFloat);

  auto group = std::make_unique<Group>();
  group->a.value = at::zeros({all, in}, type);
  group->b.value = at::zeros({out, all}, type);
  if (trained) {
    group->a.grad = at::zeros({all, in}, wide);
    group->b.grad = at::zeros({out, all}, wide);
    group->a.trained = group->b.trained = true;
  }
  group->columns = {at::full({all}, -1, type.dtype(at::kInt)), at::zeros({all}, wide), broken_};
  std::int64_t begin = 0;
  for (const auto& [job, branch] : members) {
    const std::int64_t count = branch->a->rows();
    group->ranks.push_back({job, begin, count});
    group->columns.jobs.narrow(0, begin, count).fill_(static_cast<std::int64_t>(job));
    group->columns.scales.narrow(0, begin, count).fill_(branch->scale);
    group->branches.push_back(branch);
    group->a.value.narrow(0, begin, count).copy_(branch->a->master);
    group->b.value.narrow(1, begin, count).copy_(branch->b->master);
    begin += count;
  }
  module.branches.push_back(
      {&group->a, &group->b, 1.0, trained ? first.dropout : 0.0, first.site, first.out_begin, &group->columns});
  groups_.push_back(std::move(group));
}

void RankGroups::settle_views() {
  for (const auto& group : groups_) {
    for (std::size_t i = 0; i < group->ranks.size(); ++i) {
      const auto& [job, first, count] = group->ranks[i];
      const auto part_of = [first = first, count = count](const at::Tensor& whole, std::int64_t dimension) {
        return whole.defined() ? whole.narrow(dimension, first, count) : whole;
      };
      views_[group->branches[i]->a] = {part_of(group->a.value, 0), part_of(group->a.grad, 0)};
      views_[group->branches[i]->b] = {part_of(group->b.value, 1), part_of(group->b.grad, 1)};
    }
  }
}

PackViews RankGroups::views(const Parameter* parameter) const {
  const auto found = views_.find(parameter);
  return found == views_.end() ? PackViews() : found->second;
}

void RankGroups::leave_out(std::size_t job) {
  for (const auto& group : groups_) {
    for (const Group::Ranks& ranks : group->ranks) {
      if (ranks.job != job) continue;
      group->columns.jobs.narrow(0, ranks.first, ranks.count).fill_(-1);
      group->a.value.narrow(0, ranks.first, ranks.count).zero_();
      group->b.value.narrow(1, ranks.first, ranks.count).zero_();
    }
  }
}

}  // namespace finesweep::worker
