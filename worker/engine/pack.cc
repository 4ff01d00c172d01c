#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/device.h"
#include "worker/engine/pack_work.h"
#include "worker/engine/steps.h"
#include "worker/executor.h"

namespace finesweep::worker {
namespace {

/// What trainings of one pack have in common, as far as their settings tell. Null: the job trains alone.
Json common_of_trainings(const Job& job) {
  if (job.settings.value("method", "full") == "full") return {};
  Json common = Json::array();
  for (const char* key : {"method", "precision", "model_dropout", "dropout", "attention", "gradient_checkpointing",
                          "pooling", "double", "block_size", "compute"}) {
    common.push_back(job.settings.value(key, Json()));
  }
  return common;
}

/// The same of evaluations: those of adapters, which the first input is. What it stands on follows it.
Json common_of_evaluations(const Job& job) {
  const auto settings = read_evaluate_settings(job.settings);
  if (!settings || settings->profile || wants_generation(*settings) || job.inputs.empty()) return {};
  return {job.settings.value("precision", Json()), job.settings.value("attention", Json()),
          Json(std::vector<JobId>(job.inputs.begin() + 1, job.inputs.end()))};
}

/// What jobs of one pack have in common. Empty: the job runs alone.
std::string common_settings(const Job& job) {
  if (job.isolate || job.gpus > 1 || !job.settings.is_object() || !job.context.is_object()) return "";
  Json common;
  if (job.kind == StepKind::finetune) common = common_of_trainings(job);
  if (job.kind == StepKind::evaluate) common = common_of_evaluations(job);
  if (common.is_null()) return "";
  return Json({step_kind_name(job.kind), job.context.value("model", Json()), job.context.value("task", Json()),
               common})
      .dump();
}

void run_all(std::vector<WaitingMember> waiting, const MemberEnded& ended);

void run_pack(std::vector<WaitingMember> waiting, const MemberEnded& ended) {
  const auto device = find_device(waiting.front().request.device);
  if (!device) {
    for (const WaitingMember& one : waiting)
      ended(one.number, reported(one.request, failed_this_time(device.error().message)));
    return;
  }
  at::set_num_threads(std::max(1, waiting.front().request.threads));
  std::vector<WaitingMember> remaining;
  bool broken = false;
  {
    const bool trains = waiting.front().request.job.kind == StepKind::finetune;
    const std::unique_ptr<PackWork> pack =
        (trains ? make_training_pack : make_evaluation_pack)(std::move(waiting), ended, *device);
    try {
      pack->run();
    } catch (...) {
      broken = true;
      std::fprintf(stderr, "a pack of jobs is split: %s\n", describe_exception().outcome.error.c_str());
      pack->save();
    }
    remaining = pack->remaining();
  }
  if (!broken) return run_all(std::move(remaining), ended);
  release_cached_memory(*device);
  const auto half = remaining.begin() + static_cast<std::ptrdiff_t>((remaining.size() + 1) / 2);
  run_all({remaining.begin(), half}, ended);
  run_all({half, remaining.end()}, ended);
}

/// Those that may run together do; one group after the other.
void run_all(std::vector<WaitingMember> waiting, const MemberEnded& ended) {
  while (!waiting.empty()) {
    const std::string common = common_settings(waiting.front().request.job);
    const auto others = std::stable_partition(waiting.begin() + 1, waiting.end(), [&](const WaitingMember& one) {
      return !common.empty() && common_settings(one.request.job) == common &&
             one.request.device == waiting.front().request.device;
    });
    std::vector<WaitingMember> together(waiting.begin(), others);
    waiting.erase(waiting.begin(), others);
    if (together.size() > 1) {
      run_pack(std::move(together), ended);
    } else {
      const WaitingMember& one = together.front();
      ended(one.number, execute(one.request, *one.control));
    }
  }
}

}  // namespace

void execute_pack(const std::vector<PackMember>& members, const std::function<void(std::size_t, Outcome)>& ended) {
  std::vector<WaitingMember> waiting;
  for (std::size_t i = 0; i < members.size(); ++i) waiting.push_back({i, members[i].request, members[i].control});
  run_all(std::move(waiting), ended);
}

}  // namespace finesweep::worker
