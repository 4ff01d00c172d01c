#include "worker/formats/gguf.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <mutex>

#include "worker/formats/gguf_blocks.h"

namespace finesweep::worker {

struct GgufFile::Contents {
  std::filesystem::path path;
  FileReader file;
  GgufHeader header;
};

namespace {

/// What a thread reads and decodes at once: small enough to stay in its cache.
constexpr std::int64_t kPieceBytes = 128 * 1024;

/// Reads and decodes a whole tensor. Empty on success, else why not.
template <typename T>
std::string decode_tensor(const FileReader& file, const GgufTensorEntry& entry, T* to) {
  const GgufType& type = *entry.type;
  const std::int64_t blocks = static_cast<std::int64_t>(entry.end - entry.begin) / type.block_bytes;
  const std::int64_t blocks_a_piece = std::max<std::int64_t>(1, kPieceBytes / type.block_bytes);
  std::mutex mutex;
  std::string problem;
  at::parallel_for(0, blocks, blocks_a_piece, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> piece(
        static_cast<std::size_t>(std::min(blocks_a_piece, end - begin) * type.block_bytes));
    for (std::int64_t at = begin; at < end; at += blocks_a_piece) {
      const std::int64_t now = std::min(blocks_a_piece, end - at);
      const std::string why = file.read(piece.data(), static_cast<std::uint64_t>(now * type.block_bytes),
                                        entry.begin + static_cast<std::uint64_t>(at * type.block_bytes));
      if (!why.empty()) {
        const std::scoped_lock lock(mutex);
        problem = why;
        return;
      }
      decode_gguf_blocks(type, piece.data(), now, to + at * type.block_elements);
    }
  });
  return problem;
}

template <typename T>
const char* expected_kind() {
  return GgufValue{T{}}.kind();
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot read the GGUF file " + path.string() + ": " + reason + "."};
  };
  auto file = FileReader::open(path);
  if (!file) return refuse(file.error().message);
  auto header = read_gguf_header(
      [&](void* into, std::uint64_t bytes, std::uint64_t offset) { return file->read(into, bytes, offset); },
      file->bytes());
  if (!header) return refuse(header.error().message);
  GgufFile opened;
  opened.contents_ = std::make_shared<Contents>(Contents{path, std::move(*file), std::move(*header)});
  return opened;
}

const std::filesystem::path& GgufFile::path() const {
  return contents_->path;
}

const GgufHeader& GgufFile::header() const {
  return contents_->header;
}

std::vector<std::string> GgufFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : contents_->header.tensors) names.push_back(name);
  return names;
}

const GgufTensorEntry* GgufFile::find(std::string_view name) const {
  const auto found = contents_->header.tensors.find(name);
  return found == contents_->header.tensors.end() ? nullptr : &found->second;
}

Result<at::Tensor> GgufFile::tensor(std::string_view name, at::ScalarType type) const {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot read tensor '" + printable(name) + "' from " + path().string() + ": " + reason + "."};
  };
  const GgufTensorEntry* entry = find(name);
  if (entry == nullptr) return refuse("the file has no such tensor");
  if (!can_decode(*entry->type)) {
    return refuse(std::string("its type ") + entry->type->name +
                  " is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are)");
  }
  if (type != at::kFloat && type != at::kBFloat16) return refuse("only fp32 and bf16 are decoded to");
  at::Tensor tensor = at::empty(entry->shape, at::TensorOptions().dtype(type));
  const std::string why = type == at::kFloat
                              ? decode_tensor(contents_->file, *entry, tensor.mutable_data_ptr<float>())
                              : decode_tensor(contents_->file, *entry, tensor.mutable_data_ptr<c10::BFloat16>());
  if (!why.empty()) return refuse(why);
  return tensor;
}

bool GgufFile::has_value(std::string_view key) const {
  return contents_->header.metadata.contains(key);
}

template <typename T>
Result<std::optional<T>> GgufFile::value_if_present(std::string_view key) const {
  const auto found = contents_->header.metadata.find(key);
  if (found == contents_->header.metadata.end()) return std::optional<T>();
  const auto& value = found->second.value;
  if (const T* held = std::get_if<T>(&value)) return std::optional<T>(*held);
  if constexpr (std::is_same_v<T, double>) {
    if (const auto* integer = std::get_if<std::int64_t>(&value))
      return std::optional<T>(static_cast<double>(*integer));
  }
  if constexpr (std::is_same_v<T, std::vector<std::int64_t>> || std::is_same_v<T, std::vector<double>> ||
                std::is_same_v<T, std::vector<std::string>>) {
    const auto* list = std::get_if<std::vector<GgufValue>>(&value);
    if (list != nullptr && list->empty()) return std::optional<T>(T{});
  }
  return Error{"The GGUF file " + path().string() + " has " + found->second.kind() + " as '" + printable(key) +
               "', and " + expected_kind<T>() + " is expected."};
}

template <typename T>
Result<T> GgufFile::value(std::string_view key) const {
  auto found = value_if_present<T>(key);
  if (!found) return found.error();
  if (!*found) {
    return Error{"The GGUF file " + path().string() + " has no '" + printable(key) + "', " + expected_kind<T>() +
                 " that is needed."};
  }
  return std::move(**found);
}

#define FINESWEEP_GGUF_VALUE(T)                                  \
  template Result<T> GgufFile::value<T>(std::string_view) const; \
  template Result<std::optional<T>> GgufFile::value_if_present<T>(std::string_view) const;
FINESWEEP_GGUF_VALUE(std::string)
FINESWEEP_GGUF_VALUE(std::int64_t)
FINESWEEP_GGUF_VALUE(double)
FINESWEEP_GGUF_VALUE(bool)
FINESWEEP_GGUF_VALUE(std::vector<std::string>)
FINESWEEP_GGUF_VALUE(std::vector<std::int64_t>)
FINESWEEP_GGUF_VALUE(std::vector<double>)

}  // namespace finesweep::worker
