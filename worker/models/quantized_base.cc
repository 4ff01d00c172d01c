#include "worker/models/quantized_base.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "storage/files.h"
#include "worker/models/fp8_weight.h"
#include "worker/quantization/nf4_bitsandbytes.h"
#include "worker/quantization/nf4_blocks.h"
#include "worker/quantization/nf4_cuda.h"
#include "worker/quantization/nf4_product.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kGrain = 1 << 15;
constexpr std::string_view kWeight = ".weight";
/// What bitsandbytes writes beside a weight "NAME", and beside a module "MODULE" in INT8.
constexpr std::string_view kNf4Suffixes[] = {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
                                             ".quant_state.bitsandbytes__nf4"};
constexpr std::string_view kScales = ".SCB", kWeightFormat = ".weight_format";

/// "MODULE" of "MODULE.weight".
std::string module_of(std::string_view name) {
  return std::string(name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name);
}

/// Rows begin … begin + count of one matrix into `to` [count, in].
void decode_rows(const Nf4Tensor& tensor, std::int64_t begin, std::int64_t count, const at::Tensor& to) {
  if (cuda::has_kernels(tensor)) {
    cuda::dequantize(tensor, begin * tensor.shape[1], to);
    return;
  }
  if (!tensor.packed.is_cpu()) {
    to.copy_(dequantize(tensor, to.scalar_type()).narrow(0, begin, count));
    return;
  }
  const std::int64_t first = begin * tensor.shape[1];
  const cpu::Nf4View view = cpu::view_of(tensor);
  const auto decode = [&]<typename T>(T* values) {
    at::parallel_for(0, to.numel(), kGrain, [&](std::int64_t from, std::int64_t end) {
      cpu::decode_range(view, first + from, first + end, values + from);
    });
  };
  switch (to.scalar_type()) {
    case at::kBFloat16:
      return decode(to.mutable_data_ptr<c10::BFloat16>());
    case at::kHalf:
      return decode(to.mutable_data_ptr<c10::Half>());
    default:
      return decode(to.mutable_data_ptr<float>());
  }
}

Result<Int8Tensor> read_int8(const std::string& name, const QuantizedFiles& files) {
  const std::string scales = module_of(name) + std::string(kScales);
  Result<at::Tensor> codes = files.read(name), scb = files.read(scales);
  if (!codes) return codes.error();
  if (!scb) return scb.error();
  Result<Int8Tensor> tensor = int8_from_bitsandbytes(*codes, scb->to(at::kFloat));
  if (!tensor) return Error{"tensor \"" + name + "\": " + tensor.error().message};
  return tensor;
}

Status expect_shape(const WeightSpec& spec, std::size_t part, const std::string& name,
                    const std::vector<std::int64_t>& shape) {
  if (shape == spec.shape_of(part)) return {};
  return Error{"tensor \"" + name + "\" is a quantised matrix of another shape than config.json asks for"};
}

/// As transformers' BitsAndBytesConfig is written.
Json quantization_config(const Pretrained& base) {
  const QuantizedWeight* any = nullptr;
  Json skipped = Json::array();
  for (std::size_t i = 0; i < base.weights.size(); ++i) {
    if (base.weights[i].quantized) any = base.weights[i].quantized.get();
    const bool linear = base.specs[i].role == WeightRole::matrix && !base.weights[i].quantized;
    for (const std::string& name : base.specs[i].names) {
      if (linear) skipped.push_back(module_of(name));
    }
  }
  skipped.push_back("lm_head");
  Json config = {{"quant_method", "bitsandbytes"}, {"llm_int8_skip_modules", skipped}};
  if (const auto* nf4 = dynamic_cast<const Nf4Weight*>(any)) {
    config.update({{"load_in_4bit", true},
                   {"load_in_8bit", false},
                   {"bnb_4bit_quant_type", "nf4"},
                   {"bnb_4bit_quant_storage", "uint8"},
                   {"bnb_4bit_compute_dtype", "float32"},
                   {"bnb_4bit_use_double_quant", nf4->parts().front().nested.has_value()}});
  } else {
    config.update({{"load_in_4bit", false}, {"load_in_8bit", true}});
  }
  return config;
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

void add_quantized(const Parameter& weight, NamedTensors& tensors) {
  if (const auto* nf4 = dynamic_cast<const Nf4Weight*>(weight.quantized.get())) {
    for (std::size_t i = 0; i < weight.parts.size(); ++i) {
      for (auto& named : nf4_to_bitsandbytes(weight.parts[i].name, nf4->parts()[i])) {
        tensors.push_back(std::move(named));
      }
    }
    return;
  }
  const Int8Tensor& int8 = dynamic_cast<const Int8Weight&>(*weight.quantized).tensor();
  for (std::size_t i = 0; i < weight.parts.size(); ++i) {
    tensors.emplace_back(weight.parts[i].name, weight.slice(int8.codes, i));
    tensors.emplace_back(module_of(weight.parts[i].name) + std::string(kScales),
                         at::mul(weight.slice(int8.scale, i), 127));
  }
}

}  // namespace

at::Tensor Nf4Weight::dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const {
  const at::Tensor& packed = parts_.front().packed;
  const at::Tensor result = at::empty({count, columns()}, packed.options().dtype(type));
  std::int64_t first = 0;  // of the part
  for (const Nf4Tensor& part : parts_) {
    const std::int64_t from = std::max(begin, first), end = std::min(begin + count, first + part.shape[0]);
    if (from < end) decode_rows(part, from - first, end - from, result.narrow(0, from - begin, end - from));
    first += part.shape[0];
  }
  return result;
}

at::Tensor Nf4Weight::product(const at::Tensor& x, std::int64_t begin, std::int64_t count) const {
  std::vector<at::Tensor> columns;
  std::int64_t first = 0;  // of the part
  for (const Nf4Tensor& part : parts_) {
    const std::int64_t end = first + part.shape[0];
    if (first >= begin && end <= begin + count) {
      columns.push_back(product_with_nf4(x, part));
    } else if (first < begin + count && begin < end) {
      return QuantizedWeight::product(x, begin, count);
    }
    first = end;
  }
  return columns.size() == 1 ? columns.front() : at::cat(columns, 1);
}

std::int64_t Nf4Weight::rows() const {
  std::int64_t rows = 0;
  for (const Nf4Tensor& part : parts_) rows += part.shape[0];
  return rows;
}

std::int64_t Nf4Weight::bytes() const {
  std::int64_t bytes = 0;
  for (const Nf4Tensor& part : parts_) bytes += part.bytes();
  return bytes;
}

at::Tensor Int8Weight::dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const {
  Int8Tensor rows = tensor_;
  rows.shape = {count, columns()};
  rows.codes = tensor_.codes.narrow(0, begin, count);
  rows.scale = tensor_.scale.narrow(0, begin, count);
  return worker::dequantize(rows, type);
}

void quantize_weight(Parameter& weight, const BaseQuantization& how) {
  if (how.format == QuantizedFormat::fp8) {
    weight.quantized = std::make_shared<Fp8Weight>(weight.value);
  } else if (how.format == QuantizedFormat::int8) {
    weight.quantized = std::make_shared<Int8Weight>(quantize_int8(weight.value));
  } else {
    std::vector<Nf4Tensor> parts;
    for (std::size_t i = 0; i < weight.parts.size(); ++i) {
      parts.push_back(quantize_nf4(weight.slice(weight.value, i), {how.block_size, how.double_quantization}));
    }
    weight.quantized = std::make_shared<Nf4Weight>(std::move(parts));
  }
  weight.value = at::Tensor();
}

Result<std::shared_ptr<const Pretrained>> quantize_base(const Pretrained& base, const BaseQuantization& how) {
  auto quantized = std::make_shared<Pretrained>(base);
  for (std::size_t i = 0; i < base.weights.size(); ++i) {
    if (!base.specs[i].quantizable) continue;
    if (base.weights[i].quantized) return Error{base.folder.string() + ": the model is quantised already"};
    if (base.weights[i].present()) quantize_weight(quantized->weights[i], how);
  }
  return std::shared_ptr<const Pretrained>(std::move(quantized));
}

Result<std::shared_ptr<const Pretrained>> with_quantized_weights(const Pretrained& base,
                                                                 const SafetensorsFile& file) try {
  const QuantizedFiles files = {[&](std::string_view name) { return file.find(name); },
                                [&](std::string_view name) { return file.tensor(name); }};
  auto quantized = std::make_shared<Pretrained>(base);
  for (std::size_t i = 0; i < base.specs.size(); ++i) {
    const WeightSpec& spec = base.specs[i];
    if (!files.holds(spec.names.front())) continue;
    Result<Parameter> weight = read_quantized_weight(spec, spec.names, files, base.device);
    if (!weight) return Error{file.path().string() + ": " + weight.error().message};
    quantized->weights[i] = std::move(*weight);
  }
  return std::shared_ptr<const Pretrained>(std::move(quantized));
} catch (const std::exception& error) {
  return Error{file.path().string() + ": cannot read the quantised weights: " + error.what()};
}

Status save_base(const Pretrained& base, const std::filesystem::path& folder) try {
  std::filesystem::create_directories(folder);
  NamedTensors tensors;
  for (const Parameter& weight : base.weights) {
    if (weight.quantized) {
      add_quantized(weight, tensors);
    } else if (weight.present()) {
      for (std::size_t i = 0; i < weight.parts.size(); ++i) {
        tensors.emplace_back(weight.parts[i].name, weight.in_file_layout(weight.value, i));
      }
    }
  }
  if (Status written = write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}}); !written) {
    return written;
  }
  Json config = base.config;
  config.erase("torch_dtype");
  config["dtype"] = base.storage == at::kHalf ? "float16" : base.storage == at::kBFloat16 ? "bfloat16" : "float32";
  if (quantized_size(base).values > 0) config["quantization_config"] = quantization_config(base);
  return storage::write_file_atomically(folder / "config.json", config.dump(2) + "\n");
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot save the model: " + error.what()};
}

std::int64_t bytes_in_memory(const Pretrained& base) {
  std::int64_t bytes = 0;
  for (const Parameter& weight : base.weights) {
    if (weight.present()) bytes += weight.quantized ? weight.quantized->bytes() : weight.value.nbytes();
  }
  return bytes;
}

QuantizedSize quantized_size(const Pretrained& base) {
  QuantizedSize size;
  for (const Parameter& weight : base.weights) {
    if (!weight.quantized) continue;
    size.bytes += weight.quantized->bytes();
    size.values += weight.rows() * weight.columns();
  }
  return size;
}

bool QuantizedFiles::holds(std::string_view name) const {
  if (find(nf4_state_name(name)) != nullptr) return true;
  const TensorEntry* entry = find(name);
  return entry != nullptr && entry->dtype == "I8" && find(module_of(name) + std::string(kScales)) != nullptr;
}

bool QuantizedFiles::belongs_to_one(std::string_view name) const {
  for (const std::string_view suffix : kNf4Suffixes) {
    if (name.ends_with(suffix)) return holds(name.substr(0, name.size() - suffix.size()));
  }
  for (const std::string_view suffix : {kScales, kWeightFormat}) {
    if (!name.ends_with(suffix)) continue;
    return holds(std::string(name.substr(0, name.size() - suffix.size())) + std::string(kWeight));
  }
  return false;
}

Result<Parameter> read_quantized_weight(const WeightSpec& spec, const std::vector<std::string>& file_names,
                                        const QuantizedFiles& files, c10::Device device) {
  Parameter weight;
  weight.transposed_in_files = spec.transposed;
  std::vector<Nf4Tensor> nf4;
  std::vector<at::Tensor> codes, scales;
  for (std::size_t i = 0; i < file_names.size(); ++i) {
    const std::string& name = file_names[i];
    if (!spec.quantizable || !files.holds(name)) {
      return Error{"tensor \"" + name + "\" " +
                   (spec.quantizable ? "is not quantised, while its neighbours are" : "must not be quantised")};
    }
    if (files.find(nf4_state_name(name)) != nullptr) {
      Result<Nf4Tensor> tensor = nf4_from_bitsandbytes(name, files.read);
      if (!tensor) return tensor.error();
      if (Status fits = expect_shape(spec, i, name, tensor->shape); !fits) return fits.error();
      nf4.push_back(tensor->to(device));
    } else {
      Result<Int8Tensor> tensor = read_int8(name, files);
      if (!tensor) return tensor.error();
      if (Status fits = expect_shape(spec, i, name, tensor->shape); !fits) return fits.error();
      codes.push_back(tensor->codes);
      scales.push_back(tensor->scale);
    }
    weight.parts.push_back({spec.names[i], spec.shape_of(i)[0]});
  }
  if (!nf4.empty() && !codes.empty()) {
    return Error{"tensor \"" + file_names.front() + "\" is in another format than its neighbours"};
  }
  if (nf4.empty()) {
    Int8Tensor stacked;
    stacked.codes = at::cat(codes).to(device);
    stacked.scale = at::cat(scales).to(device);
    stacked.shape = stacked.codes.sizes().vec();
    weight.quantized = std::make_shared<Int8Weight>(std::move(stacked));
  } else {
    weight.quantized = std::make_shared<Nf4Weight>(std::move(nf4));
  }
  return weight;
}

}  // namespace finesweep::worker
