#include "worker/data/tokenized_cache.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "jobs/json.h"
#include "jobs/sha256.h"
#include "storage/files.h"
#include "worker/data/split.h"
#include "worker/data/tensor_cache.h"
#include "worker/data/text_rows.h"
#include "worker/formats/gguf.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// Raised where the same inputs give other rows, or the file holds them otherwise.
constexpr int format_version = 3;

/// Shares the memory of `values`. Nothing where there are none: safetensors knows no tensor without values.
template <typename T>
void add(NamedTensors& tensors, const std::string& name, const std::vector<T>& values, at::ScalarType type) {
  if (values.empty()) return;
  tensors[name] = at::from_blob(const_cast<T*>(values.data()), {static_cast<std::int64_t>(values.size())},
                                at::TensorOptions().dtype(type));
}

template <typename T>
std::vector<T> values_of(const NamedTensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return {};
  std::vector<T> values(found->second.nbytes() / sizeof(T));
  std::memcpy(values.data(), found->second.const_data_ptr(), values.size() * sizeof(T));
  return values;
}

void add(NamedTensors& tensors, const std::string& name, const TokenRows& tokens) {
  add(tensors, name + ".begins", tokens.begins, at::kLong);
  add(tensors, name + ".ids", tokens.ids, at::kInt);
}

TokenRows tokens_of(const NamedTensors& tensors, const std::string& name) {
  TokenRows tokens;
  tokens.begins = values_of<std::int64_t>(tensors, name + ".begins");
  tokens.ids = values_of<TokenId>(tensors, name + ".ids");
  return tokens;
}

Status keep(const RowCache& cache, const std::string& key, const SequenceRows& rows) {
  // References as bytes and where each begins.
  std::vector<char> text;
  std::vector<std::int64_t> begins{0};
  for (const auto& reference : rows.references) {
    text.insert(text.end(), reference.begin(), reference.end());
    begins.push_back(static_cast<std::int64_t>(text.size()));
  }
  const std::vector<std::int64_t> counts{rows.cut_texts, rows.cut_targets};
  NamedTensors tensors;
  add(tensors, "inputs", rows.inputs);
  add(tensors, "targets", rows.targets);
  add(tensors, "prompts", rows.prompts);
  add(tensors, "uncounted", rows.uncounted, at::kLong);
  add(tensors, "references.begins", begins, at::kLong);
  add(tensors, "references.text", text, at::kByte);
  add(tensors, "counts", counts, at::kLong);
  return TensorCache(cache.folder).write(key, tensors);
}

void take(const NamedTensors& tensors, SequenceRows& rows) {
  rows.inputs = tokens_of(tensors, "inputs");
  rows.targets = tokens_of(tensors, "targets");
  rows.prompts = tokens_of(tensors, "prompts");
  rows.uncounted = values_of<std::int64_t>(tensors, "uncounted");
  const auto text = values_of<char>(tensors, "references.text");
  const auto begins = values_of<std::int64_t>(tensors, "references.begins");
  for (std::size_t i = 1; i < begins.size(); ++i)
    rows.references.emplace_back(text.data() + begins[i - 1], text.data() + begins[i]);
  const auto counts = values_of<std::int64_t>(tensors, "counts");
  rows.cut_texts = counts.at(0);
  rows.cut_targets = counts.at(1);
}

Status keep(const RowCache& cache, const std::string& key, const ClassificationRows& rows) {
  NamedTensors tensors;
  add(tensors, "inputs", rows.tokens);
  add(tensors, "type_ids", rows.type_ids, at::kInt);
  add(tensors, "labels", rows.labels, at::kDouble);
  return TensorCache(cache.folder).write(key, tensors);
}

void take(const NamedTensors& tensors, ClassificationRows& rows) {
  rows.tokens = tokens_of(tensors, "inputs");
  rows.type_ids = values_of<TokenId>(tensors, "type_ids");
  rows.labels = values_of<double>(tensors, "labels");
}

/// The rows of `key()` from the cache; else those that `make` gives, which are kept.
template <typename Rows>
Result<Rows> kept_or_made(const RowCache& cache, const std::function<Result<std::string>()>& key,
                          const std::function<Result<Rows>()>& make) {
  if (cache.folder.empty()) return make();
  const auto name = key();
  if (!name) return name.error();
  if (const auto tensors = TensorCache(cache.folder).read(*name)) {
    Rows rows;
    take(*tensors, rows);
    return rows;
  }
  auto rows = make();
  if (!rows) return rows.error();
  if (Status kept = keep(cache, *name, *rows); !kept) {
    std::fprintf(stderr, "tokenised rows are not kept: %s\n", kept.error().message.c_str());
  }
  return rows;
}

/// What the rows of every task follow from.
Result<Json> common_key(const DataContext& data, const std::string& split, std::int64_t sequence_length,
                        const std::string& tokenizer_digest) {
  const fs::path path = split_path(data, split);
  if (path.empty()) return Error{"The sweep file names no data." + split + "."};
  auto content = storage::sha256_of_file(path);
  if (!content) return content.error();
  Json key{{"format", format_version},
           {"content", *content},
           {"extension", path.extension().string()},
           {"tokenizer", tokenizer_digest},
           {"sequence_length", sequence_length}};
  if (const auto limit = split_limit(data, split)) key["limit"] = {*limit, data.limit_seed};
  return key;
}

/// Of all that stands before the weights: the tokenizer is part of it.
Result<std::string> digest_of_header(const fs::path& path) {
  const auto file = GgufFile::open(path);
  if (!file) return file.error();
  std::error_code error;
  std::uint64_t bytes = fs::file_size(path, error);
  for (const auto& [name, tensor] : file->header().tensors) bytes = std::min(bytes, tensor.begin);
  std::string header(bytes, '\0');
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(header.data(), static_cast<std::streamsize>(bytes))) {
    return Error{"cannot read " + path.string() + "."};
  }
  return to_hex(sha256(header));
}

}  // namespace

Result<std::string> tokenizer_digest(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return digest_of_header(path);
  Json files = Json::object();
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"}) {
    if (!fs::exists(path / name, error)) continue;
    auto digest = storage::sha256_of_file(path / name);
    if (!digest) return digest.error();
    files[name] = std::move(*digest);
  }
  return to_hex(sha256(files.dump()));
}

Result<std::string> tokenized_key(const DataContext& data, const std::string& split, const SequenceOptions& options,
                                  const std::string& tokenizer_digest) {
  auto key = common_key(data, split, options.sequence_length, tokenizer_digest);
  if (!key) return key.error();
  key->update({{"fields", {data.text, data.source, data.target}},
               {"model", options.model == SequenceModel::decoder_only ? "decoder" : "encoder-decoder"},
               {"prompt_length", options.prompt_length},
               {"prompt", options.prompt},
               {"loss_on", options.loss_on == LossOn::target ? "target" : "all"},
               {"rows", options.rows == TextRows::samples ? "samples" : "blocks"}});
  return to_hex(sha256(key->dump()));
}

Result<std::string> tokenized_key(const DataContext& data, const std::string& split, const Labels& labels,
                                  std::int64_t sequence_length, const std::string& tokenizer_digest) {
  auto key = common_key(data, split, sequence_length, tokenizer_digest);
  if (!key) return key.error();
  key->update({{"fields", {data.text, data.text_a, data.text_b, data.label}},
               {"model", "classifier"},
               {"labels", labels.to_json()}});
  return to_hex(sha256(key->dump()));
}

Result<SequenceDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                         const SequenceOptions& options, Tokenizer& tokenizer,
                                         const RowCache& cache) {
  auto rows = kept_or_made<SequenceRows>(
      cache, [&] { return tokenized_key(data, split, options, cache.tokenizer_digest); },
      [&]() -> Result<SequenceRows> {
        const auto texts = read_text_rows(data, split);
        if (!texts) return texts.error();
        return tokenize_sequences(*texts, options, tokenizer, split_path(data, split));
      });
  if (!rows) return rows.error();
  return SequenceDataset(std::move(*rows), options.model, tokenizer.traits());
}

Result<ClassificationDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                               const std::function<Result<std::vector<Example>>()>& examples,
                                               const Labels& labels, std::int64_t sequence_length,
                                               Tokenizer& tokenizer, const RowCache& cache) {
  auto rows = kept_or_made<ClassificationRows>(
      cache, [&] { return tokenized_key(data, split, labels, sequence_length, cache.tokenizer_digest); },
      [&]() -> Result<ClassificationRows> {
        const auto read = examples();
        if (!read) return read.error();
        return tokenize_examples(*read, labels, tokenizer, sequence_length, split_path(data, split));
      });
  if (!rows) return rows.error();
  return ClassificationDataset(std::move(*rows), labels.is_regression(), tokenizer.traits());
}

}  // namespace finesweep::worker
