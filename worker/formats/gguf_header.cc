#include "worker/formats/gguf_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

namespace finesweep::worker {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian");

constexpr std::uint64_t kMostHeaderBytes = 100'000'000;
constexpr int kDeepestArray = 4;
constexpr std::uint32_t kMostDimensions = 4;
constexpr std::uint32_t kDefaultAlignment = 32;

// ggml.h and ggml-common.h.
constexpr std::array<GgufType, 34> kTypes{{
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
}};

// Numbers of the format.
enum class ValueType : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  text = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

/// Bytes that a value takes at least; 0 for a type that there is not.
std::uint64_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::uint8:
    case ValueType::int8:
    case ValueType::boolean:
      return 1;
    case ValueType::uint16:
    case ValueType::int16:
      return 2;
    case ValueType::uint32:
    case ValueType::int32:
    case ValueType::float32:
      return 4;
    case ValueType::text:
    case ValueType::uint64:
    case ValueType::int64:
    case ValueType::float64:
      return 8;
    case ValueType::array:
      return 12;
  }
  return 0;
}

/// Reads on through a buffer. The first problem stays; from then on every read gives zeros.
class Cursor {
 public:
  Cursor(const ReadAt& read, std::uint64_t file_bytes)
      : read_(read), end_(std::min(file_bytes, kMostHeaderBytes)), cut_(file_bytes > kMostHeaderBytes) {}

  bool ok() const { return !problem_; }
  const std::string& problem() const { return *problem_; }
  void fail(std::string reason) {
    if (!problem_) problem_ = std::move(reason);
  }
  std::uint64_t position() const { return position_; }

  /// Whether so many bytes are left; if not, that is the problem.
  bool has(std::uint64_t bytes) {
    if (!ok()) return false;
    if (bytes <= end_ - position_) return true;
    fail(cut_ ? "its header is larger than 100 MB" : "it ends within its header; was it downloaded whole?");
    return false;
  }

  void take(void* into, std::uint64_t bytes) {
    if (!has(bytes)) {
      std::memset(into, 0, bytes);
      return;
    }
    char* out = static_cast<char*>(into);
    while (bytes > 0) {
      if (position_ == buffer_begin_ + buffer_.size() && !refill()) return std::memset(out, 0, bytes), void();
      const std::uint64_t at = position_ - buffer_begin_;
      const std::uint64_t now = std::min<std::uint64_t>(bytes, buffer_.size() - at);
      std::memcpy(out, buffer_.data() + at, now);
      out += now;
      bytes -= now;
      position_ += now;
    }
  }
  template <typename T>
  T number() {
    T value{};
    take(&value, sizeof(value));
    return value;
  }
  std::string text() {
    const auto bytes = number<std::uint64_t>();
    if (!has(bytes)) return {};
    std::string text(bytes, '\0');
    take(text.data(), bytes);
    return text;
  }

 private:
  bool refill() {
    buffer_begin_ = position_;
    buffer_.resize(std::min<std::uint64_t>(end_ - position_, 1 << 20));
    const std::string why = read_(buffer_.data(), buffer_.size(), position_);
    if (!why.empty()) fail(why);
    return why.empty();
  }

  const ReadAt& read_;
  const std::uint64_t end_;
  const bool cut_;
  std::uint64_t position_ = 0;
  std::uint64_t buffer_begin_ = 0;
  std::vector<char> buffer_;
  std::optional<std::string> problem_;
};

template <typename T>
std::int64_t read_integer(Cursor& in) {
  const T value = in.number<T>();
  if (!std::in_range<std::int64_t>(value)) in.fail("it is beyond 63 bits");
  return static_cast<std::int64_t>(value);
}

std::int64_t read_integer(Cursor& in, ValueType type) {
  switch (type) {
    case ValueType::uint8:
      return read_integer<std::uint8_t>(in);
    case ValueType::int8:
      return read_integer<std::int8_t>(in);
    case ValueType::uint16:
      return read_integer<std::uint16_t>(in);
    case ValueType::int16:
      return read_integer<std::int16_t>(in);
    case ValueType::uint32:
      return read_integer<std::uint32_t>(in);
    case ValueType::int32:
      return read_integer<std::int32_t>(in);
    case ValueType::uint64:
      return read_integer<std::uint64_t>(in);
    default:
      return read_integer<std::int64_t>(in);
  }
}

double read_float(Cursor& in, ValueType type) {
  return type == ValueType::float32 ? static_cast<double>(in.number<float>()) : in.number<double>();
}

bool read_bool(Cursor& in) {
  const auto byte = in.number<std::uint8_t>();
  if (byte > 1) in.fail("it is a truth value that is neither 0 nor 1");
  return byte == 1;
}

template <typename ReadOne>
auto read_many(Cursor& in, std::uint64_t count, ReadOne&& read_one) {
  std::vector<std::invoke_result_t<ReadOne>> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count && in.ok(); ++i) values.push_back(read_one());
  return GgufValue{std::move(values)};
}

GgufValue read_value(Cursor& in, ValueType type, int depth);

GgufValue read_array(Cursor& in, int depth) {
  const auto type = static_cast<ValueType>(in.number<std::uint32_t>());
  const auto count = in.number<std::uint64_t>();
  if (!in.ok()) return {};
  const std::uint64_t least = least_bytes(type);
  std::uint64_t bytes = 0;
  if (least == 0)
    in.fail("it is an array of type " + std::to_string(static_cast<std::uint32_t>(type)) + ", which there is not");
  if (depth >= kDeepestArray) in.fail("it is an array within too many others");
  if (__builtin_mul_overflow(count, least, &bytes)) in.fail("it claims " + std::to_string(count) + " elements");
  if (!in.has(bytes)) return {};
  if (count == 0) return {std::vector<GgufValue>{}};
  switch (type) {
    case ValueType::float32:
    case ValueType::float64:
      return read_many(in, count, [&] { return read_float(in, type); });
    case ValueType::boolean:
      return read_many(in, count, [&] { return read_bool(in); });
    case ValueType::text:
      return read_many(in, count, [&] { return in.text(); });
    case ValueType::array:
      return read_many(in, count, [&] { return read_array(in, depth + 1); });
    default:
      return read_many(in, count, [&] { return read_integer(in, type); });
  }
}

GgufValue read_value(Cursor& in, ValueType type, int depth) {
  switch (type) {
    case ValueType::float32:
    case ValueType::float64:
      return {read_float(in, type)};
    case ValueType::boolean:
      return {read_bool(in)};
    case ValueType::text:
      return {in.text()};
    case ValueType::array:
      return read_array(in, depth);
    default:
      break;
  }
  if (least_bytes(type) == 0) {
    in.fail("it is of type " + std::to_string(static_cast<std::uint32_t>(type)) + ", which there is not");
    return {};
  }
  return {read_integer(in, type)};
}

/// Shape, type and offset; the offset, as the file has it, becomes entry.begin and the size entry.end.
void read_tensor(Cursor& in, GgufTensorEntry& entry) {
  const auto dimensions = in.number<std::uint32_t>();
  if (dimensions > kMostDimensions)
    return in.fail("it has " + std::to_string(dimensions) + " dimensions (at most 4)");
  std::uint64_t elements = 1;
  for (std::uint32_t d = 0; d < dimensions && in.ok(); ++d) {
    const auto size = in.number<std::uint64_t>();
    if (in.ok() && (size == 0 || !std::in_range<std::int64_t>(size)))
      return in.fail("its size " + std::to_string(size) + " is not possible");
    if (__builtin_mul_overflow(elements, size, &elements) || !std::in_range<std::int64_t>(elements))
      return in.fail("its shape overflows");
    entry.shape.insert(entry.shape.begin(), static_cast<std::int64_t>(size));
  }
  const auto type = in.number<std::uint32_t>();
  entry.begin = in.number<std::uint64_t>();
  if (!in.ok()) return;
  entry.type = gguf_type(type);
  if (entry.type == nullptr) return in.fail("it is of type " + std::to_string(type) + ", which is not known here");
  const std::int64_t row = entry.shape.empty() ? 1 : entry.shape.back();
  if (row % entry.type->block_elements != 0) {
    return in.fail("its rows of " + std::to_string(row) + " do not fill blocks of " +
                   std::to_string(entry.type->block_elements) + ", as " + entry.type->name + " needs");
  }
  const std::uint64_t blocks = elements / static_cast<std::uint64_t>(entry.type->block_elements);
  if (__builtin_mul_overflow(blocks, static_cast<std::uint64_t>(entry.type->block_bytes), &entry.end))
    in.fail("its shape overflows");
}

/// The value of general.alignment, which the data section and every tensor start at multiples of.
std::optional<std::uint64_t> alignment_of(const GgufHeader& header) {
  const auto found = header.metadata.find("general.alignment");
  if (found == header.metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<std::int64_t>(&found->second.value);
  if (value == nullptr || *value <= 0 || *value > UINT32_MAX ||
      !std::has_single_bit(static_cast<std::uint64_t>(*value))) {
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(*value);
}

/// From offsets and sizes to places in the file, each inside it and none over another. Empty, or why not.
std::string place_tensors(GgufHeader& header, std::uint64_t header_end, std::uint64_t file_bytes) {
  const auto alignment = alignment_of(header);
  if (!alignment) return "metadata key 'general.alignment' is not a power of two";
  const std::uint64_t data_begin = (header_end + *alignment - 1) / *alignment * *alignment;
  const std::uint64_t data_bytes = file_bytes > data_begin ? file_bytes - data_begin : 0;
  std::vector<std::pair<const GgufTensorEntry*, const std::string*>> by_offset;
  for (auto& [name, entry] : header.tensors) {
    const std::uint64_t offset = entry.begin, bytes = entry.end;
    if (offset % *alignment != 0) {
      return "tensor '" + printable(name) + "' starts at " + std::to_string(offset) + ", no multiple of " +
             std::to_string(*alignment);
    }
    if (offset > data_bytes || bytes > data_bytes - offset) {
      return "tensor '" + printable(name) + "' lies beyond the end of the file; was it downloaded whole?";
    }
    entry.begin = data_begin + offset;
    entry.end = entry.begin + bytes;
    by_offset.emplace_back(&entry, &name);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const auto& a, const auto& b) { return a.first->begin < b.first->begin; });
  for (std::size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i].first->begin < by_offset[i - 1].first->end) {
      return "tensor '" + printable(*by_offset[i].second) + "' overlaps tensor '" +
             printable(*by_offset[i - 1].second) + "'";
    }
  }
  return {};
}

}  // namespace

const GgufType* gguf_type(std::uint32_t number) {
  for (const GgufType& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

const GgufType* gguf_type(std::string_view name) {
  for (const GgufType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

const char* GgufValue::kind() const {
  static constexpr std::array<const char*, 9> kinds = {"an integer",
                                                       "a number",
                                                       "a truth value",
                                                       "text",
                                                       "an array of integers",
                                                       "an array of numbers",
                                                       "an array of truth values",
                                                       "an array of texts",
                                                       "an array of arrays"};
  return kinds[value.index()];
}

Result<GgufHeader> read_gguf_header(const ReadAt& read, std::uint64_t file_bytes) {
  Cursor in(read, file_bytes);
  char magic[4];
  in.take(magic, 4);
  if (in.ok() && std::memcmp(magic, "GGUF", 4) != 0) return Error{"it does not begin with GGUF"};
  GgufHeader header;
  header.version = in.number<std::uint32_t>();
  const auto tensors = in.number<std::uint64_t>();
  const auto values = in.number<std::uint64_t>();
  if (!in.ok()) return Error{in.problem()};
  if ((header.version & 0xFFFF) == 0) return Error{"it is big-endian, and only little-endian files are read"};
  if (header.version != 2 && header.version != 3) {
    return Error{"it is of version " + std::to_string(header.version) + ", and only 2 and 3 are read"};
  }

  for (std::uint64_t i = 0; i < values; ++i) {
    std::string key = in.text();
    const auto type = static_cast<ValueType>(in.number<std::uint32_t>());
    if (!in.ok()) return Error{in.problem()};
    GgufValue value = read_value(in, type, 0);
    if (!in.ok()) return Error{"metadata key '" + printable(key) + "': " + in.problem()};
    const auto [place, fresh] = header.metadata.try_emplace(std::move(key), std::move(value));
    if (!fresh) return Error{"metadata key '" + printable(place->first) + "' is there twice"};
  }
  for (std::uint64_t i = 0; i < tensors; ++i) {
    std::string name = in.text();
    if (!in.ok()) return Error{in.problem()};
    GgufTensorEntry entry;
    read_tensor(in, entry);
    if (!in.ok()) return Error{"tensor '" + printable(name) + "': " + in.problem()};
    const auto [place, fresh] = header.tensors.try_emplace(std::move(name), std::move(entry));
    if (!fresh) return Error{"tensor '" + printable(place->first) + "' is there twice"};
  }
  if (std::string why = place_tensors(header, in.position(), file_bytes); !why.empty()) return Error{why};
  return header;
}

}  // namespace finesweep::worker
