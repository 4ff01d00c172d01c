#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

// What stands beside the weights of a model: in its Hugging Face directory, or in its GGUF file.

/// A tokenizer's files lie in the folder.
bool holds_tokenizer(const std::filesystem::path& model);

/// The weights stand in bitsandbytes' layout, as config.json says.
bool holds_quantized_weights(const std::filesystem::path& model);

/// "bert", …, as config.json says; of a GGUF file "llama".
std::string family_of(const std::filesystem::path& model);
/// The pad_token_id of a decoder, which pools the last token that is another one; nullopt of other families, and
/// where there is none.
std::optional<TokenId> end_padding_of(const std::filesystem::path& model);

/// Of a Hugging Face directory, or from the metadata of a GGUF file.
Result<std::unique_ptr<Tokenizer>> load_model_tokenizer(const std::filesystem::path& model);

/// Copies what makes a folder with config.json and weights one that any library loads: the tokenizer's files and
/// generation_config.json; from a GGUF file, which keeps its tokenizer inside, tokenizer.json and
/// tokenizer_config.json.
Status copy_model_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// The longest sequence of a decoder-only model, as its config says.
std::optional<std::int64_t> decoder_positions(const std::filesystem::path& model);

/// How a model begins and ends text.
struct TextBounds {
  std::vector<std::int64_t> end_ids;
  /// What the decoder of an encoder-decoder begins with.
  std::int64_t decoder_start_id = 0;
};

/// As generation_config.json says, else config.json, else the tokenizer. `model` is a folder or a GGUF file.
TextBounds text_bounds(const std::filesystem::path& model, const Tokenizer& tokenizer);

}  // namespace finesweep::worker
