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

PackForward::Given PackForward::logits(const std::vector<const Batch*>& batches) {
  return {graphs_.logits(inputs_of(batches)), batches};
}

PackForward::Given PackForward::losses(const std::vector<const Batch*>& batches, std::vector<double> denominators) {
  for (std::size_t j = 0; j < batches.size(); ++j) {
    if (batches[j] == nullptr) denominators[j] = 1;
  }
  return {graphs_.losses(inputs_of(batches), denominators), batches};
}

PackForward::Given::Given(const at::Tensor& all, const std::vector<const Batch*>& batches) : all_(all) {
  for (const Batch* batch : batches) rows_.push_back(batch == nullptr ? 0 : batch->rows());
}

std::vector<at::Tensor> PackForward::Given::logits() const {
  const at::Tensor all = all_.get().to(at::kFloat).contiguous();
  std::vector<at::Tensor> logits(rows_.size());
  std::int64_t begin = 0;
  for (std::size_t j = 0; j < rows_.size(); ++j) {
    if (rows_[j] == 0) continue;
    logits[j] = all.narrow(0, begin, rows_[j]);
    begin += rows_[j];
  }
  return logits;
}

std::vector<double> PackForward::Given::losses() const {
  const at::Tensor all = all_.get().to(at::kDouble).contiguous();
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

}  // namespace finesweep::worker
