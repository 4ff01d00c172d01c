#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/fail.h"
#include "coordinator/find_trial.h"
#include "coordinator/run_results.h"
#include "coordinator/runner_call.h"
#include "coordinator/unix_time.h"
#include "storage/artifact.h"
#include "storage/files.h"
#include "storage/process_start.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"
#include "storage/store.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

/// What a trial left in the end.
struct TrialModel {
  Job job;
  fs::path artifact;
  storage::Manifest manifest;
};

bool leaves_model(StepKind kind) {
  return kind != StepKind::evaluate && kind != StepKind::benchmark;
}

Result<TrialModel> find_model(const storage::RunDirectory& run, const std::string& wanted) {
  const auto store = storage::Store::open_read_only(run.path());
  if (!store) return store.error();
  const auto plan = store->load_plan();
  if (!plan) return plan.error();
  const auto trial = find_trial(*plan, wanted);
  if (!trial) return trial.error();
  const auto step = std::find_if((*trial)->steps.rbegin(), (*trial)->steps.rend(),
                                 [](const TrialStep& candidate) { return leaves_model(candidate.kind); });
  if (step == (*trial)->steps.rend())
    return Error{"trial " + (*trial)->name + " trains nothing: its model is " +
                 (plan->jobs.empty() ? "" : plan->jobs.front().context.value("model", ""))};
  const auto jobs = store->load_jobs();
  if (!jobs) return jobs.error();
  const auto state = std::find_if(jobs->begin(), jobs->end(), [&](const auto& job) { return job.id == step->job; });
  if (state == jobs->end() || state->state != JobState::succeeded)
    return Error{"step " + step->name + " of trial " + (*trial)->name + " has not succeeded" +
                 (state != jobs->end() && !state->error.empty() ? ": " + state->error : "") +
                 "; `finesweep run` on the sweep file goes on with it"};
  const auto job =
      std::find_if(plan->jobs.begin(), plan->jobs.end(), [&](const Job& other) { return other.id == step->job; });
  TrialModel found{*job, run.artifact(step->job), {}};
  auto manifest = storage::verify_artifact(found.artifact, step->job);
  if (!manifest) return manifest.error();
  found.manifest = *std::move(manifest);
  return found;
}

/// Copies the files below `part` of the artifact, and checks what arrived.
Status copy_verified(const TrialModel& model, const std::string& part, const fs::path& to) {
  storage::SealedFiles copied;
  for (const auto& [name, sealed] : model.manifest.files) {
    if (!name.starts_with(part + "/")) continue;
    const std::string rest = name.substr(part.size() + 1);
    std::error_code error;
    fs::create_directories((to / rest).parent_path(), error);
    fs::copy_file(model.artifact / name, to / rest, error);
    if (error) return Error{(to / rest).string() + ": cannot be written: " + error.message()};
    copied[rest] = sealed;
  }
  if (copied.empty()) return Error{"the artifact holds no " + part + "; was it made by this version of finesweep?"};
  return storage::verify_files(to, copied);
}

Status write_description(const TrialModel& model, const fs::path& to) {
  Json description = model.manifest.model;
  description.erase("training");
  return storage::write_file_atomically(to / kDescriptionName, description.dump(2) + "\n");
}

/// The model that the adapter stands on.
fs::path base_of(const TrialModel& model, const storage::RunDirectory& run) {
  const Json base = model.manifest.model.value("base", Json::object());
  const auto job = JobId::parse(base.value("job", ""));
  return job ? run.artifact(*job) / "model" : fs::path(model.job.context.value("model", ""));
}

RunnerEnd merge(const ExportOptions& options, const TrialModel& model, const storage::RunDirectory& run,
                const fs::path& to) {
  const auto device = choose_one_device(options.device);
  if (!device) return {2, device.error().message};
  const fs::path base = base_of(model, run);
  std::error_code error;
  if (!fs::exists(base, error))
    return {2, base.string() + ": the adapter's base is no longer there; put it back, or export without --merge"};
  fs::create_directories(to, error);
  const MergeRequest request{{base.string(), (model.artifact / "adapter").string(), ""}, to.string()};
  return call_runner(options.program, *device, {request, read_host_resources().cores}, [](const Json& result) {
    if (const auto count = result.value("dequantized_weights", 0); count > 0)
      std::cerr << fmt::format(
          "finesweep: {} weights of the base were trained in few bits; they are written in full, "
          "with the error that their quantisation had made\n",
          count);
  });
}

/// What an export on this host that was killed left: folders whose names are the prefix and the number of a process
/// that has ended.
void remove_deserted(const fs::path& parent, const std::string& prefix) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    pid_t pid = 0;
    const char* end = name.data() + name.size();
    const auto [stop, failed] = std::from_chars(name.data() + prefix.size(), end, pid);
    if (failed == std::errc() && stop == end && pid > 0 && !storage::start_time_of(pid))
      fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace

int export_command(const ExportOptions& options) {
  const storage::RunDirectory run(options.directory);
  if (!run.holds_run())
    return fail(2, options.directory.string() + ": no sweep was run here (there is no finesweep.db)");
  if (is_running(run))
    return fail(2, "the sweep is running: export when it has ended, or stop it with Ctrl-C and let it go on later");
  const fs::path to = fs::absolute(options.to).lexically_normal();
  std::error_code error;
  if (fs::exists(to, error)) return fail(2, "--to " + options.to.string() + ": exists already; give a new folder");
  const auto model = find_model(run, options.trial);
  if (!model) return fail(2, model.error().message);

  // Beside its place first, so that what stands there in the end is whole.
  const bool is_adapter = model->manifest.model.value("kind", "") == "adapter";
  const fs::path parent = to.parent_path();
  const std::string partial_prefix = "." + to.filename().string() + ".partial." + host_name() + ".";
  const fs::path partial = parent / (partial_prefix + std::to_string(getpid()));
  fs::create_directories(parent, error);
  remove_deserted(parent, partial_prefix);
  RunnerEnd end{0, ""};
  if (is_adapter && options.merge) {
    end = merge(options, *model, run, partial);
  } else {
    Status copied = copy_verified(*model, is_adapter ? "adapter" : "model", partial);
    if (copied) copied = write_description(*model, partial);
    if (!copied) end = {4, copied.error().message};
  }
  if (end.exit_code == 0)
    if (const Status renamed = storage::rename_durably(partial, to); !renamed) end = {4, renamed.error().message};
  if (end.exit_code != 0) {
    fs::remove_all(partial, error);
    return fail(end.exit_code, end.error);
  }
  std::cout << (is_adapter && !options.merge ? "adapter" : "model") << " written to " << options.to.string()
            << "\n";
  if (is_adapter && !options.merge && model->manifest.model.value("base", Json::object()).contains("job"))
    std::cout << "its base was made by this sweep: " << base_of(*model, run).string()
              << "\n(take it along, or export with --merge)\n";
  return 0;
}

}  // namespace finesweep::coordinator
