#include "worker/training/gradient_sum.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

#include "worker/kernels/room.h"
#include "worker/kernels/spare_rows.h"

namespace finesweep::worker {
namespace {

std::int64_t bytes_of(const Parameter& parameter) {
  return room_of(parameter.grad.numel()) * static_cast<std::int64_t>(sizeof(float));
}

/// Kernels know more about the memory that it stands in.
bool stays_where_it_is(const Parameter& parameter) {
  return with_spare_rows(parameter.grad).defined() || with_spare_rows(parameter.value).defined();
}

at::Tensor rows_index(const std::vector<std::int64_t>& rows) {
  return at::from_blob(const_cast<std::int64_t*>(rows.data()), {static_cast<std::int64_t>(rows.size())}, at::kLong);
}

}  // namespace

GradientSum::GradientSum(const std::vector<Parameter*>& parameters, ProcessGroup& group, const Options& options)
    : group_(group), shares_update_(options.shares_update && can_share(parameters)) {
  struct Open {
    std::vector<Parameter*> members;
    std::int64_t bytes = 0;
  };
  std::map<at::ScalarType, Open> open;  // shared weights of one type lie together: those of norms are fp32
  const auto close = [&](Open& one) {
    if (!one.members.empty()) add_bucket(one.members);
    one = {};
  };
  const auto close_all = [&] {
    for (auto& [type, one] : open) close(one);
  };
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    Parameter& parameter = **it;
    if (parameter.is_table && parameter.grad.is_cpu()) {
      tables_.push_back(&parameter);
      continue;
    }
    // What is large, or stands in memory that kernels know more about, stays where it is.
    if (bytes_of(parameter) >= options.bucket_bytes || stays_where_it_is(parameter)) {
      close_all();
      add_bucket({&parameter});
      continue;
    }
    Open& one = open[shares_update_ ? parameter.value.scalar_type() : at::kFloat];
    if (one.bytes + bytes_of(parameter) > options.bucket_bytes) close(one);
    one.members.push_back(&parameter);
    one.bytes += bytes_of(parameter);
  }
  close_all();
}

void GradientSum::add_bucket(const std::vector<Parameter*>& members) {
  Bucket bucket;
  if (members.size() == 1 && (!shares_update_ || has_equal_parts(*members.front()))) {
    bucket.values = members.front()->grad.view({-1});
    if (shares_update_) bucket.weights = members.front()->value.view({-1});
  } else {
    std::int64_t count = 0;
    for (const Parameter* parameter : members) count += room_of(parameter->grad.numel());
    count = room_of((count + group_.size() - 1) / group_.size()) * group_.size();
    bucket.values = at::zeros({count}, members.front()->grad.options());
    if (shares_update_) bucket.weights = at::zeros({count}, members.front()->value.options());
    std::int64_t begin = 0;
    for (Parameter* parameter : members) {
      const at::Tensor place =
          bucket.values.narrow(0, begin, parameter->grad.numel()).view(parameter->grad.sizes());
      parameter->grad = place.copy_(parameter->grad);
      if (shares_update_) {
        const bool is_master = parameter->value.is_same(parameter->master);
        const at::Tensor weights =
            bucket.weights.narrow(0, begin, parameter->value.numel()).view(parameter->value.sizes());
        parameter->value = weights.copy_(parameter->value);
        if (is_master) parameter->master = parameter->value;
      }
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
    const ProcessGroup::Mark* after = passes == Passes::some ? bucket.mark.get() : nullptr;
    if (shares_update_) {
      group_.start_scattered_sum(bucket.values, after);
    } else {
      group_.start_sum(bucket.values, after);
    }
  }
  started_ = 0;
  if (!shares_update_) group_.start_sum(loss);
  if (!tables_.empty()) sum_tables();
  group_.finish_sums();
}

/// As it stands, in vectors.
bool GradientSum::has_equal_parts(const Parameter& parameter) const {
  return parameter.grad.numel() % (4 * group_.size()) == 0;
}

bool GradientSum::can_share(const std::vector<Parameter*>& parameters) const {
  return std::all_of(parameters.begin(), parameters.end(), [&](const Parameter* parameter) {
    return parameter->grad.is_cuda() && parameter->value.is_contiguous() && parameter->grad.is_contiguous() &&
           (!stays_where_it_is(*parameter) || has_equal_parts(*parameter));
  });
}

std::vector<GradientSum::Piece> GradientSum::pieces_of(const Bucket& bucket, int rank) const {
  const std::int64_t part = bucket.values.numel() / group_.size(), first = rank * part, last = first + part;
  std::vector<Piece> pieces;
  std::int64_t begin = 0;  // of a parameter in the bucket
  for (const Parameter* parameter : bucket.parameters) {
    const std::int64_t count = parameter->grad.numel();
    const Piece piece{parameter, std::clamp<std::int64_t>(first - begin, 0, count),
                      std::clamp<std::int64_t>(last - begin, 0, count)};
    if (piece.begin < piece.end) pieces.push_back(piece);
    begin += room_of(count);
  }
  return pieces;
}

DeviceAdamW::Job GradientSum::share(const std::vector<Parameter*>& parameters,
                                    const std::vector<AdamW::Moments>& moments) const {
  DeviceAdamW::Job job;
  for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
    for (const Piece& piece : pieces_of(*bucket, group_.rank())) {
      const auto at = std::find(parameters.begin(), parameters.end(), piece.parameter) - parameters.begin();
      job.tensors.push_back({parameters[static_cast<std::size_t>(at)],
                             &moments[static_cast<std::size_t>(at)],
                             {},
                             {},
                             piece.begin,
                             piece.end});
    }
    job.groups.push_back(job.tensors.size());
  }
  return job;
}

void GradientSum::add_up(const at::Tensor& numbers) {
  group_.start_sum(numbers);
  group_.finish_sums();
}

void GradientSum::updated(std::size_t group) {
  group_.start_gather(buckets_[buckets_.size() - 1 - group].weights);
}

void GradientSum::make_whole(const std::vector<Parameter*>& parameters,
                             const std::vector<AdamW::Moments>& moments) {
  for (const Bucket& bucket : buckets_) {
    for (int rank = 0; rank < group_.size(); ++rank) {
      for (const Piece& piece : pieces_of(bucket, rank)) {
        const auto at = std::find(parameters.begin(), parameters.end(), piece.parameter) - parameters.begin();
        const AdamW::Moments& its = moments[static_cast<std::size_t>(at)];
        for (const at::Tensor& whole : {piece.parameter->master, its.first, its.second}) {
          group_.broadcast(whole.view({-1}).narrow(0, piece.begin, piece.end - piece.begin), rank);
        }
      }
    }
  }
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
