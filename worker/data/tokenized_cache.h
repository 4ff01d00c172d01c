#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/dataset.h"
#include "worker/data/sequence_dataset.h"
#include "worker/data/sequence_rows.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Hex SHA-256 over the files that a tokenizer is made of: those of a Hugging Face directory, by name and content;
/// or the header of a GGUF file, which holds it. The same words as load_tokenizer's argument.
Result<std::string> tokenizer_digest(const std::filesystem::path& path);

/// Where a job keeps rows once tokenised, and of which tokenizer they are.
struct RowCache {
  /// Made where it is missing; several processes may use one. Empty: nothing is kept.
  std::filesystem::path folder;
  std::string tokenizer_digest;
};

/// What the rows of a tokenised split follow from, as 64 hex digits: the bytes of the data file, fields, limit and
/// its seed, the tokenizer, and the options. Not where anything lies.
Result<std::string> tokenized_key(const DataContext& data, const std::string& split, const SequenceOptions& options,
                                  const std::string& tokenizer_digest);
Result<std::string> tokenized_key(const DataContext& data, const std::string& split, const Labels& labels,
                                  std::int64_t sequence_length, const std::string& tokenizer_digest);

/// Reads and tokenises a split, or takes it from the cache, where it stands as KEY.safetensors. A file there that
/// is damaged is written anew. A cache that cannot be written costs time and nothing else.
///
/// The Error is that of read_text_rows and tokenize_sequences.
Result<SequenceDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                         const SequenceOptions& options, Tokenizer& tokenizer,
                                         const RowCache& cache);

/// The same for classification. `examples` gives the rows of the split, where they are needed.
///
/// The Error is that of `examples` and of tokenize_examples.
Result<ClassificationDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                               const std::function<Result<std::vector<Example>>()>& examples,
                                               const Labels& labels, std::int64_t sequence_length,
                                               Tokenizer& tokenizer, const RowCache& cache);

}  // namespace finesweep::worker
