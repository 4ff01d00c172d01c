#include "worker/formats/safetensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace finesweep::worker {
namespace {

struct Dtype {
  const char* name;
  at::ScalarType type;
  std::uint64_t bytes;
};

// In the order in which the library sorts them, smallest alignment first.
constexpr std::array<Dtype, 10> dtypes{{{"BOOL", at::kBool, 1},
                                        {"U8", at::kByte, 1},
                                        {"I8", at::kChar, 1},
                                        {"I16", at::kShort, 2},
                                        {"F16", at::kHalf, 2},
                                        {"BF16", at::kBFloat16, 2},
                                        {"I32", at::kInt, 4},
                                        {"F32", at::kFloat, 4},
                                        {"F64", at::kDouble, 8},
                                        {"I64", at::kLong, 8}}};

const Dtype* dtype_named(std::string_view name) {
  for (const Dtype& dtype : dtypes) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

const Dtype* dtype_of(at::ScalarType type) {
  for (const Dtype& dtype : dtypes) {
    if (type == dtype.type) return &dtype;
  }
  return nullptr;
}

}  // namespace

struct SafetensorsFile::Contents {
  std::filesystem::path path;
  FileReader file;
  SafetensorsHeader header;
};

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot read the safetensors file " + path.string() + ": " + reason + "."};
  };
  auto file = FileReader::open(path);
  if (!file) return refuse(file.error().message);
  auto header = read_safetensors_header(
      [&](void* into, std::uint64_t bytes, std::uint64_t offset) { return file->read(into, bytes, offset); },
      file->bytes());
  if (!header) return refuse(header.error().message);
  SafetensorsFile opened;
  opened.contents_ = std::make_shared<Contents>(Contents{path, std::move(*file), std::move(*header)});
  return opened;
}

const std::filesystem::path& SafetensorsFile::path() const {
  return contents_->path;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : contents_->header.entries) names.push_back(name);
  return names;
}

bool SafetensorsFile::contains(std::string_view name) const {
  return find(name) != nullptr;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = contents_->header.entries.find(name);
  return found == contents_->header.entries.end() ? nullptr : &found->second;
}

Result<at::Tensor> SafetensorsFile::tensor(std::string_view name) const {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot read tensor '" + printable(name) + "' from " + path().string() + ": " + reason + "."};
  };
  const TensorEntry* entry = find(name);
  if (entry == nullptr) return refuse("the file has no such tensor");
  const Dtype* dtype = dtype_named(entry->dtype);
  if (dtype == nullptr) return refuse("dtype " + entry->dtype + " is not supported");
  at::Tensor tensor = at::empty(entry->shape, at::TensorOptions().dtype(dtype->type));
  auto why = contents_->file.read(tensor.data_ptr(), entry->end - entry->begin,
                                  contents_->header.data_begin + entry->begin);
  if (!why.empty()) return refuse(why);
  return tensor;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return contents_->header.metadata;
}

Status write_safetensors(const std::filesystem::path& path,
                         const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot write the safetensors file " + path.string() + ": " + reason + "."};
  };
  struct Item {
    const std::string* name;
    const at::Tensor* tensor;
    const Dtype* dtype;
  };
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    const Dtype* dtype = dtype_of(tensor.scalar_type());
    if (dtype == nullptr)
      return refuse("tensor '" + printable(name) + "' has a dtype that the format does not have");
    items.push_back({&name, &tensor, dtype});
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : *a.name < *b.name;
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const Item& item : items) {
    if (header.contains(*item.name)) return refuse("tensor '" + printable(*item.name) + "' is given twice");
    const std::uint64_t bytes = static_cast<std::uint64_t>(item.tensor->numel()) * item.dtype->bytes;
    header[*item.name] = {{"dtype", item.dtype->name},
                          {"shape", item.tensor->sizes().vec()},
                          {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = text.size();

  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&header_bytes), 8);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  for (const Item& item : items) {
    const at::Tensor contiguous = item.tensor->detach().cpu().contiguous();
    file.write(static_cast<const char*>(contiguous.data_ptr()),
               static_cast<std::streamsize>(contiguous.numel()) * static_cast<std::streamsize>(item.dtype->bytes));
  }
  file.close();
  if (!file) {
    const int number = errno;
    const bool full = number == ENOSPC || number == EDQUOT;
    return refuse((number != 0 ? std::strerror(number) : "the write failed") +
                  std::string(full ? "; free space on this file system, then run again" : ""));
  }
  return {};
}

}  // namespace finesweep::worker
