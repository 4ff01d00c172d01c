#include "worker/quantization/nf4_bitsandbytes.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

namespace finesweep::worker {
namespace {

/// repr() of a Python float, which is what Python's JSON writes: the fewest digits that give the number back, with
/// an exponent below 1e-4 and from 1e16.
std::string python_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  const double size = std::abs(value);
  const auto format =
      size != 0 && (size < 1e-4 || size >= 1e16) ? std::chars_format::scientific : std::chars_format::fixed;
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text), value, format).ptr;
  std::string number(text, end);
  if (format == std::chars_format::fixed && number.find('.') == std::string::npos) number += ".0";
  return number;
}

std::string dtype_name(at::ScalarType type) {
  return type == at::kBFloat16 ? "bfloat16" : type == at::kHalf ? "float16" : "float32";
}

std::optional<at::ScalarType> dtype_named(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  return std::nullopt;
}

/// As json.dumps writes it.
std::string state_json(const Nf4Tensor& tensor) {
  std::string shape;
  for (const std::int64_t size : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  std::string json = "{\"quant_type\": \"nf4\", \"blocksize\": " + std::to_string(tensor.block_size) +
                     ", \"dtype\": \"" + dtype_name(tensor.dtype) + "\", \"shape\": [" + shape + "]";
  if (tensor.nested) {
    json += ", \"nested_blocksize\": " + std::to_string(tensor.nested->block_size) +
            ", \"nested_dtype\": \"float32\", \"nested_offset\": " + python_number(tensor.nested->offset);
  }
  return json + "}";
}

at::Tensor level_tensor() {
  return at::tensor(c10::ArrayRef<float>(nf4_levels(), 16), at::kFloat);
}

/// Reads the tensors of one weight; the first problem stays.
class Reader {
 public:
  Reader(const std::string& name, const ReadTensor& read) : name_(name), read_(read) {}

  const std::optional<Error>& problem() const { return problem_; }
  void fail(const std::string& which, const std::string& reason) {
    if (!problem_) problem_ = Error{"Cannot read the NF4 tensor '" + name_ + "': " + which + " " + reason + "."};
  }
  /// Flattened; undefined where there is a problem.
  at::Tensor tensor(const std::string& suffix) {
    if (problem_) return {};
    auto tensor = read_(name_ + suffix);
    if (!tensor) {
      problem_ = tensor.error();
      return {};
    }
    return tensor->contiguous().view({-1});
  }
  at::Tensor tensor(const std::string& suffix, at::ScalarType type, std::int64_t count) {
    const at::Tensor found = tensor(suffix);
    if (problem_) return {};
    if (found.scalar_type() != type)
      return fail(name_ + suffix, "has another dtype than bitsandbytes writes"), at::Tensor();
    if (found.numel() != count) {
      fail(name_ + suffix,
           "has " + std::to_string(found.numel()) + " elements instead of " + std::to_string(count));
      return {};
    }
    return found;
  }

 private:
  const std::string& name_;
  const ReadTensor& read_;
  std::optional<Error> problem_;
};

constexpr std::int64_t kMostBlockSize = 1 << 20;

/// Into `tensor`, whose shape and sizes of blocks it sets. Empty, or what is wrong.
std::string read_state(const std::string& text, Nf4Tensor& tensor) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return "is no JSON object";
  const auto integer = [&](const char* key, std::int64_t& into) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_integer()) return false;
    into = found->get<std::int64_t>();
    return into >= 1 && into <= kMostBlockSize;
  };
  if (json.value("quant_type", nlohmann::json()) != "nf4") return "has another quant_type than nf4";
  if (!integer("blocksize", tensor.block_size)) return "has no possible blocksize";
  const auto dtype = json.find("dtype"), shape = json.find("shape");
  const auto type =
      dtype != json.end() && dtype->is_string() ? dtype_named(dtype->get<std::string>()) : std::nullopt;
  if (!type) return "has no dtype that is float32, bfloat16 or float16";
  tensor.dtype = *type;
  if (shape == json.end() || !shape->is_array() || shape->empty()) return "has no shape";
  std::int64_t values = 1;
  for (const auto& size : *shape) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > INT32_MAX) return "has no possible shape";
    tensor.shape.push_back(size.get<std::int64_t>());
    if (__builtin_mul_overflow(values, tensor.shape.back(), &values) || values > INT64_MAX - kMostBlockSize)
      return "has no possible shape";
  }
  if (!json.contains("nested_blocksize") && !json.contains("nested_offset")) return {};
  NestedScales nested;
  if (!integer("nested_blocksize", nested.block_size)) return "has no possible nested_blocksize";
  if (json.value("nested_dtype", nlohmann::json()) != "float32") return "has another nested_dtype than float32";
  const auto offset = json.find("nested_offset");
  if (offset == json.end() || !offset->is_number()) return "has no nested_offset";
  nested.offset = offset->get<float>();
  if (!std::isfinite(nested.offset)) return "has no possible nested_offset";
  tensor.nested = nested;
  return {};
}

}  // namespace

std::string nf4_state_name(std::string_view name) {
  return std::string(name) + ".quant_state.bitsandbytes__nf4";
}

std::vector<std::pair<std::string, at::Tensor>> nf4_to_bitsandbytes(const std::string& name,
                                                                    const Nf4Tensor& tensor) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  tensors.emplace_back(name, tensor.packed.view({-1, 1}));
  tensors.emplace_back(name + ".quant_map", level_tensor());
  if (tensor.nested) {
    tensors.emplace_back(name + ".absmax", tensor.nested->codes);
    tensors.emplace_back(name + ".nested_absmax", tensor.nested->absmax);
    tensors.emplace_back(name + ".nested_quant_map", tensor.nested->map);
  } else {
    tensors.emplace_back(name + ".absmax", tensor.absmax);
  }
  const std::string state = state_json(tensor);
  const at::Tensor bytes = at::empty({static_cast<std::int64_t>(state.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr<std::uint8_t>(), state.data(), state.size());
  tensors.emplace_back(nf4_state_name(name), bytes);
  return tensors;
}

Result<Nf4Tensor> nf4_from_bitsandbytes(const std::string& name, const ReadTensor& read) {
  Reader reader(name, read);
  Nf4Tensor result;
  const std::string state_suffix = nf4_state_name("");
  const at::Tensor state = reader.tensor(state_suffix);
  if (!reader.problem() && state.scalar_type() != at::kByte) reader.fail(name + state_suffix, "is not bytes");
  if (reader.problem()) return *reader.problem();
  const auto* bytes = reinterpret_cast<const char*>(state.const_data_ptr<std::uint8_t>());
  const std::string wrong = read_state({bytes, static_cast<std::size_t>(state.numel())}, result);
  if (!wrong.empty()) reader.fail(name + state_suffix, wrong);

  // The bytes may stand in a tensor of another dtype (bnb_4bit_quant_storage).
  const at::Tensor packed = reader.tensor("");
  if (reader.problem()) return *reader.problem();
  result.packed = packed.view(at::kByte);
  const std::int64_t packed_bytes = (result.values() + 1) / 2;
  if (result.packed.numel() < packed_bytes || result.packed.numel() >= packed_bytes + packed.element_size()) {
    reader.fail(
        name, "has " + std::to_string(result.packed.numel()) + " bytes instead of " + std::to_string(packed_bytes));
  } else {
    result.packed = result.packed.narrow(0, 0, packed_bytes);
  }
  const at::Tensor levels = reader.tensor(".quant_map", at::kFloat, 16);
  if (!reader.problem() && !at::allclose(levels, level_tensor(), 0, 1e-6))
    reader.fail(name + ".quant_map", "has not the levels of NF4");
  const std::int64_t blocks = result.blocks();
  if (result.nested) {
    NestedScales& nested = *result.nested;
    nested.codes = reader.tensor(".absmax", at::kByte, blocks);
    nested.absmax =
        reader.tensor(".nested_absmax", at::kFloat, (blocks + nested.block_size - 1) / nested.block_size);
    nested.map = reader.tensor(".nested_quant_map", at::kFloat, 256);
    // One copy serves all tensors.
    if (!reader.problem() && nested.map.equal(dynamic_map())) nested.map = dynamic_map();
  } else {
    result.absmax = reader.tensor(".absmax", at::kFloat, blocks);
  }
  if (reader.problem()) return *reader.problem();
  return result;
}

}  // namespace finesweep::worker
