#include "worker/engine/evaluated_model.h"

#include <utility>

#include "storage/files.h"
#include "worker/engine/loaded_base.h"

namespace finesweep::worker {
namespace {

std::string text_of(const std::optional<Precision>& precision) {
  return precision ? std::to_string(static_cast<int>(*precision)) : "as it is";
}

/// Empty: nobody else is served. The base is the same as long as it stays loaded.
std::string key_of(const ModelSource& source, const HeadChoice& head, const EvaluateSettings& settings,
                   std::uint64_t seed, int captured_from) {
  if (!source.adapter) return "";
  const auto config = storage::read_file(*source.adapter / "adapter_config.json");
  if (!config) return "";
  Json key = {{"adapter", *config},
              {"precision", text_of(settings.precision)},
              {"compute", text_of(source.compute)},
              {"attention", static_cast<int>(settings.attention)},
              {"captured_from", captured_from}};
  if (head) {
    key["pooling"] = static_cast<int>(head->pooling);
    key["labels"] = head->labels.to_json();
    const Json parsed = Json::parse(*config, nullptr, /*allow_exceptions=*/false);
    const Json saved = parsed.is_object() ? parsed.value("modules_to_save", Json()) : Json();
    const bool has_head = saved.is_array() && !saved.empty();
    if (!has_head) key["seed"] = seed;
  }
  return key.dump();
}

}  // namespace

Result<std::shared_ptr<EvaluatedModel>> load_evaluated(const ModelSource& source, const HeadChoice& head,
                                                       const EvaluateSettings& settings, std::uint64_t seed,
                                                       c10::Device device, int captured_from) {
  const std::string key = key_of(source, head, settings, seed, captured_from);
  // Another base lets go of what stands on the one before.
  const auto weights = load_frozen_weights(source, settings.precision, device);
  if (!weights) return weights.error();
  auto kept = std::static_pointer_cast<EvaluatedModel>(std::exchange(kept_beside_base(), nullptr));
  if (kept && !key.empty() && kept->key == key) {
    if (read_adapter_values(*kept->loaded.adapter, *source.adapter)) return kept;
  }
  kept.reset();
  auto loaded = load_frozen(source, head, settings.precision, seed, device);
  if (!loaded) return loaded.error();
  return std::make_shared<EvaluatedModel>(std::move(*loaded), key, captured_from);
}

void keep_evaluated(std::shared_ptr<EvaluatedModel> model) {
  if (!model->key.empty()) kept_beside_base() = std::move(model);
}

}  // namespace finesweep::worker
