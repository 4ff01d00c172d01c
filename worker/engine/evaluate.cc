#include <chrono>
#include <cstdio>
#include <optional>

#include "worker/engine/device.h"
#include "worker/engine/job_model.h"
#include "worker/engine/profile_artifact.h"
#include "worker/engine/steps.h"
#include "worker/engine/task_data.h"

namespace finesweep::worker {
namespace {

/// How many generated texts a job's log keeps, for people.
constexpr int logged_predictions = 100;

}  // namespace

Outcome evaluate(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  const auto source = find_model(request, context);
  if (!source) return failed_for_good(source.error().message);
  int logged = 0;
  Outcome outcome = evaluate_model(request, context, *source, device, control, [&](const Prediction& prediction) {
    if (logged++ >= logged_predictions) return;
    const Json line = {
        {"prompt", prediction.prompt}, {"prediction", prediction.text}, {"reference", prediction.reference}};
    std::printf("%s\n", line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  });
  std::fflush(stdout);  // a runner may end without closing its files
  return outcome;
}

Outcome evaluate_model(const ExecutionRequest& request, const JobContext& context, const ModelSource& source,
                       c10::Device device, ExecutionControl& control,
                       const std::function<void(const Prediction&)>& on_prediction) {
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  const auto settings = read_evaluate_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  const std::uint64_t seed = request.job.seed.value_or(0);
  control.progress({0, 0, "loading", Progress::no_loss});
  auto task = make_job_task(context, source, settings->pooling, request.cache);
  if (!task) return failed_for_good(task.error().message);
  const auto data = (*task)->read_evaluation(*settings);
  if (!data) return failed_for_good(data.error().message);
  auto loaded = load_frozen(source, (*task)->head(), settings->precision, seed, device);
  if (!loaded) return failed_for_good(loaded.error().message);
  if (!control.has_turn()) {
    // Its first batch for nothing: kernels are loaded and chosen. What fails here fails again below.
    const EvaluationRun first{*settings, seed, [](std::int64_t done) { return done < 1; }, {}, nullptr};
    static_cast<void>((*data)->evaluate(*loaded->model, first));
  }
  const auto ready = Clock::now();
  control.await_turn();
  start += Clock::now() - ready;

  const std::int64_t total = (*data)->evaluation_units(*settings);
  EvaluationRun run{*settings, seed, {}, on_prediction, nullptr};
  run.go_on = [&](std::int64_t done) {
    control.progress({done, total, "evaluating", Progress::no_loss});
    return !control.stop_requested();
  };
  std::optional<Profiler> profiler;
  if (settings->profile) profiler.emplace(device).start("evaluate");
  const auto metrics = (*data)->evaluate(*loaded->model, run);
  if (!metrics) return failed_for_good(metrics.error().message);
  Outcome outcome;
  if (!*metrics) {
    outcome.kind = OutcomeKind::interrupted;
    return outcome;
  }
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = **metrics;
  outcome.metrics["seconds"] = std::chrono::duration<double>(Clock::now() - start).count();
  outcome.metrics["peak_memory_mb"] = peak_memory_mb(device);
  if (profiler) {
    profiler->stop(((*data)->rows() + settings->batch_size - 1) / settings->batch_size);
    if (Status kept = keep_profile(request, *profiler, outcome); !kept)
      return failed_this_time(kept.error().message);
  }
  return outcome;
}

}  // namespace finesweep::worker
