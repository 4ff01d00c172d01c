#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "jobs/job.h"
#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/settings.h"

namespace finesweep {

// What the commands of `finesweep` that need a model ask of a runner that is started for them alone: one request as
// JSON on its standard input, answered on its standard output by JSON objects, one a line.
//
//   {"progress": {…}}   jobs/outcome.h
//   {"result": {…}}     as the requests below say
//   {"end": {"exit_code": 0}}, or with "error": "…"; always the last line

/// Stands in the folder of an exported model or adapter and says what it is, as the manifest of its artifact did;
/// other programs pass it over.
inline constexpr const char* kDescriptionName = "finesweep.json";

/// A model as the user names it. Paths are absolute.
struct ModelChoice {
  std::string model;     // a Hugging Face directory, or a GGUF file
  std::string adapter;   // a PEFT directory over it; empty: none
  std::string quantize;  // nf4 or int8; empty: as it stands in its files, or as the adapter was trained on it
};

/// Results: {"prompt", "text", "tokens"}, one for each prompt, in order.
struct GenerateRequest {
  ModelChoice choice;
  std::string precision = "fp32";
  std::vector<std::string> prompts;
  GenerationSettings generation;
  std::int64_t batch_size = 8;
  std::uint64_t seed = 0;
};

/// One result: {"metrics": {…}}.
struct EvaluateRequest {
  ModelChoice choice;
  /// Of kind evaluate, with settings and context; its inputs are not looked at.
  Job job;
};

/// Writes a Hugging Face directory with the adapter merged into its base. One result: {"largest_rounding",
/// "largest_weight", "dequantized_weights"}.
struct MergeRequest {
  ModelChoice choice;
  std::string to;  // an empty folder
};

struct RunnerRequest {
  std::variant<GenerateRequest, EvaluateRequest, MergeRequest> what;
  int threads = 1;
};

Json request_to_json(const RunnerRequest& request);
Result<RunnerRequest> parse_request(const Json& json);

}  // namespace finesweep
