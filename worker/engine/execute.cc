#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>

#include "jobs/user_cache.h"
#include "worker/engine/device.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/steps.h"
#include "worker/engine/teacher.h"
#include "worker/executor.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/warm_up.h"
#include "worker/kernels/memory.h"

namespace finesweep::worker {
namespace {

constexpr const char* out_of_memory =
    "Out of memory. Lower batch_size or sequence_length, and raise gradient_accumulation to keep the rows of a "
    "step.";

/// Where files lie and how often a job was tried says nothing about the failure, and differs from run to run:
/// models and data files are called by their last name.
void leave_out_paths(const ExecutionRequest& request, std::string& text) {
  const auto replace = [&](const std::filesystem::path& path, const std::string& with) {
    if (path.empty()) return;
    const std::string from = path.string();
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + with.size())) {
      text.replace(at, from.size(), with);
    }
  };
  for (const auto& folder : request.earlier_checkpoints) replace(folder, "(checkpoints)");
  for (const auto& [job, folder] : request.artifacts) replace(folder, "(artifact " + job.hex() + ")");
  replace(request.staging, "(staging)");
  const Json& context = request.job.context;
  std::vector<std::filesystem::path> inputs{context.value("model", "")};
  for (const char* key : {"teacher", "student"}) {
    if (const auto path = request.job.settings.find(key); path != request.job.settings.end() && path->is_string()) {
      inputs.emplace_back(path->get<std::string>());
    }
  }
  if (const auto data = context.find("data"); data != context.end() && data->is_object()) {
    for (const char* split : {"train", "validation", "test"}) {
      if (const auto path = data->find(split); path != data->end() && path->is_string()) {
        inputs.emplace_back(path->get<std::string>());
      }
    }
  }
  for (const auto& path : inputs) {
    if (path.has_filename() && path.has_parent_path()) replace(path, path.filename().string());
  }
}

Outcome run_step(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  switch (request.job.kind) {
    case StepKind::distill:
      return distill(request, context, device, control);
    case StepKind::finetune:
      return finetune(request, context, device, control);
    case StepKind::evaluate:
      return evaluate(request, context, device, control);
    default:
      break;
  }
  // There is little to be made ready, or times are taken.
  control.await_turn();
  switch (request.job.kind) {
    case StepKind::prune:
      return prune(request, context, device, control);
    case StepKind::quantize:
      return quantize(request, context, device, control);
    case StepKind::merge:
      return merge_step(request, context, device, control);
    default:
      return benchmark(request, context, device, control);
  }
}

Outcome execute_job(const ExecutionRequest& request, ExecutionControl& control) {
  const auto context = read_job_context(request.job.context);
  if (!context) return failed_for_good(context.error().message);
  const bool trains = request.job.kind == StepKind::finetune || request.job.kind == StepKind::distill;
  if (request.ranks > 1 && !trains) {
    return failed_for_good("The step \"" + std::string(step_kind_name(request.job.kind)) +
                           "\" runs on one device.");
  }
  return guarded(request.device, request.threads,
                 [&](c10::Device device) { return run_step(request, *context, device, control); });
}

}  // namespace

Json job_environment(const ExecutionRequest& request) {
  Json environment = describe_device(request.device);
  if (request.device == "cpu") environment["threads"] = request.threads;
  return environment;
}

Outcome guarded(const std::string& device_name, int threads, const std::function<Outcome(c10::Device)>& work) {
  std::optional<c10::Device> device;
  try {
    const auto found = find_device(device_name);
    if (!found) return failed_this_time(found.error().message);
    device = *found;
    at::set_num_threads(std::max(1, threads));
    return work(*device);
  } catch (...) {
    const Thrown thrown = describe_exception();
    if (device && thrown.out_of_memory) release_cached_memory(*device);
    return thrown.outcome;
  }
}

Thrown describe_exception() {
  const Thrown no_memory{failed_this_time(out_of_memory), true};
  try {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    return no_memory;
  } catch (const std::bad_alloc&) {
    return no_memory;
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (tells_of_no_memory(text)) return no_memory;
    return {failed_this_time("libtorch failed: " + text)};
  } catch (const std::exception& exception) {
    return {failed_this_time(std::string("The job failed: ") + exception.what())};
  }
}

Outcome execute(const ExecutionRequest& request, ExecutionControl& control) {
  return reported(request, execute_job(request, control));
}

void warm_up(const std::string& device) {
  const auto found = find_device(device);
  if (!found || found->is_cpu()) return;
  if (const auto cache = user_cache(); !cache.empty()) gpu::keep_choices(cache);
  gpu::begin_warm_up(*found);
}

bool has_room_beside(const std::string& device) {
  const auto found = find_device(device);
  return found && free_share(*found) >= 0.5;
}

double memory_share(const std::string& device) {
  const auto found = find_device(device);
  return found ? own_share(*found).peak : 1;
}

void let_go(const std::string& device_name) {
  // What is small may stay: it is soon wanted again, and nobody is short of memory for it.
  constexpr double little = 0.05, little_reserved = 0.1;
  const auto device = find_device(device_name);
  if (!device || device->is_cpu()) return;
  if (own_share(*device).now > little) {
    forget_base();
    forget_teacher_states();
  }
  if (own_share(*device).reserved > little_reserved) release_cached_memory(*device);
}

Outcome reported(const ExecutionRequest& request, Outcome outcome) {
  // The job's log has it whole.
  if (outcome.kind == OutcomeKind::failed) std::fprintf(stderr, "failed: %s\n", outcome.error.c_str());
  leave_out_paths(request, outcome.error);
  if (outcome.environment.empty()) outcome.environment = job_environment(request);
  return outcome;
}

}  // namespace finesweep::worker
