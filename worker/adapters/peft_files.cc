#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "storage/files.h"
#include "worker/adapters/adapter.h"
#include "worker/adapters/adapter_parameter.h"
#include "worker/adapters/ia3.h"
#include "worker/adapters/lora.h"
#include "worker/adapters/peft_config.h"
#include "worker/adapters/targets.h"
#include "worker/formats/safetensors.h"
#include "worker/kernels/upload.h"

namespace finesweep::worker {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

Result<Json> read_config(const std::filesystem::path& folder) {
  const std::string file = (folder / kConfigFile).string();
  Result<std::string> text = storage::read_file(file);
  if (!text) return Error{text.error()};
  Json config = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return Error{file + ": is not a JSON object"};
  return config;
}

Result<std::unique_ptr<Adapter>> make_empty(Model& model, const AdapterOptions& options, bool trained) {
  const Result<std::vector<Target>> targets = find_targets(model, options, UnmatchedTargets::ignore);
  if (!targets) return targets.error();
  if (options.kind == AdapterKind::ia3) {
    auto adapter = Ia3Adapter::make(model, options, *targets, trained);
    if (!adapter) return adapter.error();
    return std::unique_ptr<Adapter>(std::move(*adapter));
  }
  auto adapter = LoraAdapter::make(model, options, *targets, trained);
  if (!adapter) return adapter.error();
  return std::unique_ptr<Adapter>(std::move(*adapter));
}

/// The frozen weights that PEFT writes beside an adapter on the output embedding, by name.
std::map<std::string, const Parameter*> base_weights(Model& model) {
  std::map<std::string, const Parameter*> weights;
  for (const LinearModule* module : model.linear_modules()) {
    if (module->paths.size() == 1 && !module->weight->quantized) {
      weights[kPeftPrefix + module->paths[0] + ".base_layer.weight"] = module->weight;
    }
  }
  return weights;
}

/// The file's other tensors may only repeat weights of the base.
Status expect_base_weights(Model& model, const SafetensorsFile& file, const std::set<std::string>& names) {
  const auto weights = base_weights(model);
  for (const std::string& name : names) {
    const std::string where = file.path().string() + ": ";
    const auto found = weights.find(name);
    if (found == weights.end()) return Error{where + "unknown tensor \"" + name + "\""};
    Result<at::Tensor> tensor = file.tensor(name);
    if (!tensor) return tensor.error();
    const Parameter& weight = *found->second;
    const at::Tensor mine = weight.in_file_layout(weight.value, 0);
    if (tensor->sizes() != mine.sizes() || !tensor->to(mine.device(), mine.scalar_type()).equal(mine)) {
      return Error{where + "tensor \"" + name +
                   "\" is not the base model's weight; a changed one is not supported"};
    }
  }
  return {};
}

/// Copies the file's tensors into `into`; every one of them must be there.
Status copy_weights(Model& model, const SafetensorsFile& file,
                    const std::vector<std::pair<std::string, at::Tensor>>& into) {
  const std::string where = file.path().string();
  std::set<std::string> others;
  for (const std::string& name : file.names()) others.insert(name);
  std::vector<at::Tensor> sources;
  for (const auto& [name, tensor] : into) {
    if (others.erase(name) == 0) return Error{where + ": tensor \"" + name + "\" is missing"};
    Result<at::Tensor> source = file.tensor(name);
    if (!source) return Error{source.error()};
    if (source->sizes() != tensor.sizes()) {
      return Error{where + ": tensor \"" + name + "\" has shape " + shape_text(source->sizes()) + "; expected " +
                   shape_text(tensor.sizes()) + " for this model and its number of labels"};
    }
    sources.push_back(std::move(*source));
  }
  if (Status expected = expect_base_weights(model, file, others); !expected) return expected;
  for (std::size_t i = 0; i < into.size(); ++i) upload(sources[i], into[i].second);
  return {};
}

Status take_values(Adapter& adapter, const SafetensorsFile& file, bool with_head) {
  auto tensors = adapter.tensors();
  if (!with_head) tensors.resize(adapter.parameters().size());
  if (Status copied = copy_weights(adapter.model(), file, tensors); !copied) return copied;
  for (Parameter* parameter : adapter.parameters()) parameter->refresh_value();
  for (Parameter* parameter : trained_parameters(adapter.model())) parameter->refresh_value();
  return {};
}

}  // namespace

Result<std::unique_ptr<Adapter>> read_adapter(Model& model, const std::filesystem::path& folder, bool trained) try {
  const std::string where = (folder / kConfigFile).string() + ": ";
  const Result<Json> json = read_config(folder);
  if (!json) return json.error();
  const Result<PeftConfig> config = read_peft_config(model, *json);
  if (!config) return Error{where + config.error().message};
  const Result<SafetensorsFile> file = SafetensorsFile::open(folder / kWeightsFile);
  if (!file) return Error{file.error()};
  Result<std::unique_ptr<Adapter>> adapter = make_empty(model, config->options, trained);
  if (!adapter) return Error{where + adapter.error().message};
  if (Status taken = take_values(**adapter, *file, config->saves_head); !taken) return taken.error();
  return adapter;
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot read the adapter: " + error.what()};
}

Status read_adapter_values(Adapter& adapter, const std::filesystem::path& folder) try {
  const Result<Json> json = read_config(folder);
  if (!json) return json.error();
  const Result<PeftConfig> config = read_peft_config(adapter.model(), *json);
  if (!config) return Error{(folder / kConfigFile).string() + ": " + config.error().message};
  const Result<SafetensorsFile> file = SafetensorsFile::open(folder / kWeightsFile);
  if (!file) return Error{file.error()};
  return take_values(adapter, *file, config->saves_head);
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot read the adapter: " + error.what()};
}

Status write_adapter(const Adapter& adapter, const std::string& base_model, const std::filesystem::path& folder) {
  return write_adapter(adapter, adapter.tensors(), base_model, folder);
}

Status write_adapter(const Adapter& adapter, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                     const std::string& base_model, const std::filesystem::path& folder) try {
  std::filesystem::create_directories(folder);
  if (Status written = write_safetensors(folder / kWeightsFile, tensors, {{"format", "pt"}}); !written) {
    return written;
  }
  return storage::write_file_atomically(folder / kConfigFile, peft_config(adapter, base_model).dump(2) + "\n");
} catch (const std::exception& error) {
  return Error{folder.string() + ": cannot write the adapter: " + error.what()};
}

}  // namespace finesweep::worker
