#include <filesystem>
#include <utility>

#include "jobs/compression_settings.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/masks.h"
#include "worker/engine/model_artifact.h"
#include "worker/engine/model_files.h"
#include "worker/engine/steps.h"
#include "worker/formats/safetensors.h"
#include "worker/models/quantized_base.h"
#include "worker/models/weights.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

constexpr double bytes_per_mb = 1e6;

/// Says in `source` how its weights are kept from now on.
void settle(const QuantizeSettings& settings, ModelSource& source) {
  switch (settings.format) {
    case WeightFormat::fp16:
      source.storage = Precision::fp16;
      return;
    case WeightFormat::bf16:
      source.storage = Precision::bf16;
      return;
    case WeightFormat::int8:
      source.quantization = BaseQuantization{QuantizedFormat::int8};
      return;
    case WeightFormat::nf4:
      source.quantization =
          BaseQuantization{QuantizedFormat::nf4, settings.block_size, settings.double_quantization};
      source.compute = settings.compute;
      return;
  }
}

Result<std::int64_t> bytes_of_adapter(const fs::path& adapter) {
  const auto file = SafetensorsFile::open(adapter / "adapter_model.safetensors");
  if (!file) return file.error();
  std::int64_t values = 0;
  for (const std::string& name : file->names()) {
    std::int64_t count = 1;
    for (const std::int64_t size : file->find(name)->shape) count *= size;
    values += count;
  }
  return values * static_cast<std::int64_t>(sizeof(float));
}

/// What stands in the artifact: the adapter, whose base is quantised as it is loaded, or the quantised model.
Status write(const ModelSource& source, const Pretrained& base, const fs::path& artifact) {
  if (!source.adapter) {
    if (Status saved = save_base(base, artifact / "model"); !saved) return saved;
    return copy_model_files(source.tokenizer, artifact / "model");
  }
  if (Status copied = copy_adapter(source, artifact); !copied || !source.masks) return copied;
  const auto masks = read_masks(*source.masks);
  return masks ? write_masks(*masks, artifact) : Status(masks.error());
}

}  // namespace

Outcome quantize(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  const auto settings = read_quantize_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  auto source = find_model(request, context);
  if (!source) return failed_for_good(source.error().message);
  if (source->quantization || holds_quantized_weights(source->model)) {
    return failed_for_good("The weights are quantised already. Leave out one of the steps that quantise.");
  }
  control.progress({0, 1, "quantizing", Progress::no_loss});
  settle(*settings, *source);
  const auto storage = source->storage ? scalar_type_of(*source->storage) : at::kFloat;
  const auto base = load_base({source->model, storage, source->quantization}, device, KeepLoaded::no);
  if (!base) return failed_for_good(base.error().message);

  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.has_artifact = true;
  outcome.environment = job_environment(request);
  std::int64_t bytes = bytes_in_memory(**base);
  if (source->adapter) {
    const auto of_adapter = bytes_of_adapter(*source->adapter);
    if (!of_adapter) return failed_for_good(of_adapter.error().message);
    bytes += *of_adapter;
  }
  outcome.metrics["model_mb"] = static_cast<double>(bytes) / bytes_per_mb;
  const fs::path artifact = request.staging / "artifact";
  fs::create_directories(artifact);
  if (Status written = write(*source, **base, artifact); !written) return failed_this_time(written.error().message);
  const ModelManifest description = describe_source(*source, context, (*base)->family);
  const Status sealed = seal_model_artifact(request, description, outcome);
  return sealed ? outcome : failed_this_time(sealed.error().message);
}

}  // namespace finesweep::worker
