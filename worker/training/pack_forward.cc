#include "worker/training/pack_forward.h"

#include <utility>

namespace finesweep::worker {

PackForward::PackForward(Model& host, std::vector<Model*> jobs, int captured_from)
    : host_(host), modules_(host, jobs), graphs_(host, jobs.size(), captured_from) {}

BatchInputs PackForward::inputs_of(const std::vector<const Batch*>& batches) {
  std::vector<JobInputs> inputs(batches.size());
  for (std::size_t j = 0; j < batches.size(); ++j) {
    if (batches[j] != nullptr) inputs[j].inputs = host_.inputs(*batches[j], 0);
  }
  return pack_inputs(inputs);
}

std::vector<at::Tensor> PackForward::logits(const std::vector<const Batch*>& batches) {
  const at::Tensor all = graphs_.logits(inputs_of(batches)).to(at::kCPU, at::kFloat).contiguous();
  std::vector<at::Tensor> logits(batches.size());
  std::int64_t begin = 0;
  for (std::size_t j = 0; j < batches.size(); ++j) {
    if (batches[j] == nullptr) continue;
    logits[j] = all.narrow(0, begin, batches[j]->rows());
    begin += batches[j]->rows();
  }
  return logits;
}

std::vector<double> PackForward::losses(const std::vector<const Batch*>& batches,
                                        std::vector<double> denominators) {
  for (std::size_t j = 0; j < batches.size(); ++j) {
    if (batches[j] == nullptr) denominators[j] = 1;
  }
  const at::Tensor all = graphs_.losses(inputs_of(batches), denominators).to(at::kCPU, at::kDouble).contiguous();
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

}  // namespace finesweep::worker
