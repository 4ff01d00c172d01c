#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace finesweep::worker {

/// Writes a GGUF file byte by byte, right or wrong. Numbers: the format's own (value types, ggml types).
class GgufBytes {
 public:
  template <typename T>
  static std::string number(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string text(const std::string& value) { return number<std::uint64_t>(value.size()) + value; }
  template <typename T>
  static std::string list(std::uint32_t type, const std::vector<T>& values) {
    std::string bytes = number<std::uint32_t>(type) + number<std::uint64_t>(values.size());
    for (const T& value : values) {
      if constexpr (std::is_same_v<T, std::string>) {
        bytes += text(value);
      } else {
        bytes += number(value);
      }
    }
    return bytes;
  }

  /// Of any type, as bytes.
  void value(const std::string& key, std::uint32_t type, const std::string& bytes) {
    values_ += text(key) + number(type) + bytes;
    ++value_count;
  }
  void integer(const std::string& key, std::uint32_t number_) { value(key, 4, number(number_)); }
  void real(const std::string& key, float number_) { value(key, 6, number(number_)); }
  void truth(const std::string& key, bool truth_) { value(key, 7, number<std::uint8_t>(truth_)); }
  void string(const std::string& key, const std::string& text_) { value(key, 8, text(text_)); }

  /// A tensor of fp32, or of any type with its bytes; `shape` outermost first. Placed after the ones before it.
  void tensor(const std::string& name, std::vector<std::int64_t> shape, const std::string& bytes,
              std::uint32_t type = 0) {
    tensor_at(name, std::move(shape), type, data_.size());
    data_ += bytes;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
  }
  /// An entry alone.
  void tensor_at(const std::string& name, std::vector<std::int64_t> shape, std::uint32_t type,
                 std::uint64_t offset) {
    tensors_ += text(name) + number(static_cast<std::uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size)
      tensors_ += number(static_cast<std::uint64_t>(*size));
    tensors_ += number(type) + number(offset);
    ++tensor_count;
  }

  std::string bytes() const {
    std::string all = magic + number(version) + number(tensor_count) + number(value_count) + values_ + tensors_;
    all.resize((all.size() + alignment - 1) / alignment * alignment, '\0');
    return all + data_;
  }

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t tensor_count = 0, value_count = 0;
  std::uint64_t alignment = 32;

 private:
  std::string values_, tensors_, data_;
};

}  // namespace finesweep::worker
