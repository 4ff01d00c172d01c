#include "worker/formats/safetensors.h"

#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace finesweep::worker {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

// The library's own bound.
constexpr std::uint64_t max_header_bytes = 100'000'000;
constexpr int max_header_depth = 4;

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

/// A tensor's name may be anything: what goes into a message is bounded and printable.
std::string printable(std::string_view name) {
  std::string out;
  for (char c : name.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (name.size() > 200) out += "…";
  return out;
}

struct FileDescriptor {
  int fd = -1;
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd, other.fd);
    return *this;
  }
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// Empty on success, else why not.
std::string read_fully(int fd, void* into, std::uint64_t bytes, std::uint64_t offset) {
  char* out = static_cast<char*>(into);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, out, std::min<std::uint64_t>(bytes, 1u << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::strerror(errno);
    if (got == 0) return "the file became shorter while it was read";
    out += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::uint64_t>(got);
  }
  return {};
}

/// Parses the header, refusing duplicate keys and nesting that no header has.
std::optional<std::string> parse_header(const std::string& text, nlohmann::json& header) {
  std::vector<std::set<std::string>> keys;
  std::optional<std::string> problem;
  const auto callback = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > max_header_depth) {
      if (!problem) problem = "its header is nested too deeply";
      return false;
    }
    if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      if (!keys.empty()) keys.pop_back();
    } else if (event == Event::key && !keys.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && !problem) problem = "its header names '" + printable(key) + "' twice";
    }
    return true;
  };
  header = nlohmann::json::parse(text, callback, /*allow_exceptions=*/false);
  if (problem) return problem;
  if (header.is_discarded() || !header.is_object()) return "its header is not a JSON object";
  return std::nullopt;
}

std::optional<std::string> read_entry(const nlohmann::json& json, TensorEntry& entry) {
  if (!json.is_object()) return "is not described by an object";
  const auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return "has no dtype";
  if (shape == json.end() || !shape->is_array()) return "has no shape";
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return "has no data_offsets [begin, end]";
  }
  entry.dtype = printable(dtype->get<std::string>());
  entry.begin = (*offsets)[0].get<std::uint64_t>();
  entry.end = (*offsets)[1].get<std::uint64_t>();
  if (entry.begin > entry.end) return "has data_offsets that run backwards";

  std::uint64_t elements = 1;
  for (const auto& size : *shape) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > INT64_MAX)
      return "has a size that is not a natural number";
    entry.shape.push_back(static_cast<std::int64_t>(size.get<std::uint64_t>()));
    if (__builtin_mul_overflow(elements, size.get<std::uint64_t>(), &elements)) return "has a shape that overflows";
  }
  // Dtypes that we cannot load (F8_E4M3, …) fail when they are asked for, not on opening.
  if (const Dtype* known = dtype_named(entry.dtype)) {
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(elements, known->bytes, &bytes) || bytes != entry.end - entry.begin) {
      return "has " + std::to_string(entry.end - entry.begin) + " bytes, but its shape and dtype need " +
             std::to_string(elements) + " × " + std::to_string(known->bytes);
    }
  }
  return std::nullopt;
}

}  // namespace

struct SafetensorsFile::Contents {
  std::filesystem::path path;
  FileDescriptor file;
  std::uint64_t data_begin = 0;
  std::map<std::string, TensorEntry, std::less<>> entries;
  std::map<std::string, std::string> metadata;
};

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot read the safetensors file " + path.string() + ": " + reason + "."};
  };
  auto contents = std::make_shared<Contents>();
  contents->path = path;
  contents->file = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (contents->file.fd < 0 || ::fstat(contents->file.fd, &info) != 0) return refuse(std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return refuse("it is not a regular file");
  const auto file_bytes = static_cast<std::uint64_t>(info.st_size);

  std::uint64_t header_bytes = 0;
  if (file_bytes < 8) return refuse("it has only " + std::to_string(file_bytes) + " bytes");
  if (auto why = read_fully(contents->file.fd, &header_bytes, 8, 0); !why.empty()) return refuse(why);
  if (header_bytes > max_header_bytes) {
    return refuse("its header claims " + std::to_string(header_bytes) + " bytes (at most 100 MB are allowed)");
  }
  if (header_bytes > file_bytes - 8) {
    return refuse("its header claims " + std::to_string(header_bytes) + " bytes, but the file has only " +
                  std::to_string(file_bytes) + "; was it downloaded whole?");
  }
  std::string text(header_bytes, '\0');
  if (auto why = read_fully(contents->file.fd, text.data(), header_bytes, 8); !why.empty()) return refuse(why);

  nlohmann::json header;
  if (auto why = parse_header(text, header)) return refuse(*why);
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      if (!json.is_object()) return refuse("its __metadata__ is not an object");
      for (const auto& [key, value] : json.items()) {
        if (!value.is_string()) return refuse("its __metadata__ holds something that is not text");
        contents->metadata[key] = value.get<std::string>();
      }
      continue;
    }
    TensorEntry entry;
    if (auto why = read_entry(json, entry)) return refuse("tensor '" + printable(name) + "' " + *why);
    contents->entries.emplace(name, std::move(entry));
  }

  // As the library: the data section is covered exactly, without holes or overlaps.
  contents->data_begin = 8 + header_bytes;
  const std::uint64_t data_bytes = file_bytes - contents->data_begin;
  std::vector<std::pair<const TensorEntry*, const std::string*>> by_offset;
  for (const auto& [name, entry] : contents->entries) by_offset.emplace_back(&entry, &name);
  std::sort(by_offset.begin(), by_offset.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  std::uint64_t reached = 0;
  for (const auto& [entry, name] : by_offset) {
    if (entry->end > data_bytes) {
      return refuse("tensor '" + printable(*name) + "' lies beyond the end of the file; was it downloaded whole?");
    }
    if (entry->begin < reached) return refuse("tensor '" + printable(*name) + "' overlaps the tensor before it");
    if (entry->begin > reached) return refuse("there is a hole before tensor '" + printable(*name) + "'");
    reached = entry->end;
  }
  if (reached != data_bytes) {
    return refuse(std::to_string(data_bytes - reached) + " bytes at its end belong to no tensor");
  }

  SafetensorsFile file;
  file.contents_ = std::move(contents);
  return file;
}

const std::filesystem::path& SafetensorsFile::path() const {
  return contents_->path;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : contents_->entries) names.push_back(name);
  return names;
}

bool SafetensorsFile::contains(std::string_view name) const {
  return find(name) != nullptr;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = contents_->entries.find(name);
  return found == contents_->entries.end() ? nullptr : &found->second;
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
  auto why = read_fully(contents_->file.fd, tensor.data_ptr(), entry->end - entry->begin,
                        contents_->data_begin + entry->begin);
  if (!why.empty()) return refuse(why);
  return tensor;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return contents_->metadata;
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
  if (!file) return refuse(errno != 0 ? std::strerror(errno) : "the write failed");
  return {};
}

}  // namespace finesweep::worker
