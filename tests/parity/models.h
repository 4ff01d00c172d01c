#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/parity/fixtures.h"
#include "worker/data/batch.h"
#include "worker/models/pretrained.h"

namespace finesweep::parity {

/// The repository's own reference answers, for tests that are about one of its models.
inline std::filesystem::path repository_fixtures() {
  return std::filesystem::path(FINESWEEP_SOURCE_DIR) / "tests" / "fixtures";
}

/// Where the models compute: FINESWEEP_PARITY_DEVICE ("cuda:0"), else the CPU. What the functions below return is
/// on the CPU.
c10::Device device();

/// load_pretrained on that device.
Result<std::shared_ptr<const worker::Pretrained>> pretrained_of(
    const std::filesystem::path& folder, at::ScalarType storage = at::kFloat,
    const std::optional<worker::BaseQuantization>& quantization = {});

using Tensors = std::map<std::string, at::Tensor>;

/// Every tensor of a safetensors file.
Tensors read_tensors(const std::filesystem::path& path);

/// The batch whose tensors are named `prefix` + "input_ids" and so on.
worker::Batch batch_of(const Tensors& tensors, const std::string& prefix);

/// Folders below `parent` that are about a model for classification of a family that the engine has.
///
/// `model_of` gives a folder's model directory.
std::vector<std::filesystem::path> classifier_cases(
    const std::filesystem::path& parent,
    const std::function<std::filesystem::path(const std::filesystem::path&)>& model_of);

/// The model with as many labels as the reference has.
std::unique_ptr<worker::Model> classifier(const std::filesystem::path& folder, bool train_all,
                                          Precision precision = Precision::fp32);

/// Loss and gradients of one batch; gradients stay in the parameters.
double loss_and_gradients(worker::Model& model, const worker::Batch& batch);

/// The logits of one batch, without dropout.
at::Tensor logits_of(worker::Model& model, const worker::Batch& batch);

/// The largest difference of any two elements.
double largest_difference(const at::Tensor& a, const at::Tensor& b);

/// Gradients (fp32 tensors by name) of trained parameters.
Tensors gradients_of(const std::vector<worker::Parameter*>& parameters);

/// Compares every "grad.<name>" of `expected` with `mine`, by the rule of the fixtures: relative to that tensor's
/// largest element plus 1e-4 of the model's largest. Returns how many were compared.
int expect_same_gradients(const Tensors& expected, const Tensors& mine, double tolerance);

/// Model directories of one family ("t5").
std::vector<std::filesystem::path> models_of_family(const std::string& model_type);

/// The model that generates text.
std::unique_ptr<worker::Model> language_model(const std::filesystem::path& folder, bool train_all,
                                              Precision precision = Precision::fp32);

/// A copy of a model directory in the tests' own folder, with other tensors or another config.
std::filesystem::path model_variant(const std::filesystem::path& folder, const std::string& name,
                                    const std::function<void(Tensors&, nlohmann::json&)>& change);

/// The cosine between two models' gradients, all parameters together.
double gradient_cosine(const Tensors& a, const Tensors& b);

/// Compares the norm of every parameter's gradient with "grad_norms" of `facts`, by the rule of the fixtures.
void expect_same_gradient_norms(const nlohmann::json& facts, const Tensors& mine);

/// What is known of GGUF files, and where they are: the facts of gguf/ with those files of models/ that have their
/// sizes. Says on the error output which are not there.
std::vector<std::pair<nlohmann::json, std::filesystem::path>> known_gguf_files();

}  // namespace finesweep::parity
