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

void run_all(std::vector<WaitingMember> waiting, const MemberEnded& ended, const WhoJoins& who_joins = {});

void run_pack(std::vector<WaitingMember> waiting, const MemberEnded& ended, const WhoJoins& who_joins) {
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
    const std::unique_ptr<PackWork> pack = trains
                                               ? make_training_pack(std::move(waiting), ended, *device, who_joins)
                                               : make_evaluation_pack(std::move(waiting), ended, *device);
    try {
      pack->run();
    } catch (const NotWanted&) {
      throw;
    } catch (...) {
      broken = true;
      std::fprintf(stderr, "a pack of jobs is split: %s\n", describe_exception().outcome.error.c_str());
      pack->save();
    }
    remaining = pack->remaining();
  }
  if (!broken) return run_all(std::move(remaining), ended, who_joins);
  release_cached_memory(*device);
  const auto half = remaining.begin() + static_cast<std::ptrdiff_t>((remaining.size() + 1) / 2);
  run_all({remaining.begin(), half}, ended);
  run_all({half, remaining.end()}, ended);
}

/// Those that may run together do; one group after the other.
void run_all(std::vector<WaitingMember> waiting, const MemberEnded& ended, const WhoJoins& who_joins) {
  while (!waiting.empty()) {
    const std::string common = common_settings(waiting.front().request.job);
    const auto goes_along = [&common, device = waiting.front().request.device](const WaitingMember& one) {
      return !common.empty() && common_settings(one.request.job) == common && one.request.device == device;
    };
    const auto others = std::stable_partition(waiting.begin() + 1, waiting.end(), goes_along);
    std::vector<WaitingMember> together(waiting.begin(), others);
    waiting.erase(waiting.begin(), others);
    WhoJoins who_joins_these;
    if (who_joins) {
      who_joins_these = [&] {
        std::vector<WaitingMember> joined = who_joins();
        const auto later = std::stable_partition(joined.begin(), joined.end(), goes_along);
        waiting.insert(waiting.end(), later, joined.end());
        joined.erase(later, joined.end());
        return joined;
      };
    }
    if (together.size() > 1) {
      run_pack(std::move(together), ended, who_joins_these);
    } else {
      const WaitingMember& one = together.front();
      ended(one.number, execute(one.request, *one.control));
    }
  }
}

}  // namespace

void execute_pack(const std::vector<PackMember>& members, const std::function<void(std::size_t, Outcome)>& ended,
                  const std::function<std::vector<PackMember>()>& who_joins) {
  std::size_t numbered = 0;
  const auto number = [&](const std::vector<PackMember>& some) {
    std::vector<WaitingMember> waiting;
    for (const PackMember& member : some) waiting.push_back({numbered++, member.request, member.control});
    return waiting;
  };
  WhoJoins joining;
  if (who_joins) joining = [&] { return number(who_joins()); };
  run_all(number(members), ended, joining);
}

}  // namespace finesweep::worker
