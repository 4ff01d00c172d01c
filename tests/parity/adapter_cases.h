#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/parity/models.h"
#include "worker/adapters/adapter.h"

namespace finesweep::parity {

/// The model that a case is about.
std::filesystem::path base_of(const std::filesystem::path& folder);

/// Folders below `parent` (none where there is no such folder) over a model of a family that the engine has. Says
/// on stderr which others there are.
std::vector<std::filesystem::path> cases_in(const std::filesystem::path& parent);

/// A model of any kind, as its config.json has it; over `pretrained` where that is given.
enum class Trains { all, head };
std::unique_ptr<worker::Model> model_of(const std::filesystem::path& folder, Trains trains,
                                        std::shared_ptr<const worker::Pretrained> pretrained = nullptr,
                                        Precision precision = Precision::fp32);

/// A batch of any kind of model. The decoder's inputs are the labels shifted right, all of them.
worker::Batch any_batch_of(const Tensors& tensors, const std::string& prefix, const worker::Model& model);

/// The rows of the reference's logits that the model has too: those of real tokens.
at::Tensor real_rows(const at::Tensor& reference, const worker::Batch& batch, worker::Model& model);

/// Adapter and trained parameters of the model.
std::vector<worker::Parameter*> trained_with(worker::Model& model, worker::Adapter& adapter);

/// Loss and gradients of one batch; gradients stay in the parameters.
double mean_loss_and_gradients(worker::Model& model, const worker::Batch& batch);

/// Runs the reference's training steps; compares loss, learning rate and gradient norm of each.
void expect_same_steps(worker::Model& model, const std::vector<worker::Parameter*>& parameters,
                       const std::filesystem::path& folder);

/// The adapter equals the one that the reference had after its last step.
void expect_same_final_adapter(const worker::Adapter& adapter, const std::filesystem::path& folder);

/// The value, or a failed test with the Error.
template <typename T>
T require(Result<T> result) {
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return std::move(*result);
}

}  // namespace finesweep::parity
