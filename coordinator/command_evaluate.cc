#include <fmt/format.h>

#include <iostream>
#include <sstream>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/fail.h"
#include "coordinator/runner_call.h"
#include "sweeps/sweep.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

/// "text=review,label=stars" → {"text": "review", "label": "stars"}.
Result<Json> parse_fields(const std::string& text) {
  Json fields = Json::object();
  for (const std::string& word : split(text)) {
    const std::size_t equals = word.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == word.size())
      return Error{"--fields " + text +
                   ": expected ROLE=NAME, several with commas, such as text=review,label=stars"};
    fields[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return fields;
}

/// The sweep file that a user would write for this one evaluation: its checks and defaults are ours then. JSON is
/// YAML.
Result<Json> as_sweep(const EvaluateOptions& options, const ModelChoice& choice) {
  const auto fields = parse_fields(options.fields);
  if (!fields) return fields.error();
  Json data{{"test", fs::absolute(options.data).lexically_normal().string()}};
  if (!fields->empty()) data["fields"] = *fields;
  if (!options.labels.empty()) data["labels"] = split(options.labels);
  Json evaluate{{"split", "test"}, {"precision", options.precision}};
  if (!options.metrics.empty()) evaluate["metrics"] = split(options.metrics);
  if (options.batch_size > 0) evaluate["batch_size"] = options.batch_size;
  if (options.sequence_length > 0) evaluate["sequence_length"] = options.sequence_length;
  for (const auto& [key, value] : options.generation.items()) evaluate["generation"][key] = value;
  return Json{{"name", "evaluate"},
              {"model", choice.model},
              {"task", options.task},
              {"data", std::move(data)},
              {"pipeline", Json::array({Json{{"evaluate", std::move(evaluate)}}})},
              {"sweep", {{"seed", options.seed}}}};
}

/// The job, or a message for each thing that is wrong.
Result<Job> plan_job(const EvaluateOptions& options, const ModelChoice& choice) {
  const auto sweep = as_sweep(options, choice);
  if (!sweep) return sweep.error();
  sweeps::SweepRequest request;
  request.file = fs::current_path() / "evaluate";
  request.overrides = options.overrides;
  const auto files = sweeps::make_sweep_files(sweeps::default_checksum_cache());
  auto parsed = sweeps::parse_sweep_text(sweep->dump(), request, *files);
  if (parsed.sweep) return parsed.sweep->plan.jobs.front();
  std::string message;
  for (const sweeps::Diagnostic& diagnostic : parsed.diagnostics) {
    if (diagnostic.severity != sweeps::Severity::error) continue;
    message += (message.empty() ? "" : "\nfinesweep: ") + diagnostic.path + (diagnostic.path.empty() ? "" : ": ") +
               diagnostic.message;
  }
  return Error{message};
}

void print_metrics(const Json& metrics) {
  std::size_t width = 0;
  for (const auto& [name, value] : metrics.items()) width = std::max(width, name.size());
  for (const auto& [name, value] : metrics.items())
    std::cout << fmt::format("{:<{}}  {:.6g}\n", name, width, value.get<double>());
}

}  // namespace

int evaluate_command(const EvaluateOptions& options) {
  const auto choice = absolute_choice(options.choice);
  if (!choice) return fail(2, choice.error().message);
  const auto device = choose_one_device(options.device);
  if (!device) return fail(2, device.error().message);
  auto job = plan_job(options, *choice);
  if (!job) return fail(2, job.error().message);
  const int threads = options.threads > 0 ? options.threads : read_host_resources().cores;
  const EvaluateRequest request{*choice, *std::move(job)};
  const RunnerEnd end = call_runner(options.program, *device, {request, threads}, [&](const Json& result) {
    const Json metrics = result.value("metrics", Json::object());
    if (options.json)
      std::cout << metrics.dump() << std::endl;
    else
      print_metrics(metrics);
  });
  return end.exit_code == 0 ? 0 : fail(end.exit_code, end.error);
}

}  // namespace finesweep::coordinator
