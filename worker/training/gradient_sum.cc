#include "worker/training/gradient_sum.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "worker/kernels/room.h"
#include "worker/kernels/spare_rows.h"

namespace finesweep::worker {
namespace {

std::int64_t bytes_of(const Parameter& parameter) {
  return room_of(parameter.grad.numel()) * static_cast<std::int64_t>(sizeof(float));
}

at::Tensor rows_index(const std::vector<std::int64_t>& rows) {
  return at::from_blob(const_cast<std::int64_t*>(rows.data()), {static_cast<std::int64_t>(rows.size())}, at::kLong);
}

}  // namespace

GradientSum::GradientSum(const std::vector<Parameter*>& parameters, ProcessGroup& group, const Options& options)
    : group_(group) {
  std::vector<Parameter*> members;
  std::int64_t bytes = 0;
  const auto close = [&] {
    if (!members.empty()) add_bucket(members);
    members.clear();
    bytes = 0;
  };
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    Parameter& parameter = **it;
    if (parameter.is_table && parameter.grad.is_cpu()) {
      tables_.push_back(&parameter);
      continue;
    }
    // What is large, or stands in memory that kernels know more about, stays where it is.
    if (bytes_of(parameter) >= options.bucket_bytes || with_spare_rows(parameter.grad).defined()) {
      close();
      add_bucket({&parameter});
      continue;
    }
    if (bytes + bytes_of(parameter) > options.bucket_bytes) close();
    members.push_back(&parameter);
    bytes += bytes_of(parameter);
  }
  close();
}

void GradientSum::add_bucket(const std::vector<Parameter*>& members) {
  Bucket bucket;
  if (members.size() == 1) {
    bucket.values = members.front()->grad.view({-1});
  } else {
    std::int64_t count = 0;
    for (const Parameter* parameter : members) count += room_of(parameter->grad.numel());
    bucket.values = at::zeros({count}, members.front()->grad.options());
    std::int64_t begin = 0;
    for (Parameter* parameter : members) {
      const at::Tensor place =
          bucket.values.narrow(0, begin, parameter->grad.numel()).view(parameter->grad.sizes());
      parameter->grad = place.copy_(parameter->grad);
      begin += room_of(parameter->grad.numel());
    }
  }
  for (const Parameter* parameter : members) bucket_of_[parameter] = buckets_.size();
  bucket.parameters.assign(members.begin(), members.end());
  bucket.missing = members.size();
  bucket.mark = group_.make_mark();
  buckets_.push_back(std::move(bucket));
}

std::unique_ptr<GradientWatch> GradientSum::watch(const Tape& tape) {
  for (Bucket& bucket : buckets_) bucket.missing = bucket.parameters.size();
  return std::make_unique<GradientWatch>(tape, [this](const Parameter& parameter) { whole(parameter); });
}

void GradientSum::whole(const Parameter& parameter) {
  const auto found = bucket_of_.find(&parameter);
  if (found == bucket_of_.end()) return;
  Bucket& bucket = buckets_[found->second];
  if (--bucket.missing > 0) return;
  if (bucket.mark) {
    bucket.mark->record();
    return;
  }
  for (; started_ < buckets_.size() && buckets_[started_].missing == 0; ++started_) {
    group_.start_sum(buckets_[started_].values);
  }
}

void GradientSum::end_pass() {
  for (Bucket& bucket : buckets_) {
    if (bucket.mark && bucket.missing > 0) bucket.mark->record();
  }
}

void GradientSum::finish(const at::Tensor& loss, Passes passes) {
  for (; started_ < buckets_.size(); ++started_) {
    const Bucket& bucket = buckets_[started_];
    // Without a pass the marks are those of an earlier step.
    group_.start_sum(bucket.values, passes == Passes::some ? bucket.mark.get() : nullptr);
  }
  started_ = 0;
  group_.start_sum(loss);
  if (!tables_.empty()) sum_tables();
  group_.finish_sums();
}

/// First which rows any rank touched, then those rows.
void GradientSum::sum_tables() {
  std::int64_t rows = 0;
  for (const Parameter* table : tables_) rows += table->grad.size(0);
  const at::Tensor touched = at::zeros({rows}, at::kFloat);
  float* flag = touched.mutable_data_ptr<float>();
  for (const Parameter* table : tables_) {
    for (const std::int64_t row : table->touched_rows) flag[row] = 1;
    flag += table->grad.size(0);
  }
  group_.start_sum(touched);
  group_.finish_sums();

  std::vector<at::Tensor> parts;
  flag = touched.mutable_data_ptr<float>();
  for (Parameter* table : tables_) {
    table->touched_rows.clear();
    for (std::int64_t row = 0; row < table->grad.size(0); ++row) {
      if (flag[row] > 0) table->touched_rows.push_back(row);
    }
    parts.push_back(table->grad.index_select(0, rows_index(table->touched_rows)).view({-1}));
    flag += table->grad.size(0);
  }
  const at::Tensor sum = at::cat(parts);
  group_.start_sum(sum);
  group_.finish_sums();
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    Parameter& table = *tables_[i];
    const at::Tensor part = sum.narrow(0, begin, parts[i].numel());
    table.grad.index_copy_(0, rows_index(table.touched_rows), part.view({-1, table.grad.size(1)}));
    begin += parts[i].numel();
  }
}

}  // namespace finesweep::worker
