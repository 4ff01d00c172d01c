#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/settings.h"
#include "sweeps/files.h"

namespace finesweep::sweeps {

/// What planning must know of a model, from its config.json and the headers of its weight files.
struct ModelInfo {
  struct Tensor {
    std::string dtype;
    std::vector<std::int64_t> shape;
  };

  /// bert, roberta, gpt2, gpt_neo, llama or t5.
  std::string family;
  bool gguf = false;
  std::int64_t hidden = 0, layers = 0, heads = 0, vocabulary = 0;
  /// Longest sequence; absent where positions are relative.
  std::optional<std::int64_t> positions;
  /// By name, as Hugging Face's files have it (of a GGUF file, those of the layers).
  std::map<std::string, Tensor> tensors;
  std::int64_t parameters = 0;
  /// SHA-256 of each file that the model is made of, by name.
  Json checksums = Json::object();

  bool decoder_only() const { return family == "gpt2" || family == "gpt_neo" || family == "llama"; }
  bool supports(Task task) const;
  /// Has the head of sequence classification: it need not be initialised from a seed.
  bool has_classification_head() const;
  /// Weight matrices of linear layers inside the transformer layers, whose name (without ".weight") is `target` or
  /// ends in ".target".
  std::vector<const Tensor*> layers_named(const std::string& target) const;
  /// The last words of such layers' names: query, value, dense, …
  std::vector<std::string> layer_names() const;
};

/// Layers that PEFT adapts where none are named.
std::vector<std::string> default_lora_targets(const std::string& family);
std::vector<std::string> default_ia3_targets(const std::string& family);

/// Reads models once. An Error says what is wrong and what to do.
class ModelCatalog {
 public:
  explicit ModelCatalog(SweepFiles& files) : files_(files) {}
  /// The reference stays valid as long as the catalog.
  const Result<ModelInfo>& get(const std::string& path);

 private:
  SweepFiles& files_;
  std::map<std::string, Result<ModelInfo>> known_;
};

}  // namespace finesweep::sweeps
