#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/formats/gguf.h"

namespace finesweep::worker {

/// The tokenizer inside a GGUF file, as its metadata has it.
struct GgufTokenizer {
  std::string model;                // "gpt2": byte-level BPE; "llama": SentencePiece
  std::string pre_tokenizer;        // "smollm", "llama-bpe", …; empty where the file names none
  std::vector<std::string> tokens;  // by id; bytes written as GPT-2 does where the model is "gpt2"
  std::vector<std::string> merges;  // "left right", best first; empty where the model has none
  /// By id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty where the file has none.
  std::vector<std::int64_t> token_types;
  std::vector<double> scores;  // by id; empty where the file has none
  std::optional<std::int64_t> bos_id, eos_id, unknown_id, padding_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::optional<std::string> chat_template;  // Jinja
};

/// A GGUF file of architecture "llama", as a Hugging Face directory of LlamaForCausalLM would show the same model.
class GgufLlama {
 public:
  /// Checks that every tensor has a name that LlamaForCausalLM knows and that no layer lacks one; shapes are left
  /// to the model. The Error names the file and the tensor or key: another architecture, experts, partial rotary
  /// embeddings, rotary factors that are no llama3 scaling, one part of a model in several files.
  static Result<GgufLlama> open(const std::filesystem::path& path);

  const GgufFile& file() const { return file_; }
  /// As config.json has it, with `rope_theta` and `rope_scaling` (null, linear, yarn, llama3).
  const Json& config() const { return config_; }
  /// The Error where the file holds no tokenizer.
  Result<GgufTokenizer> tokenizer() const;

  /// Hugging Face's names ("model.layers.0.self_attn.q_proj.weight"), sorted. No lm_head.weight where it is tied.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null where there is no such tensor.
  const GgufTensorEntry* find(std::string_view name) const;
  /// As GgufFile::tensor; rows of the query and key projections in Hugging Face's order.
  Result<at::Tensor> tensor(std::string_view name, at::ScalarType type = at::kFloat) const;

 private:
  /// A tensor of the file; rows of `heads` heads are permuted where it is not 0.
  struct Source {
    std::string name;
    std::int64_t heads = 0;
  };

  Status map_names();
  Status make_config();

  GgufFile file_;
  Json config_;
  std::map<std::string, Source, std::less<>> sources_;
};

/// From ggml's order of rows, which pairs neighbours for the rotary embedding, to Hugging Face's, which pairs the
/// halves of a head.  w [heads × head size, …]
at::Tensor undo_rotary_permutation(const at::Tensor& w, std::int64_t heads);

}  // namespace finesweep::worker
