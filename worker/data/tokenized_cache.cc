#include "worker/data/tokenized_cache.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "jobs/json.h"
#include "jobs/sha256.h"
#include "storage/files.h"
#include "worker/data/split.h"
#include "worker/data/text_rows.h"
#include "worker/formats/gguf.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// Raised where the same inputs give other rows, or the file holds them otherwise.
constexpr int format_version = 1;

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

template <typename T>
at::Tensor view(const std::vector<T>& values, at::ScalarType type) {
  return at::from_blob(const_cast<T*>(values.data()), {static_cast<std::int64_t>(values.size())},
                       at::TensorOptions().dtype(type));
}

void add_tokens(Tensors& tensors, const std::string& name, const TokenRows& tokens) {
  tensors.emplace_back(name + ".begins", view(tokens.begins, at::kLong));
  if (!tokens.ids.empty()) tensors.emplace_back(name + ".ids", view(tokens.ids, at::kInt));
}

/// Names a tensor for all parts of `rows` that are there. References are given as bytes and where each begins.
Tensors tensors_of(const SequenceRows& rows, const std::vector<char>& text, const std::vector<std::int64_t>& begins,
                   const std::vector<std::int64_t>& counts) {
  Tensors tensors;
  add_tokens(tensors, "inputs", rows.inputs);
  add_tokens(tensors, "targets", rows.targets);
  add_tokens(tensors, "prompts", rows.prompts);
  if (!rows.uncounted.empty()) tensors.emplace_back("uncounted", view(rows.uncounted, at::kLong));
  tensors.emplace_back("references.begins", view(begins, at::kLong));
  if (!text.empty()) tensors.emplace_back("references.text", view(text, at::kByte));
  tensors.emplace_back("counts", view(counts, at::kLong));
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return tensors;
}

std::string digest_of(const Tensors& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    const std::string head = name + ":" + std::to_string(tensor.nbytes()) + ";";
    hash.update(head.data(), head.size());
    hash.update(tensor.const_data_ptr(), tensor.nbytes());
  }
  return to_hex(hash.finish());
}

/// A name that no other process or thread uses, not even on another host.
fs::path beside(const fs::path& file) {
  static std::atomic<unsigned> counter{0};
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  std::string name = ".";
  name.append(file.filename().string()).append(".tmp-").append(host).append("-").append(std::to_string(::getpid()));
  return file.parent_path() / name.append("-").append(std::to_string(counter.fetch_add(1)));
}

/// What a process left that died while it wrote.
void remove_abandoned(const fs::path& folder) {
  std::error_code error;
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(24);
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(".") || name.find(".safetensors.tmp-") == std::string::npos) continue;
    std::error_code ignored;
    if (entry.last_write_time(ignored) < long_ago && !ignored) fs::remove(entry.path(), ignored);
  }
}

Status write(const fs::path& file, const std::string& key, const SequenceRows& rows) {
  std::vector<char> text;
  std::vector<std::int64_t> begins{0};
  for (const auto& reference : rows.references) {
    text.insert(text.end(), reference.begin(), reference.end());
    begins.push_back(static_cast<std::int64_t>(text.size()));
  }
  const std::vector<std::int64_t> counts{rows.cut_texts, rows.cut_targets};
  const Tensors tensors = tensors_of(rows, text, begins, counts);

  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) return Error{"cannot make the folder " + file.parent_path().string() + ": " + error.message()};
  remove_abandoned(file.parent_path());
  const fs::path temporary = beside(file);
  Status written = write_safetensors(temporary, tensors, {{"key", key}, {"sha256", digest_of(tensors)}});
  if (written) written = storage::sync_path(temporary);
  if (written) {
    fs::rename(temporary, file, error);
    if (error) written = Error{"cannot rename " + temporary.string() + ": " + error.message()};
  }
  if (!written) {
    fs::remove(temporary, error);
    return written;
  }
  return storage::sync_path(file.parent_path());
}

template <typename T>
std::vector<T> values_of(const std::map<std::string, at::Tensor>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return {};
  std::vector<T> values(found->second.nbytes() / sizeof(T));
  std::memcpy(values.data(), found->second.const_data_ptr(), values.size() * sizeof(T));
  return values;
}

TokenRows take_tokens(const std::map<std::string, at::Tensor>& tensors, const std::string& name) {
  TokenRows tokens;
  tokens.begins = values_of<std::int64_t>(tensors, name + ".begins");
  tokens.ids = values_of<TokenId>(tensors, name + ".ids");
  return tokens;
}

/// Nothing where there is no such file, or it is not what was written. The checksum speaks for the whole content,
/// so nothing of it is looked at twice.
std::optional<SequenceRows> read(const fs::path& file, const std::string& key) {
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  const auto damaged = [&](const std::string& reason) {
    std::fprintf(stderr, "tokenised rows are made anew: %s: %s\n", file.c_str(), reason.c_str());
    return std::nullopt;
  };
  const auto opened = SafetensorsFile::open(file);
  if (!opened) return damaged(opened.error().message);
  const auto& described = opened->metadata();
  const auto known_key = described.find("key"), checksum = described.find("sha256");
  if (known_key == described.end() || checksum == described.end() || known_key->second != key) {
    return damaged("it belongs to something else");
  }
  Tensors tensors;
  for (const auto& name : opened->names()) {
    auto tensor = opened->tensor(name);
    if (!tensor) return damaged(tensor.error().message);
    tensors.emplace_back(name, std::move(*tensor));
  }
  if (digest_of(tensors) != checksum->second) return damaged("its checksum does not match");

  const std::map<std::string, at::Tensor> by_name(tensors.begin(), tensors.end());
  SequenceRows rows;
  rows.inputs = take_tokens(by_name, "inputs");
  rows.targets = take_tokens(by_name, "targets");
  rows.prompts = take_tokens(by_name, "prompts");
  rows.uncounted = values_of<std::int64_t>(by_name, "uncounted");
  const auto text = values_of<char>(by_name, "references.text");
  const auto begins = values_of<std::int64_t>(by_name, "references.begins");
  for (std::size_t i = 1; i < begins.size(); ++i)
    rows.references.emplace_back(text.data() + begins[i - 1], text.data() + begins[i]);
  const auto counts = values_of<std::int64_t>(by_name, "counts");
  rows.cut_texts = counts.at(0);
  rows.cut_targets = counts.at(1);
  return rows;
}

Result<SequenceRows> tokenize(const DataContext& data, const std::string& split, const SequenceOptions& options,
                              Tokenizer& tokenizer) {
  const auto rows = read_text_rows(data, split);
  if (!rows) return rows.error();
  return tokenize_sequences(*rows, options, tokenizer, split_path(data, split));
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
  const fs::path path = split_path(data, split);
  if (path.empty()) return Error{"The sweep file names no data." + split + "."};
  auto content = storage::sha256_of_file(path);
  if (!content) return content.error();
  Json key{{"format", format_version},
           {"content", *content},
           {"extension", path.extension().string()},
           {"fields", {data.text, data.source, data.target}},
           {"tokenizer", tokenizer_digest},
           {"model", options.model == SequenceModel::decoder_only ? "decoder" : "encoder-decoder"},
           {"sequence_length", options.sequence_length},
           {"prompt_length", options.prompt_length},
           {"prompt", options.prompt},
           {"loss_on", options.loss_on == LossOn::target ? "target" : "all"},
           {"rows", options.rows == TextRows::samples ? "samples" : "blocks"}};
  if (const auto limit = split_limit(data, split)) key["limit"] = {*limit, data.limit_seed};
  return to_hex(sha256(key.dump()));
}

Result<SequenceDataset> load_or_tokenize(const DataContext& data, const std::string& split,
                                         const SequenceOptions& options, Tokenizer& tokenizer,
                                         const std::string& tokenizer_digest, const fs::path& cache) {
  const auto dataset = [&](SequenceRows rows) {
    return SequenceDataset(std::move(rows), options.model, tokenizer.traits());
  };
  if (cache.empty()) {
    auto rows = tokenize(data, split, options, tokenizer);
    if (!rows) return rows.error();
    return dataset(std::move(*rows));
  }
  const auto key = tokenized_key(data, split, options, tokenizer_digest);
  if (!key) return key.error();
  const fs::path file = cache / (*key + ".safetensors");
  if (auto rows = read(file, *key)) return dataset(std::move(*rows));
  auto rows = tokenize(data, split, options, tokenizer);
  if (!rows) return rows.error();
  if (Status written = write(file, *key, *rows); !written) {
    std::fprintf(stderr, "tokenised rows are not kept: %s\n", written.error().message.c_str());
  }
  return dataset(std::move(*rows));
}

}  // namespace finesweep::worker
