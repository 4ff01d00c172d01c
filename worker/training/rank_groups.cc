#include "worker/training/rank_groups.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/room.h"
#include "worker/kernels/upload.h"

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
  if (!groups_.empty()) {
    allocate(device);
    copy_values(device);
  }
  fused_ = std::make_unique<FusedLora>(host, FusedLora::Gradients::stay);
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
  auto group = std::make_unique<Group>();
  group->all = padded_ranks(ranks);
  group->in = first.a->columns();
  group->out = first.b->rows();
  group->a.trained = group->b.trained = trained;
  std::int64_t begin = 0;
  for (const auto& [job, branch] : members) {
    group->ranks.push_back({job, begin, branch->a->rows()});
    group->branches.push_back(branch);
    begin += branch->a->rows();
  }
  module.branches.push_back(
      {&group->a, &group->b, 1.0, trained ? first.dropout : 0.0, first.site, first.out_begin, &group->columns});
  groups_.push_back(std::move(group));
}

void RankGroups::allocate(c10::Device device) {
  std::int64_t values = 0, ranks = 0;
  for (const auto& group : groups_) {
    values += room_of(group->all * group->in) + room_of(group->out * group->all);
    ranks += room_of(group->all);
  }
  const Parameter& like = *groups_.front()->branches.front()->a;
  const at::Tensor all_values = at::zeros({values}, like.value.options());
  const at::Tensor grads =
      like.trained ? at::zeros({values}, like.value.options().dtype(at::kFloat)) : at::Tensor();
  std::vector<std::int32_t> jobs(static_cast<std::size_t>(ranks), -1);
  std::vector<float> scales(static_cast<std::size_t>(ranks), 0);
  std::int64_t first_rank = 0;
  for (const auto& group : groups_) {
    for (std::size_t i = 0; i < group->ranks.size(); ++i) {
      const Group::Ranks& of = group->ranks[i];
      const std::int64_t begin = first_rank + of.first;
      std::fill_n(jobs.begin() + begin, of.count, static_cast<std::int32_t>(of.job));
      std::fill_n(scales.begin() + begin, of.count, static_cast<float>(group->branches[i]->scale));
    }
    first_rank += room_of(group->all);
  }
  const at::Tensor all_jobs = uploaded(jobs, device).view(at::kInt);
  const at::Tensor all_scales = uploaded(scales, device).view(at::kFloat);

  std::int64_t at_value = 0, at_rank = 0;
  for (const auto& group : groups_) {
    const auto place = [&](Parameter& parameter, std::int64_t rows, std::int64_t columns) {
      parameter.value = all_values.narrow(0, at_value, rows * columns).view({rows, columns});
      if (parameter.trained) parameter.grad = grads.narrow(0, at_value, rows * columns).view({rows, columns});
      at_value += room_of(rows * columns);
    };
    place(group->a, group->all, group->in);
    place(group->b, group->out, group->all);
    group->columns = {all_jobs.narrow(0, at_rank, group->all), all_scales.narrow(0, at_rank, group->all), broken_};
    at_rank += room_of(group->all);
  }
}

void RankGroups::copy_values(c10::Device device) {
  std::vector<FinesweepMatrixCopy> copies;
  const auto add = [&](const at::Tensor& from, const at::Tensor& to) {
    copies.push_back({from.const_data_ptr<float>(), to.mutable_data_ptr(), to.size(0), to.size(1), from.stride(0),
                      to.stride(0), gpu::type_of(to)});
  };
  for (const auto& group : groups_) {
    for (std::size_t i = 0; i < group->ranks.size(); ++i) {
      const auto& [job, first, count] = group->ranks[i];
      add(group->branches[i]->a->master, group->a.value.narrow(0, first, count));
      add(group->branches[i]->b->master, group->b.value.narrow(1, first, count));
    }
  }
  const at::Tensor there = uploaded(copies, device);
  gpu::call(&CudaModule::copy_matrices, "the adapters of a pack", broken_,
            static_cast<const FinesweepMatrixCopy*>(there.const_data_ptr()),
            static_cast<std::int64_t>(copies.size()));
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
