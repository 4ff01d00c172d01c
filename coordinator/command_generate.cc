#include <unistd.h>

#include <fstream>
#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/fail.h"
#include "coordinator/runner_call.h"
#include "jobs/json.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

/// The texts in one field of a JSON Lines file.
Result<std::vector<std::string>> read_prompts(const fs::path& file, const std::string& field) {
  std::ifstream in(file);
  if (!in) return Error{"--prompts " + file.string() + ": cannot be read"};
  std::vector<std::string> prompts;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json row = Json::parse(line, nullptr, false);
    const std::string where = file.string() + ":" + std::to_string(number) + ": ";
    if (!row.is_object()) return Error{where + "expected a JSON object on each line"};
    const auto text = row.find(field);
    if (text == row.end() || !text->is_string())
      return Error{where + "the row has no text in field '" + field + "'; name the field with --field"};
    prompts.push_back(text->get<std::string>());
  }
  if (prompts.empty()) return Error{file.string() + ": holds no rows"};
  return prompts;
}

}  // namespace

Result<ModelChoice> absolute_choice(const ModelChoice& choice) {
  ModelChoice absolute = choice;
  for (const auto& [path, option] :
       {std::pair{&absolute.model, "--model"}, std::pair{&absolute.adapter, "--adapter"}}) {
    if (path->empty()) continue;
    std::error_code error;
    if (!fs::exists(*path, error)) return Error{std::string(option) + " " + *path + ": no such file or folder"};
    *path = fs::absolute(*path).lexically_normal().string();
    while (path->size() > 1 && path->ends_with('/')) path->pop_back();
  }
  std::error_code error;
  if (!absolute.adapter.empty() && !fs::exists(fs::path(absolute.adapter) / "adapter_config.json", error))
    return Error{"--adapter " + choice.adapter + ": holds no adapter_config.json; expected a PEFT adapter"};
  return absolute;
}

int generate_command(const GenerateOptions& options) {
  const auto choice = absolute_choice(options.choice);
  if (!choice) return fail(2, choice.error().message);
  if (options.prompt.has_value() == !options.prompts.empty())
    return fail(2, "give the prompt with --prompt, or a file of them with --prompts");
  auto prompts =
      options.prompt ? Result(std::vector{*options.prompt}) : read_prompts(options.prompts, options.field);
  if (!prompts) return fail(2, prompts.error().message);
  const auto device = choose_one_device(options.device);
  if (!device) return fail(2, device.error().message);

  GenerateRequest request;
  request.choice = *choice;
  request.precision = options.precision;
  request.prompts = *std::move(prompts);
  request.generation = options.generation;
  request.batch_size = options.batch_size;
  request.seed = options.seed;
  const int threads = options.threads > 0 ? options.threads : read_host_resources().cores;
  const RunnerEnd end = call_runner(options.program, *device, {request, threads}, [&](const Json& result) {
    if (options.json)
      std::cout << result.dump() << std::endl;
    else
      std::cout << result.value("text", "") << std::endl;
  });
  return end.exit_code == 0 ? 0 : fail(end.exit_code, end.error);
}

}  // namespace finesweep::coordinator
