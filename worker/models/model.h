#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/parameter.h"
#include "worker/kernels/tape.h"
#include "worker/models/batch_inputs.h"

namespace finesweep::worker {

struct Batch;          // worker/data/batch.h
struct KeyValueCache;  // worker/models/language_model.h
struct Pretrained;     // worker/models/pretrained.h
class LanguageModel;

/// What one pass through a model is for.
struct Pass {
  /// Null: nothing is kept for a backward pass.
  Tape* tape = nullptr;
  /// Dropout: active while training. The masks follow from seed, step, site, row and position alone.
  DropoutRun dropout;
  /// Keep only each layer's input for the way back and compute the layer again there: less memory, a third more
  /// time, the same numbers.
  bool recompute_layers = false;
  /// Number of this batch's first row within the accumulated batch.
  std::int64_t first_row = 0;
  /// Where set: the batch's inputs on the model's device. Of the batch itself nothing is read then.
  const BatchInputs* inputs = nullptr;
  /// Generation: the batch's tokens stand behind those that the cache holds, and join them. Null: a batch is whole.
  KeyValueCache* cache = nullptr;
  /// Where set, receives the embedding output and each layer's output: [tokens, width], real tokens only. Where a
  /// norm follows the last layer, what it gives stands in the place of that layer's output. Of an encoder-decoder
  /// the encoder's come first.
  std::vector<at::Tensor>* hidden_states = nullptr;
};

/// A model that a job trains or evaluates. Frozen weights are shared with every other model made from the same
/// Pretrained; what is trained is the model's own.
class Model {
 public:
  virtual ~Model() = default;

  /// fp32: [rows, labels] of a classifier, [tokens, vocabulary] of a language model (of an encoder-decoder the
  /// decoder's tokens). Tokens are the real ones, row after row.
  virtual Var logits(const Batch& batch, const Pass& pass) = 0;

  /// The sum of the losses of the rows (classification) or of the counted tokens (language model), divided by
  /// `denominator`: the sum of counted() over the whole accumulated batch. Cross-entropy, or squared error for a
  /// regression.
  virtual Var loss(const Batch& batch, const Pass& pass, const Denominator& denominator) = 0;
  /// What `loss` reads of a batch, or of one without labels other passes, on the CPU. Absent: the model's passes
  /// cannot do without the batch.
  virtual std::optional<BatchInputs> inputs(const Batch& /*batch*/, std::int64_t /*first_row*/) { return {}; }
  /// Over how many rows or tokens `loss` of this batch is a sum.
  virtual std::int64_t counted(const Batch& batch) const = 0;

  /// That every id, type, position and label of the batch is one that the model has. The Error names the value.
  virtual Status check(const Batch& batch) const = 0;

  /// "bert", …
  virtual std::string_view family() const = 0;
  /// Names as PEFT matches them, in the order of the model.
  virtual std::vector<LinearModule*> linear_modules() = 0;
  /// Every parameter, head included, in the order of the model.
  virtual std::vector<Parameter*> parameters() = 0;
  /// The parts of the head that are trained and saved whole under every method: names of modules ("classifier",
  /// which means "classifier.dense" too). A language model has none.
  virtual std::vector<std::string> head_modules() const = 0;
  /// The targets of LoRA and IA3 where none are given, as PEFT has them for this family.
  virtual std::vector<std::string> default_lora_targets() const = 0;
  virtual std::vector<std::string> default_ia3_targets() const = 0;
  virtual std::vector<std::string> default_ia3_feedforward() const = 0;
  /// config.json as Hugging Face reads it, with the number of labels.
  virtual Json config() const = 0;
  /// fp32, bf16 or fp16: the type that hidden states have.
  virtual at::ScalarType compute_type() const = 0;
  virtual c10::Device device() const = 0;
  /// This, where it generates text; else null.
  virtual LanguageModel* language_model() { return nullptr; }

  /// Names of the labels for config.json; empty: LABEL_0, …
  std::vector<std::string> label_names;
};

/// That every one of these integers is in 0 … limit - 1; an undefined tensor passes. `what` they are, for the
/// Error.
Status check_within(const at::Tensor& values, std::int64_t limit, const char* what);

/// Says in a classifier's config.json how many labels there are and what they are called, as transformers reads it,
/// and how the tokens of a row become one.
void describe_labels(const Model& model, std::int64_t labels, Pooling pooling, Json& config);

/// `path` is a module of the model's head, or lies in one.
bool is_head_module(const Model& model, std::string_view path);

/// Writes config.json and model.safetensors, in fp32 under Hugging Face's names. Trained weights come from the
/// master copies; quantised ones are dequantised.
Status save_pretrained(Model& model, const std::filesystem::path& folder);

/// Models, with what works on their modules, that compute the same operations on tensors of the same sizes have the
/// same, but for the ranks of adapters: those are the other one's.
std::string structure_of(Model& model);
std::string ranks_of(Model& model);

/// The trained parameters and their number of values.
std::vector<Parameter*> trained_parameters(Model& model);
std::int64_t count_values(const std::vector<Parameter*>& parameters);

}  // namespace finesweep::worker
