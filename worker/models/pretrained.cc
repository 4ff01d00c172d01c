#include "worker/models/pretrained.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "storage/files.h"
#include "worker/formats/weight_files.h"
#include "worker/kernels/memory.h"
#include "worker/kernels/spare_rows.h"
#include "worker/models/family.h"
#include "worker/models/quantized_base.h"

namespace finesweep::worker {
namespace {

Result<Json> read_config(const std::filesystem::path& file) {
  Result<std::string> text = storage::read_file(file);
  if (!text) return Error{text.error()};
  Json config = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return Error{file.string() + ": is not a JSON object"};
  return config;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + (shape[i] < 0 ? std::string("labels") : std::to_string(shape[i]));
  }
  return text + "]";
}

bool shape_fits(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& expected) {
  if (shape.size() != expected.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (expected[i] >= 0 && shape[i] != expected[i]) return false;
  }
  return true;
}

bool is_floating(const std::string& dtype) {
  return dtype == "F32" || dtype == "F16" || dtype == "BF16" || dtype == "F64";
}

QuantizedFiles quantized_files(const WeightFiles& files) {
  return {[&files](std::string_view name) { return files.find(name); },
          [&files](std::string_view name) { return files.tensor(name); }};
}

/// The name that each canonical name has in the files.
using NameMap = std::map<std::string, std::string>;

Result<NameMap> map_names(const Family& family, const Json& config, const std::vector<WeightSpec>& specs,
                          const WeightFiles& files) {
  NameMap names;
  const QuantizedFiles quantized = quantized_files(files);
  for (const std::string& name : files.names()) {
    if (quantized.belongs_to_one(name)) continue;
    const std::string canonical = family.canonical_name(name, config);
    if (canonical.empty()) continue;
    const auto [other, is_new] = names.emplace(canonical, name);
    if (!is_new) {
      return Error{files.file_of(name).string() + ": tensors \"" + other->second + "\" and \"" + name +
                   "\" are the same weight of the model; remove one"};
    }
  }
  NameMap unknown = names;
  for (const WeightSpec& spec : specs) {
    for (const std::string& name : spec.names) unknown.erase(name);
  }
  if (!unknown.empty()) {
    const std::string& name = unknown.begin()->second;
    return Error{files.file_of(name).string() + ": unknown tensor \"" + name + "\" (and " +
                 std::to_string(unknown.size() - 1) + " more): not a weight of a " +
                 std::string(family.model_type) + " as its config.json describes it"};
  }
  return names;
}

std::int64_t stacked_rows(const WeightSpec& spec) {
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < spec.names.size(); ++i) rows += spec.shape_of(i)[0];
  return rows;
}

/// Writes each tensor of `spec` into its place in one new tensor.
Result<Parameter> load_weight(const WeightSpec& spec, const NameMap& names, const WeightFiles& files,
                              at::ScalarType type, c10::Device device) {
  Parameter parameter;
  parameter.is_table = spec.role == WeightRole::table;
  parameter.decays = spec.role == WeightRole::table || spec.role == WeightRole::matrix;
  parameter.transposed_in_files = spec.transposed;
  for (std::size_t i = 0; i < spec.names.size(); ++i) {
    const auto found = names.find(spec.names[i]);
    if (found == names.end()) {
      if (spec.optional && i == 0) return parameter;
      return Error{files.file_of(spec.names[i]).string() + ": tensor \"" + spec.names[i] + "\" is missing"};
    }
    const TensorEntry& entry = *files.find(found->second);
    const std::string where = files.file_of(found->second).string() + ": tensor \"" + found->second + "\"";
    std::vector<std::int64_t> wanted = spec.shape_of(i);
    if (spec.transposed) std::reverse(wanted.begin(), wanted.end());
    if (!shape_fits(entry.shape, wanted)) {
      return Error{where + " has shape " + shape_text(entry.shape) + "; config.json asks for " +
                   shape_text(wanted)};
    }
    if (!is_floating(entry.dtype)) {
      return Error{where + " has type " + entry.dtype + "; expected F32, F16, BF16 or F64"};
    }
    Result<at::Tensor> tensor = files.tensor(found->second);
    if (!tensor) return Error{tensor.error()};
    if (!parameter.value.defined()) {
      std::vector<std::int64_t> shape = entry.shape;
      if (spec.transposed) std::reverse(shape.begin(), shape.end());
      if (spec.names.size() > 1) shape[0] = stacked_rows(spec);
      parameter.value = empty_with_spare_rows(shape, at::TensorOptions(type).device(device));
    }
    parameter.parts.push_back({spec.names[i], entry.shape[spec.transposed ? 1 : 0]});
    parameter.in_file_layout(parameter.value, i).copy_(*tensor);
  }
  return parameter;
}

/// A weight that the files hold quantised; nothing where they do not.
Result<std::optional<Parameter>> load_quantized(const WeightSpec& spec, const NameMap& names,
                                                const WeightFiles& files, c10::Device device) {
  std::vector<std::string> file_names;
  bool any = false;
  for (const std::string& name : spec.names) {
    const auto found = names.find(name);
    file_names.push_back(found == names.end() ? name : found->second);
    any |= quantized_files(files).holds(file_names.back());
  }
  if (!any) return std::optional<Parameter>();
  Result<Parameter> weight = read_quantized_weight(spec, file_names, quantized_files(files), device);
  if (!weight) return Error{files.file_of(file_names.front()).string() + ": " + weight.error().message};
  return std::optional(std::move(*weight));
}

Result<Parameter> load(const WeightSpec& spec, const NameMap& names, const WeightFiles& files,
                       const Pretrained& model, const std::optional<BaseQuantization>& quantization) {
  Result<std::optional<Parameter>> quantized = load_quantized(spec, names, files, model.device);
  if (!quantized) return quantized.error();
  if (*quantized) {
    if (quantization) return Error{model.folder.string() + ": the model is quantised already"};
    return std::move(**quantized);
  }
  const bool quantizes = quantization && spec.quantizable;
  Result<Parameter> weight =
      load_weight(spec, names, files, quantizes ? at::kFloat : spec.type_for(model.storage), model.device);
  if (weight && quantizes && weight->present()) quantize_weight(*weight, *quantization);
  return weight;
}

/// What the exception that is being handled says. Missing memory is not the files' matter: that is thrown on.
std::string words_of_exception() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const c10::Error& error) {
    if (tells_of_no_memory(error.what_without_backtrace())) throw;
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

const Parameter* Pretrained::find(std::string_view name) const {
  for (const Parameter& weight : weights) {
    if (weight.present() && weight.parts.front().name == name) return &weight;
  }
  return nullptr;
}

Result<std::shared_ptr<const Pretrained>> load_pretrained(const std::filesystem::path& folder,
                                                          at::ScalarType storage, c10::Device device,
                                                          const std::optional<BaseQuantization>& quantization) try {
  keep_freed_memory();
  Result<WeightFiles> files = WeightFiles::open(folder);
  if (!files) return Error{files.error()};
  const std::filesystem::path config_file = files->gguf() ? folder : folder / "config.json";
  Result<Json> config = files->gguf() ? Result(files->gguf()->config()) : read_config(config_file);
  if (!config) return Error{config.error()};
  const Json model_type = config->value("model_type", Json());
  if (!model_type.is_string()) {
    return Error{config_file.string() + ": \"model_type\" is missing; expected the model family's name"};
  }
  const Family* family = find_family(model_type.get<std::string>());
  if (family == nullptr) {
    std::string known;
    for (const std::string_view name : family_names()) known += (known.empty() ? "" : ", ") + std::string(name);
    return Error{config_file.string() + ": model_type \"" + model_type.get<std::string>() +
                 "\" is not supported; supported are: " + known};
  }
  Result<std::vector<WeightSpec>> specs = family->weights(*config);
  if (!specs) return Error{config_file.string() + ": " + specs.error().message};
  const Result<NameMap> names = map_names(*family, *config, *specs, *files);
  if (!names) return Error{names.error()};

  auto model = std::make_shared<Pretrained>();
  model->folder = folder;
  model->family = std::string(family->model_type);
  model->config = std::move(*config);
  model->storage = storage;
  model->device = device;
  for (const WeightSpec& spec : *specs) {
    Result<Parameter> weight = load(spec, *names, *files, *model, quantization);
    if (!weight) return Error{weight.error()};
    model->weights.push_back(std::move(*weight));
  }
  model->specs = std::move(*specs);
  return std::shared_ptr<const Pretrained>(std::move(model));
} catch (const std::exception&) {
  return Error{folder.string() + ": cannot load the model: " + words_of_exception()};
}

Result<std::unique_ptr<Model>> make_model(std::shared_ptr<const Pretrained> pretrained,
                                          const ModelOptions& options) try {
  const Family* family = find_family(pretrained->family);
  return family->make(std::move(pretrained), options);
} catch (const std::exception&) {
  return Error{"cannot make the model: " + words_of_exception()};
}

}  // namespace finesweep::worker
