#include "worker/models/weights.h"

#include <ATen/ops/zeros.h>

#include <stdexcept>
#include <utility>

#include "worker/kernels/spare_rows.h"
#include "worker/random.h"

namespace finesweep::worker {

void WeightSpecs::table(const std::string& path, std::int64_t rows, std::int64_t width) {
  specs_.push_back({{path + ".weight"}, {rows, width}, WeightRole::table});
}

void WeightSpecs::norm(const std::string& path, std::int64_t width, NormKind kind) {
  specs_.push_back({{path + ".weight"}, {width}, WeightRole::norm});
  if (kind == NormKind::layer) specs_.push_back({{path + ".bias"}, {width}, WeightRole::norm});
}

void WeightSpecs::linear(const std::vector<std::string>& paths, std::int64_t out, std::int64_t in,
                         const Linear& how) {
  WeightSpec weight{{}, {out, in}, WeightRole::matrix}, bias{{}, {out}, WeightRole::bias};
  for (const std::string& path : paths) {
    weight.names.push_back(path + ".weight");
    bias.names.push_back(path + ".bias");
  }
  weight.optional = bias.optional = how.optional;
  weight.head = bias.head = how.head;
  weight.transposed = how.transposed;
  weight.quantizable = how.quantizable && !how.head;
  weight.overflows_fp16 = how.overflows_fp16;
  specs_.push_back(std::move(weight));
  if (how.bias) specs_.push_back(std::move(bias));
}

void WeightSpecs::linear(const std::vector<std::string>& paths, const std::vector<std::int64_t>& outs,
                         std::int64_t in, const Linear& how) {
  const std::size_t first = specs_.size();
  linear(paths, outs.front(), in, how);
  for (std::size_t i = first; i < specs_.size(); ++i) specs_[i].rows = outs;
}

ModelWeights::ModelWeights(const Pretrained& pretrained, at::ScalarType compute_type)
    : weights_(pretrained.weights), device_(pretrained.device) {
  for (std::size_t i = 0; i < pretrained.specs.size(); ++i) {
    const WeightSpec& spec = pretrained.specs[i];
    kinds_.push_back({spec.head, spec.type_for(compute_type)});
    index_.emplace(spec.names.front(), i);
  }
}

Parameter* ModelWeights::find(std::string_view name) {
  const auto found = index_.find(std::string(name));
  if (found == index_.end() || !weights_[found->second].present()) return nullptr;
  return &weights_[found->second];
}

LinearModule ModelWeights::linear(std::vector<std::string> paths) {
  LinearModule module;
  module.weight = find(paths.front() + ".weight");
  if (module.weight == nullptr) throw std::logic_error("no weight " + paths.front());
  module.bias = find(paths.front() + ".bias");
  module.paths = std::move(paths);
  return module;
}

NormModule ModelWeights::norm(const std::string& path, double epsilon, NormKind kind) {
  return {find(path + ".weight"), find(path + ".bias"), epsilon, kind};
}

void ModelWeights::make_head(const std::string& name, std::vector<std::int64_t> shape, double deviation,
                             std::uint64_t seed) {
  Parameter& parameter = weights_[index_.at(name)];
  if (parameter.present()) return;
  parameter.parts.push_back({name, shape[0]});
  parameter.decays = shape.size() > 1;
  at::Tensor value = at::zeros(shape, at::kFloat);
  if (shape.size() > 1) {
    fill_normal(value.mutable_data_ptr<float>(), value.numel(), 0, static_cast<float>(deviation),
                RandomStream(seed, purpose::initialisation, {hash_name(name)}));
  }
  parameter.value = value.to(device_);
}

void ModelWeights::drop(std::string_view name) {
  weights_[index_.at(std::string(name))] = Parameter();
}

void ModelWeights::adopt(const ModelOptions& options, const std::function<bool(std::string_view name)>& is_unused) {
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    Parameter& weight = weights_[i];
    weight.dequantized_type = kinds_[i].type;
    if (weight.quantized && options.quantized_products) {
      weight.product_type = scalar_type_of(*options.quantized_products);
    }
    if (!weight.value.defined()) continue;  // absent, or quantised
    const bool unused = !kinds_[i].head && is_unused && is_unused(weight.parts.front().name);
    const at::ScalarType type = kinds_[i].type;
    if (kinds_[i].head) weight.value = weight.value.clone();  // an adapter may bring its own
    if (!options.frozen && (kinds_[i].head || (options.train_all && !unused))) {
      weight.train(type);
    } else if (!unused) {
      weight.value = to_with_spare_rows(weight.value, weight.value.options().dtype(type));
    }
  }
}

std::vector<Parameter*> ModelWeights::parameters() {
  std::vector<Parameter*> all;
  for (Parameter& weight : weights_) {
    if (weight.present()) all.push_back(&weight);
  }
  return all;
}

at::ScalarType scalar_type_of(Precision precision) {
  if (precision == Precision::fp32) return at::kFloat;
  return precision == Precision::fp16 ? at::kHalf : at::kBFloat16;
}

}  // namespace finesweep::worker
