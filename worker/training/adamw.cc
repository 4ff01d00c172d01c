#include "worker/training/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/kernels/cpu/adamw.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/reference.h"
#include "worker/kernels/room.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kChunk = 16384;

/// A run of values of one parameter.
struct Span {
  std::size_t parameter = 0;
  std::int64_t begin = 0, count = 0;
};

void add_spans(std::size_t parameter, std::int64_t begin, std::int64_t end, std::vector<Span>& spans) {
  for (; begin < end; begin += kChunk) spans.push_back({parameter, begin, std::min(kChunk, end - begin)});
}

/// The rows of a table for which `wanted` holds, as runs of values.
template <typename Wanted>
void add_row_spans(std::size_t parameter, std::int64_t rows, std::int64_t width, const Wanted& wanted,
                   std::vector<Span>& spans) {
  for (std::int64_t row = 0; row < rows;) {
    if (!wanted(row)) {
      ++row;
      continue;
    }
    std::int64_t end = row;
    while (end < rows && wanted(end)) ++end;
    add_spans(parameter, row * width, end * width, spans);
    row = end;
  }
}

/// Two of each parameter. Those of a GPU's small parameters, an adapter's say, lie in one piece: hundreds of small
/// kernels would wait their turn where another process has the device.
std::vector<at::Tensor> zeros_of_moments(const std::vector<Parameter*>& parameters) {
  constexpr std::int64_t small = std::int64_t{1} << 18;  // values
  const auto is_small = [](const at::Tensor& of) { return !of.is_cpu() && of.numel() <= small; };
  std::int64_t count = 0;
  for (const Parameter* parameter : parameters)
    count += is_small(parameter->master) ? 2 * room_of(parameter->master.numel()) : 0;
  const at::Tensor together = count == 0 ? at::Tensor() : at::zeros({count}, parameters.front()->master.options());
  std::vector<at::Tensor> zeros;
  std::int64_t begin = 0;
  for (const Parameter* parameter : parameters) {
    const at::Tensor& of = parameter->master;
    for (int moment = 0; moment < 2; ++moment) {
      if (is_small(of)) {
        zeros.push_back(together.narrow(0, begin, of.numel()).view(of.sizes()));
        begin += room_of(of.numel());
      } else {
        zeros.push_back(at::zeros_like(of));
      }
    }
  }
  return zeros;
}

}  // namespace

AdamW::AdamW(std::vector<Parameter*> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options), active_rows_(parameters_.size()) {
  const std::vector<at::Tensor> zeros = zeros_of_moments(parameters_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = *parameters_[i];
    moments_.push_back({zeros[2 * i], zeros[2 * i + 1]});
    if (parameter.is_table) active_rows_[i].assign(parameter.master.size(0), false);
  }
}

void AdamW::moments_changed() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i]->is_table) continue;
    const at::Tensor active =
        (moments_[i].second.ne(0).any(1).logical_or(moments_[i].first.ne(0).any(1))).to(at::kCPU).contiguous();
    const bool* flags = active.const_data_ptr<bool>();
    active_rows_[i].assign(flags, flags + active.size(0));
  }
}

double AdamW::grad_norm() const {
  const ProfileScope scope("gradient norm", OperatorGroup::optimiser);
  double total = 0;
  std::vector<Span> spans;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = *parameters_[i];
    if (!parameter.grad.is_cpu()) {
      const double norm = at::linalg_vector_norm(parameter.grad).item<double>();
      total += norm * norm;
    } else if (parameter.is_table) {
      const std::int64_t width = parameter.grad.size(1);
      for (const std::int64_t row : parameter.touched_rows) spans.push_back({i, row * width, width});
    } else {
      add_spans(i, 0, parameter.grad.numel(), spans);
    }
  }
  std::vector<double> squares(spans.size());
  at::parallel_for(0, static_cast<std::int64_t>(spans.size()), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const float* grad = parameters_[spans[k].parameter]->grad.const_data_ptr<float>();
      squares[k] = cpu::sum_of_squares(grad + spans[k].begin, spans[k].count);
    }
  });
  for (const double square : squares) total += square;
  return std::sqrt(total);
}

void AdamW::update(double learning_rate, std::int64_t step, double grad_norm, double unscale) {
  const ProfileScope scope("AdamW", OperatorGroup::optimiser);
  const double clip =
      unscale * (options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (grad_norm + 1e-6)) : 1.0);
  const double exponent = static_cast<double>(step);
  cpu::AdamWStep numbers;
  numbers.gradient_scale = static_cast<float>(clip);
  numbers.beta1 = static_cast<float>(options_.beta1);
  numbers.beta2 = static_cast<float>(options_.beta2);
  // As torch rounds them: 1 - 0.999f is off by 1.3e-5 of itself.
  numbers.one_minus_beta1 = static_cast<float>(1 - options_.beta1);
  numbers.one_minus_beta2 = static_cast<float>(1 - options_.beta2);
  numbers.epsilon = static_cast<float>(options_.epsilon);
  numbers.step_size = static_cast<float>(learning_rate / (1 - std::pow(options_.beta1, exponent)));
  numbers.inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, exponent)));
  const float decay = static_cast<float>(1 - learning_rate * options_.weight_decay);

  std::vector<Span> spans;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    if (!parameter.master.is_cpu()) {
      reference::adamw(parameter.master, moments_[i].first, moments_[i].second, parameter.grad * clip,
                       learning_rate, parameter.decays ? options_.weight_decay : 0, options_.beta1, options_.beta2,
                       options_.epsilon, step);
    } else if (parameter.is_table) {
      std::vector<bool>& active = active_rows_[i];
      for (const std::int64_t row : parameter.touched_rows) active[row] = true;
      const std::int64_t rows = parameter.master.size(0), width = parameter.master.size(1);
      add_row_spans(
          i, rows, width, [&](std::int64_t row) { return active[row]; }, spans);
      if (parameter.decays && decay != 1.0f) {
        float* weight = parameter.master.mutable_data_ptr<float>();
        at::parallel_for(0, rows, 64, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            if (active[row]) continue;
            for (std::int64_t k = row * width; k < (row + 1) * width; ++k) weight[k] *= decay;
          }
        });
      }
    } else {
      add_spans(i, 0, parameter.master.numel(), spans);
    }
  }
  at::parallel_for(0, static_cast<std::int64_t>(spans.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const Span& span = spans[k];
      Parameter& parameter = *parameters_[span.parameter];
      cpu::AdamWStep mine = numbers;
      mine.decay = parameter.decays ? decay : 1.0f;
      cpu::adamw_update(parameter.master.mutable_data_ptr<float>() + span.begin,
                        moments_[span.parameter].first.mutable_data_ptr<float>() + span.begin,
                        moments_[span.parameter].second.mutable_data_ptr<float>() + span.begin,
                        parameter.grad.const_data_ptr<float>() + span.begin, span.count, mine);
    }
  });
  for (Parameter* parameter : parameters_) parameter->refresh_value();
}

}  // namespace finesweep::worker
