#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/engine/temporary_folder.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// What a runner would be to execute(): it keeps what it is told, and stops when a test wants it to.
class RecordingControl : public ExecutionControl {
 public:
  void progress(const Progress& progress) override {
    reports.push_back(progress);
    if (on_progress) on_progress(progress);
  }
  bool stop_requested() override { return stop && stop(); }
  bool has_turn() override { return turn; }
  void await_turn() override {
    if (!turn && on_turn) on_turn();
    turn = true;
  }

  void computed() override {
    ++times_computed;
    if (on_computed) on_computed();
  }

  std::vector<Progress> reports;
  int times_computed = 0;
  std::function<void()> on_computed;
  bool turn = true;               // false: the job is made ready first
  std::function<void()> on_turn;  // called then
  std::function<void(const Progress&)> on_progress;
  std::function<bool()> stop;
};

/// A small model of a family with a vocabulary of its own, and rows that it can learn: all that jobs need, in a
/// temporary folder. Encoders classify texts whose words tell the class; the others write the class's name for such
/// a text (source and target).
class JobBench {
 public:
  /// A folder of tests/fixtures/models.
  explicit JobBench(const std::string& model = "bert");

  Json finetune_settings(const std::string& method = "lora") const;
  Json evaluate_settings(const std::string& split = "validation") const;
  /// `seed` decides the job's id too, with kind and settings.
  Job job(StepKind kind, Json settings, std::uint64_t seed = 7) const;

  /// Runs the job in a staging folder of its own; where it is tried again, from the checkpoints of its attempts
  /// before. A succeeded job's artifact is found by those that name it as an input.
  Outcome run(const Job& job);
  Outcome run(const Job& job, ExecutionControl& control);
  /// The same of jobs together; controls[i] may be null. The outcomes are as the jobs.
  std::vector<Outcome> run_pack(const std::vector<Job>& jobs, const std::vector<ExecutionControl*>& controls = {});
  /// The same, where each time that the pack has room the next of `joining` come along; their outcomes are behind
  /// those of `jobs`.
  std::vector<Outcome> run_pack(const std::vector<Job>& jobs, const std::vector<ExecutionControl*>& controls,
                                const std::vector<std::vector<Job>>& joining);
  /// The numbers of the jobs of the last pack, in the order in which they ended.
  const std::vector<std::size_t>& ended() const { return ended_; }

  std::filesystem::path artifact(const Job& job) const { return artifacts_.at(job.id); }
  std::filesystem::path staging(const Job& job) const { return attempts_.at(job.id).back(); }
  std::filesystem::path model() const { return folder_.path() / "model"; }
  const TemporaryFolder& folder() const { return folder_; }
  bool classifies() const { return context.at("task") == "classification"; }

  /// Of the jobs that follow.
  Json context;
  std::string device = "cpu";
  std::filesystem::path cache;

 private:
  ExecutionRequest begin_attempt(const Job& job);

  TemporaryFolder folder_;
  std::vector<std::size_t> ended_;
  std::map<JobId, std::vector<std::filesystem::path>> attempts_;
  std::map<JobId, std::filesystem::path> artifacts_;
};

/// Measured metrics differ from run to run: the others must not.
std::map<std::string, double> reproducible(const Outcome& outcome);

std::string read_bytes(const std::filesystem::path& path);

}  // namespace finesweep::worker
