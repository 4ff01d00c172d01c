#include "worker/kernels/job_rows.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace finesweep::worker {
namespace {

/// A job's rows. On a CPU they begin where memory of their own would, on a multiple of 64 bytes: sums of libraries'
/// products depend on that.
at::Tensor rows_of(const at::Tensor& all, std::int64_t begin, std::int64_t count) {
  const at::Tensor rows = all.narrow(0, begin, count);
  const bool aligned = reinterpret_cast<std::uintptr_t>(rows.const_data_ptr()) % 64 == 0;
  return rows.is_cpu() && !aligned ? rows.clone() : rows;
}

}  // namespace

std::vector<Var> split_rows(Tape* tape, const Var& x, const std::vector<std::int64_t>& begins) {
  const bool tracked = tape != nullptr && x.needs_grad();
  std::vector<Var> parts;
  for (std::size_t j = 0; j + 1 < begins.size(); ++j) {
    const std::int64_t count = begins[j + 1] - begins[j];
    if (count == 0) {
      parts.emplace_back();
      continue;
    }
    const at::Tensor value = rows_of(x.value, begins[j], count);
    parts.push_back(tracked ? tape->track(value) : Var(value));
  }
  if (!tracked) return parts;
  tape->record([parts, x_slot = x.slot, options = x.value.options()] {
    const auto has_gradient = [](const Var& part) { return part.value.defined() && part.slot->grad.defined(); };
    if (std::none_of(parts.begin(), parts.end(), has_gradient)) return;
    std::vector<at::Tensor> gradients;
    for (const Var& part : parts) {
      if (!part.value.defined()) continue;
      gradients.push_back(has_gradient(part) ? std::move(part.slot->grad) : at::zeros(part.value.sizes(), options));
    }
    x_slot->add(at::cat(gradients));
  });
  return parts;
}

Var join_rows(Tape* tape, const std::vector<Var>& parts) {
  std::vector<at::Tensor> values;
  bool tracked = false;
  for (const Var& part : parts) {
    if (!part.value.defined()) continue;
    values.push_back(part.value);
    tracked |= part.needs_grad();
  }
  const at::Tensor value = at::cat(values);
  if (tape == nullptr || !tracked) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, parts] {
    const at::Tensor gradient = std::move(slot->grad);
    if (!gradient.defined()) return;
    // Who gets a part may write in it.
    const bool own = gradient.use_count() == 1;
    std::int64_t begin = 0;
    for (const Var& part : parts) {
      if (!part.value.defined()) continue;
      const at::Tensor mine = rows_of(gradient, begin, part.value.size(0));
      begin += part.value.size(0);
      if (part.slot) part.slot->add(own || !mine.is_alias_of(gradient) ? mine : mine.clone());
    }
  });
  return result;
}

Var for_each_job(Tape* tape, const Var& x, const TokenLayout& layout,
                 const std::function<Var(std::size_t job, const Var& x)>& compute) {
  const std::vector<std::int64_t> begins = layout.job_tokens();
  const std::vector<Var> parts = split_rows(tape, x, begins);
  std::vector<Var> results = parts;
  for (std::size_t j = 0; j < parts.size(); ++j) {
    if (parts[j].value.defined()) results[j] = compute(j, parts[j]);
  }
  const Var joined = join_rows(tape, results);
  if (tape == nullptr || !x.needs_grad()) return joined;
  // What others gave to the gradient of x already is where each job's own is added, one summand after the other: so
  // sums are those of the job alone, to the bit.
  tape->record([parts, begins, x_slot = x.slot] {
    at::Tensor there = std::move(x_slot->grad);
    x_slot->grad.reset();
    if (!there.defined()) return;
    if (there.use_count() > 1) there = there.clone();
    for (std::size_t j = 0; j < parts.size(); ++j) {
      if (parts[j].value.defined()) parts[j].slot->grad = rows_of(there, begins[j], begins[j + 1] - begins[j]);
    }
  });
  return joined;
}

Var losses_of_jobs(Tape* tape, const Var& x, const std::vector<std::int64_t>& begins,
                   const std::function<Var(std::size_t job, const Var& x)>& loss) {
  std::vector<Var> losses = split_rows(tape, x, begins);
  std::vector<at::Tensor> values;
  for (std::size_t j = 0; j < losses.size(); ++j) {
    if (losses[j].value.defined()) losses[j] = loss(j, losses[j]);
    values.push_back(losses[j].value.defined() ? losses[j].value
                                               : at::zeros({}, x.value.options().dtype(at::kFloat)));
  }
  const at::Tensor value = at::stack(values);
  if (tape == nullptr || std::none_of(losses.begin(), losses.end(), [](const Var& l) { return l.needs_grad(); })) {
    return Var(value);
  }
  const Var result = tape->track(value);
  tape->record([slot = result.slot, losses = std::move(losses)] {
    if (!slot->grad.defined()) return;
    for (std::size_t j = 0; j < losses.size(); ++j) {
      if (losses[j].slot) losses[j].slot->add(slot->grad.select(0, static_cast<std::int64_t>(j)));
    }
  });
  return result;
}

}  // namespace finesweep::worker
