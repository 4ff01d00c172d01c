#include "worker/models/batch_inputs.h"

#include <ATen/ops/cat.h>

namespace finesweep::worker {
namespace {

/// These tensors of the jobs, one behind the other; undefined where they are.
at::Tensor joined(const std::vector<JobInputs>& jobs, const auto& tensor_of) {
  std::vector<at::Tensor> parts;
  for (const JobInputs& job : jobs) {
    if (job.inputs && tensor_of(*job.inputs).defined()) parts.push_back(tensor_of(*job.inputs));
  }
  return parts.empty() ? at::Tensor() : at::cat(parts);
}

BatchInputs::Tokens joined_tokens(const std::vector<JobInputs>& jobs, BatchInputs::Tokens BatchInputs::*side) {
  BatchInputs::Tokens tokens;
  std::vector<TokenLayout::JobRows> rows;
  for (const JobInputs& job : jobs) {
    rows.push_back({job.inputs ? ((*job.inputs).*side).layout : nullptr, job.seed, job.step});
  }
  tokens.layout = TokenLayout::pack(rows);
  for (const auto part :
       {&BatchInputs::Tokens::ids, &BatchInputs::Tokens::positions, &BatchInputs::Tokens::types}) {
    tokens.*part = joined(jobs, [&](const BatchInputs& inputs) { return inputs.*side.*part; });
  }
  return tokens;
}

}  // namespace

BatchInputs pack_inputs(const std::vector<JobInputs>& jobs) {
  BatchInputs inputs;
  inputs.tokens = joined_tokens(jobs, &BatchInputs::tokens);
  inputs.labels = joined(jobs, [](const BatchInputs& one) { return one.labels; });
  for (const JobInputs& job : jobs) {
    if (!job.inputs) continue;
    inputs.of_tokens = job.inputs->of_tokens;
    if (job.inputs->source.layout && !inputs.source.layout)
      inputs.source = joined_tokens(jobs, &BatchInputs::source);
  }
  return inputs;
}

}  // namespace finesweep::worker
