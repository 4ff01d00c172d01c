#pragma once

#include <filesystem>
#include <string>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/sequence_dataset.h"
#include "worker/data/sequence_rows.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Hex SHA-256 over the files that a tokenizer is made of: those of a Hugging Face directory, by name and content;
/// or the header of a GGUF file, which holds it. The same words as load_tokenizer's argument.
Result<std::string> tokenizer_digest(const std::filesystem::path& path);

/// What the rows of a tokenised split follow from, as 64 hex digits: the bytes of the data file, fields, limit and
/// its seed, the tokenizer, and the options. Not where anything lies.
Result<std::string> tokenized_key(const DataContext& data, const std::string& split, const SequenceOptions& options,
                                  const std::string& tokenizer_digest);

/// Reads and tokenises a split, or takes it from `cache` (a folder that is made where it is missing; empty: no
/// cache), where it stands as KEY.safetensors. A file there that is damaged is written anew. Several processes may
/// use one folder. A cache that cannot be written costs time and nothing else.
///
/// The Error is that of read_text_rows and tokenize_sequences.
Result<SequenceDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                         const SequenceOptions& options, Tokenizer& tokenizer,
                                         const std::string& tokenizer_digest, const std::filesystem::path& cache);

}  // namespace finesweep::worker
