#include <cstdio>

#include "worker/engine/evaluation_job.h"
#include "worker/engine/steps.h"

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
  return EvaluationJob(request, context, device, control).run(source, on_prediction);
}

}  // namespace finesweep::worker
