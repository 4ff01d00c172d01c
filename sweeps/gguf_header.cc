#include "sweeps/gguf_header.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>

namespace finesweep::sweeps {

namespace {

/// A header holds the vocabulary, some megabytes. More and more of the file is read until it is whole.
constexpr std::size_t kFirstRead = 4 << 20, kMostRead = 256 << 20;
/// Bounds that no model in earnest exceeds.
constexpr std::uint64_t kMostEntries = 1 << 20;
constexpr std::uint32_t kMostDimensions = 8;

/// Types of metadata values, as the format numbers them.
enum ValueType : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

struct CutOff {};
struct Senseless {
  const char* reason;
};

/// Reads little-endian values one after the other; throws CutOff behind the end.
class Parser {
 public:
  explicit Parser(std::string_view bytes) : rest_(bytes) {}

  GgufHeader parse() {
    if (take(4) != "GGUF") throw Senseless{"it is not a GGUF file"};
    const auto version = number<std::uint32_t>();
    if (version != 2 && version != 3) throw Senseless{"its version is neither 2 nor 3"};
    const auto tensors = number<std::uint64_t>(), entries = number<std::uint64_t>();
    if (tensors > kMostEntries || entries > kMostEntries) throw Senseless{"its counts make no sense"};
    for (std::uint64_t i = 0; i < entries; ++i) read_entry();
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor();
    return std::move(out_);
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) throw CutOff{};
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view text() { return take(number<std::uint64_t>()); }

  void read_entry() {
    const std::string key(text());
    const auto type = number<std::uint32_t>();
    if (type == kString) {
      out_.texts.insert_or_assign(key, std::string(text()));
    } else if (type == kArray) {
      const auto element = number<std::uint32_t>();
      const auto length = number<std::uint64_t>();
      out_.list_lengths.insert_or_assign(key,
                                         static_cast<std::int64_t>(std::min<std::uint64_t>(length, INT64_MAX)));
      skip_elements(element, length);
    } else if (const auto value = integer(type)) {
      out_.integers.insert_or_assign(key, *value);
    }
  }

  /// Of a floating number, nothing.
  std::optional<std::int64_t> integer(std::uint32_t type) {
    switch (type) {
      case kUint8:
      case kBool:
        return number<std::uint8_t>();
      case kInt8:
        return number<std::int8_t>();
      case kUint16:
        return number<std::uint16_t>();
      case kInt16:
        return number<std::int16_t>();
      case kUint32:
        return number<std::uint32_t>();
      case kInt32:
        return number<std::int32_t>();
      case kUint64:
        return static_cast<std::int64_t>(number<std::uint64_t>());
      case kInt64:
        return number<std::int64_t>();
      case kFloat32:
        take(4);
        return std::nullopt;
      case kFloat64:
        take(8);
        return std::nullopt;
      default:
        throw Senseless{"a metadata value has an unknown type"};
    }
  }

  void skip_elements(std::uint32_t type, std::uint64_t length) {
    static constexpr std::uint64_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == kString) {
      // Each has its length of 8 bytes: what cannot be there is not counted through.
      if (length > rest_.size() / 8) throw CutOff{};
      for (std::uint64_t i = 0; i < length; ++i) text();
    } else if (type == kArray || type > kFloat64) {
      throw Senseless{"a list in the metadata has elements of an unknown type"};
    } else {
      if (length > rest_.size()) throw CutOff{};
      take(length * kSizes[type]);
    }
  }

  void read_tensor() {
    GgufHeader::Tensor tensor;
    tensor.name = text();
    const auto dimensions = number<std::uint32_t>();
    if (dimensions > kMostDimensions) throw Senseless{"a tensor has too many dimensions"};
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = number<std::uint64_t>();
      if (size > INT64_MAX) throw Senseless{"a tensor has a size that makes no sense"};
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
    }
    take(4 + 8);  // type and offset
    out_.tensors.push_back(std::move(tensor));
  }

  std::string_view rest_;
  GgufHeader out_;
};

}  // namespace

Result<GgufHeader> read_gguf_header(const std::filesystem::path& path, SweepFiles& files) {
  for (std::size_t most = kFirstRead;; most *= 4) {
    const auto start = files.read_start(path, most);
    if (!start) return start.error();
    try {
      return Parser(*start).parse();
    } catch (const CutOff&) {
      if (start->size() < most) return Error{"it was cut off: its header ends beyond the end of the file"};
      if (most >= kMostRead) return Error{"its header is larger than any model's"};
    } catch (const Senseless& senseless) {
      return Error{senseless.reason};
    }
  }
}

}  // namespace finesweep::sweeps
