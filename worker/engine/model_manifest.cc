#include <stdexcept>
#include <utility>

#include "jobs/settings_table.h"
#include "worker/engine/job_model.h"

namespace finesweep::worker {
namespace {

constexpr int manifest_version = 2;

Json to_json(const BaseQuantization& quantization) {
  if (quantization.format == QuantizedFormat::int8) return {{"format", "int8"}};
  return {{"format", "nf4"}, {"double", quantization.double_quantization}, {"block_size", quantization.block_size}};
}

BaseQuantization quantization_from_json(const Json& json) {
  BaseQuantization quantization;
  const std::string format = json.at("format");
  if (format == "int8") {
    quantization.format = QuantizedFormat::int8;
    return quantization;
  }
  if (format != "nf4") throw std::invalid_argument("unknown format '" + format + "'");
  quantization.double_quantization = json.at("double");
  quantization.block_size = json.at("block_size");
  return quantization;
}

ClassificationHead head_from_json(const Json& json) {
  ClassificationHead head;
  const std::string pooling = json.at("pooling");
  if (pooling != "cls" && pooling != "mean") throw std::invalid_argument("unknown pooling '" + pooling + "'");
  head.pooling = pooling == "mean" ? Pooling::mean : Pooling::cls;
  auto labels = Labels::from_json(json.at("labels"));
  if (!labels) throw std::invalid_argument(labels.error().message);
  head.labels = std::move(*labels);
  return head;
}

}  // namespace

Json ModelManifest::to_json() const {
  Json json = {{"version", manifest_version},
               {"kind", is_adapter ? "adapter" : "model"},
               {"task", task_name(task)},
               {"family", family},
               {"method", method},
               {"base", {{"model", base_model}}}};
  if (base_job) json["base"]["job"] = base_job->hex();
  if (head) {
    json["head"] = {{"pooling", head->pooling == Pooling::mean ? "mean" : "cls"},
                    {"labels", head->labels.to_json()},
                    {"label_count", head->labels.count()}};
  }
  if (quantization) json["quantization"] = worker::to_json(*quantization);
  if (compute) json["compute"] = precision_name(*compute);
  if (storage) json["storage"] = precision_name(*storage);
  if (!training.is_null()) json["training"] = training;
  return json;
}

Result<ModelManifest> ModelManifest::from_json(const Json& json) {
  try {
    if (json.at("version") != manifest_version) {
      return Error{
          "The manifest of an input was written by another version of finesweep: run its job again, in a new "
          "run directory."};
    }
    ModelManifest manifest;
    const std::string kind = json.at("kind"), task = json.at("task");
    if (kind != "adapter" && kind != "model") throw std::invalid_argument("unknown kind '" + kind + "'");
    manifest.is_adapter = kind == "adapter";
    const auto parsed = parse_task(task);
    if (!parsed) throw std::invalid_argument("unknown task '" + task + "'");
    manifest.task = *parsed;
    manifest.family = json.at("family");
    manifest.method = json.at("method");
    if (json.contains("head")) manifest.head = head_from_json(json["head"]);
    manifest.base_model = json.at("base").at("model");
    if (const auto job = json["base"].find("job"); job != json["base"].end()) {
      const auto id = JobId::parse(job->get<std::string>());
      if (!id) throw std::invalid_argument(id.error().message);
      manifest.base_job = *id;
    }
    if (json.contains("quantization")) manifest.quantization = quantization_from_json(json["quantization"]);
    for (const auto& [key, precision] :
         {std::pair("compute", &manifest.compute), std::pair("storage", &manifest.storage)}) {
      if (!json.contains(key)) continue;
      const auto named = parse_precision(json[key].get<std::string>());
      if (!named) throw std::invalid_argument(named.error().message);
      *precision = *named;
    }
    manifest.training = json.value("training", Json());
    return manifest;
  } catch (const std::exception& exception) {
    return Error{std::string("The manifest of an input does not describe a model: ") + exception.what()};
  }
}

}  // namespace finesweep::worker
