#include "jobs/runner_request.h"

#include <stdexcept>
#include <utility>

namespace finesweep {

namespace {

Json choice_to_json(const ModelChoice& choice) {
  return {{"model", choice.model}, {"adapter", choice.adapter}, {"quantize", choice.quantize}};
}

ModelChoice choice_from_json(const Json& json) {
  return {json.at("model"), json.at("adapter"), json.at("quantize")};
}

Json generation_to_json(const GenerationSettings& settings) {
  return {{"max_new_tokens", settings.max_new_tokens},
          {"num_beams", settings.num_beams},
          {"do_sample", settings.do_sample},
          {"temperature", settings.temperature},
          {"top_k", settings.top_k},
          {"top_p", settings.top_p},
          {"kv_cache", settings.kv_cache}};
}

GenerationSettings generation_from_json(const Json& json) {
  GenerationSettings settings;
  settings.max_new_tokens = checked_integer<std::int64_t>(json.at("max_new_tokens"));
  settings.num_beams = checked_integer<std::int64_t>(json.at("num_beams"));
  settings.do_sample = json.at("do_sample");
  settings.temperature = json.at("temperature");
  settings.top_k = checked_integer<std::int64_t>(json.at("top_k"));
  settings.top_p = json.at("top_p");
  settings.kv_cache = json.at("kv_cache");
  return settings;
}

Json what_to_json(const GenerateRequest& request) {
  return {{"command", "generate"},
          {"choice", choice_to_json(request.choice)},
          {"precision", request.precision},
          {"prompts", request.prompts},
          {"generation", generation_to_json(request.generation)},
          {"batch_size", request.batch_size},
          {"seed", request.seed}};
}

Json what_to_json(const EvaluateRequest& request) {
  return {{"command", "evaluate"}, {"choice", choice_to_json(request.choice)}, {"job", request.job}};
}

Json what_to_json(const MergeRequest& request) {
  return {{"command", "merge"}, {"choice", choice_to_json(request.choice)}, {"to", request.to}};
}

}  // namespace

Json request_to_json(const RunnerRequest& request) {
  Json json = std::visit([](const auto& what) { return what_to_json(what); }, request.what);
  json["threads"] = request.threads;
  return json;
}

Result<RunnerRequest> parse_request(const Json& json) {
  try {
    RunnerRequest request;
    request.threads = checked_integer<int>(json.at("threads"));
    ModelChoice choice = choice_from_json(json.at("choice"));
    const std::string command = json.at("command");
    if (command == "generate") {
      GenerateRequest generate;
      generate.choice = std::move(choice);
      generate.precision = json.at("precision");
      generate.prompts = json.at("prompts").get<std::vector<std::string>>();
      generate.generation = generation_from_json(json.at("generation"));
      generate.batch_size = checked_integer<std::int64_t>(json.at("batch_size"));
      generate.seed = checked_integer<std::uint64_t>(json.at("seed"));
      request.what = std::move(generate);
    } else if (command == "evaluate") {
      request.what = EvaluateRequest{std::move(choice), json.at("job").get<Job>()};
    } else if (command == "merge") {
      request.what = MergeRequest{std::move(choice), json.at("to")};
    } else {
      throw std::invalid_argument("unknown command '" + command + "'");
    }
    return request;
  } catch (const std::exception& exception) {
    return Error{std::string("the request cannot be read: ") + exception.what()};
  }
}

}  // namespace finesweep
