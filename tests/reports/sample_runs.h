#pragma once

#include <map>
#include <string>
#include <vector>

#include "reports/run_data.h"

namespace finesweep::reports {

/// Builds a RunData by hand.
class RunBuilder {
 public:
  RunBuilder() {
    data_.plan.name = "made-up";
    data_.plan.swept_paths = {"finetune.method", "finetune.rank"};
  }

  struct StepResult {
    std::string step;
    StepKind kind = StepKind::finetune;
    /// Trials that name the same job share it.
    std::string job;
    JobState state = JobState::succeeded;
    std::map<std::string, double> metrics = {};
    std::vector<HistoryPoint> history = {};
    std::string error = "";
    std::string device = "cpu";
  };

  RunBuilder& trial(const std::string& configuration, const std::string& label, int repeat, std::vector<Json> swept,
                    const std::vector<StepResult>& steps) {
    Trial trial;
    trial.name = configuration + "." + std::to_string(repeat);
    trial.configuration = configuration;
    trial.label = label;
    trial.repeat = repeat;
    trial.seed = 0xfedcba9876543210u + static_cast<std::uint64_t>(repeat);
    trial.swept = std::move(swept);
    for (const StepResult& step : steps) {
      const JobId id = JobId::of(step.job);
      trial.steps.push_back({step.step, step.kind, id});
      storage::StoredJob& job = data_.jobs[id];
      job.id = id;
      job.state = step.state;
      job.error = step.error;
      if (step.state != JobState::succeeded) continue;
      job.outcome = Outcome();
      job.outcome->kind = OutcomeKind::succeeded;
      job.outcome->metrics = step.metrics;
      job.outcome->history = step.history;
      job.outcome->environment = {{"device", step.device}, {"threads", 1}};
    }
    data_.plan.trials.push_back(std::move(trial));
    return *this;
  }

  ReportSettings& report() { return data_.plan.report; }
  RunData& data() { return data_; }

 private:
  RunData data_;
};

/// Two repeats: a baseline without training whose repeats share one job, LoRA, full fine-tuning, one configuration
/// of which a repeat failed, one that is pending and cancelled.
inline RunData mixed_run() {
  RunBuilder run;
  run.report() = {.select = "validation.accuracy",
                  .metric = "test.accuracy",
                  .goal = Goal::maximize,
                  .baseline = "00000000",
                  .selects_on_test = false};
  const auto evaluate = [](const std::string& name, const std::string& job, double accuracy) {
    return RunBuilder::StepResult{name,
                                  StepKind::evaluate,
                                  job,
                                  JobState::succeeded,
                                  {{"accuracy", accuracy}, {"loss", 1 - accuracy / 2}, {"seconds", 0.5}}};
  };
  const auto finetune = [](const std::string& job, double parameters, double seconds, double memory, double loss) {
    return RunBuilder::StepResult{"finetune",
                                  StepKind::finetune,
                                  job,
                                  JobState::succeeded,
                                  {{"trainable_parameters", parameters},
                                   {"seconds", seconds},
                                   {"peak_memory_mb", memory},
                                   {"loss", loss},
                                   {"batch_ms_mean", seconds * 10},
                                   {"batch_ms_std", seconds / 4}},
                                  {{0.5, 10, "loss", 2 * loss}, {1, 20, "loss", loss}}};
  };
  for (int r : {0, 1})
    run.trial("00000000", "Not trained", r, {nullptr, nullptr},
              {evaluate("validation", "v-none", 0.5), evaluate("test", "t-none", 0.525)});
  for (int r : {0, 1}) {
    const std::string n = std::to_string(r);
    run.trial(
        "11111111", "LoRA, rank 2", r, {"lora", 2},
        {finetune("f-2-" + n, 24'578, 12.5 + r, 410.25, 0.6), evaluate("validation", "v-2-" + n, 0.75 + 0.01 * r),
         evaluate("test", "t-2-" + n, 0.7125 + 0.02 * r)});
  }
  for (int r : {0, 1}) {
    const std::string n = std::to_string(r);
    run.trial("22222222", "Full \"fine-tuning\"", r, {"full", nullptr},
              {finetune("f-full-" + n, 22'713'218, 31 + 2 * r, 902.5, 0.25),
               evaluate("validation", "v-full-" + n, 0.84), evaluate("test", "t-full-" + n, 0.8125 + 0.0125 * r)});
  }
  run.trial("33333333", "LoRA, rank 8", 0, {"lora", 8},
            {finetune("f-8-0", 98'306, 14, 420, 0.5), evaluate("validation", "v-8-0", 0.81),
             evaluate("test", "t-8-0", 0.8)});
  run.trial("33333333", "LoRA, rank 8", 1, {"lora", 8},
            {{"finetune",
              StepKind::finetune,
              "f-8-1",
              JobState::failed,
              {},
              {},
              "the loss of step 7 is not a number;\nlower the \"learning_rate\" | or clip"},
             {"validation", StepKind::evaluate, "v-8-1", JobState::failed, {}, {}, "needs finetune, which failed"},
             {"test", StepKind::evaluate, "t-8-1", JobState::failed, {}, {}, "needs finetune, which failed"}});
  run.trial("44444444", "LoRA, rank 16", 0, {"lora", 16},
            {{"finetune", StepKind::finetune, "f-16-0", JobState::running},
             {"validation", StepKind::evaluate, "v-16-0", JobState::pending},
             {"test", StepKind::evaluate, "t-16-0", JobState::pending}});
  run.trial("44444444", "LoRA, rank 16", 1, {"lora", 16},
            {{"finetune", StepKind::finetune, "f-16-1", JobState::cancelled, {}, {}, "cancelled by request"},
             {"validation", StepKind::evaluate, "v-16-1", JobState::cancelled},
             {"test", StepKind::evaluate, "t-16-1", JobState::cancelled}});
  return std::move(run.data());
}

/// One repeat of two configurations with a benchmark, chosen on the test split, on two kinds of devices.
inline RunData single_repeat_run() {
  RunBuilder run;
  run.data().plan.swept_paths = {"quantize"};
  run.report() = {.select = "test.perplexity",
                  .metric = "test.perplexity",
                  .goal = Goal::minimize,
                  .baseline = "aaaaaaaa",
                  .selects_on_test = true};
  const auto add = [&](const char* name, const char* label, const char* value, double perplexity, double ms,
                       double mb, const char* device) {
    const std::string job(name);
    run.trial(
        name, label, 0, {value},
        {{"test", StepKind::evaluate, job + "t", JobState::succeeded, {{"perplexity", perplexity}}, {}, "", device},
         {"benchmark",
          StepKind::benchmark,
          job + "b",
          JobState::succeeded,
          {{"forward_ms_mean", ms}, {"forward_ms_std", ms / 20}, {"forward_peak_memory_mb", mb}},
          {},
          "",
          device}});
  };
  add("aaaaaaaa", "FP32", "skip", 21.5, 12.25, 548.5, "cpu");
  add("bbbbbbbb", "NF4", "run", 22.25, 15.5, 181, "cuda:0");
  return std::move(run.data());
}

/// Methods × ranks with three repeats, histories, and full fine-tuning beside them: as in a study of adapters.
inline RunData study_run() {
  RunBuilder run;
  run.data().plan.name = "study";
  run.data().plan.swept_paths = {"finetune.method", "finetune.rank", "finetune.alpha"};
  run.report() = {.select = "validation.accuracy",
                  .metric = "test.accuracy",
                  .goal = Goal::maximize,
                  .baseline = "full",
                  .selects_on_test = false};
  const auto add = [&](const std::string& name, const std::string& label, std::vector<Json> swept, double accuracy,
                       double memory, double seconds) {
    for (int r : {0, 1, 2}) {
      const std::string job = name + std::to_string(r);
      const double shift = 0.004 * (r - 1);
      std::vector<HistoryPoint> history;
      for (int epoch = 1; epoch <= 4; ++epoch) {
        history.push_back(
            {static_cast<double>(epoch), 50 * epoch, "loss", 1.2 / epoch + shift + 0.5 - accuracy / 2});
        history.push_back(
            {static_cast<double>(epoch), 50 * epoch, "validation_accuracy", accuracy - 0.2 / epoch + shift});
      }
      run.trial(
          name, label, r, swept,
          {{"finetune",
            StepKind::finetune,
            job + "f",
            JobState::succeeded,
            {{"seconds", seconds + r}, {"peak_memory_mb", memory}, {"loss", 1 - accuracy}},
            history},
           {"validation", StepKind::evaluate, job + "v", JobState::succeeded, {{"accuracy", accuracy + shift}}},
           {"test",
            StepKind::evaluate,
            job + "t",
            JobState::succeeded,
            {{"accuracy", accuracy - 0.01 + shift}, {"f1", accuracy - 0.02 + shift}}}});
    }
  };
  int step = 0;
  for (const int rank : {2, 4, 8}) {
    const double more = 0.015 * step++;
    const std::string size = std::to_string(rank);
    add("lora" + size, "LoRA rank " + size, {"lora", rank, 2 * rank}, 0.86 + more, 900 + 4.0 * rank, 60 + rank);
    add("qlora" + size, "QLoRA rank " + size, {"qlora", rank, 2 * rank}, 0.845 + more, 520 + 4.0 * rank, 95 + rank);
  }
  add("full", "Full fine-tuning", {"full", nullptr, nullptr}, 0.905, 2400, 150);
  return std::move(run.data());
}

/// Batch size × sequence length of two arms, as a benchmark measures them.
inline RunData grid_run() {
  RunBuilder run;
  run.data().plan.name = "grid";
  run.data().plan.swept_paths = {"quantize", "benchmark.batch_size", "benchmark.sequence_length"};
  run.report().select = run.report().metric = "test.perplexity";
  run.report().goal = Goal::minimize;
  for (const char* arm : {"skip", "run"})
    for (const int batch : {1, 4, 16})
      for (const int length : {64, 128, 256, 512}) {
        const bool small = std::string(arm) == "run";
        const std::string name =
            std::string(small ? "nf4-" : "fp32-") + std::to_string(batch) + "-" + std::to_string(length);
        const double ms = 0.02 * batch * length * (small ? 1.3 : 1.0) + 4;
        if (small && batch == 16 && length == 512) {
          run.trial(name, name, 0, {arm, batch, length},
                    {{"benchmark", StepKind::benchmark, name, JobState::failed, {}, {}, "out of memory"}});
          continue;
        }
        run.trial(name, name, 0, {arm, batch, length},
                  {{"test",
                    StepKind::evaluate,
                    std::string(arm),
                    JobState::succeeded,
                    {{"perplexity", small ? 22.4 : 21.5}}},
                   {"benchmark",
                    StepKind::benchmark,
                    name,
                    JobState::succeeded,
                    {{"forward_ms_mean", ms},
                     {"forward_ms_std", ms / 30},
                     {"forward_samples_per_second_mean", 1000 * batch / ms},
                     {"forward_samples_per_second_std", 30 * batch / ms},
                     {"forward_peak_memory_mb", (small ? 180 : 500) + 0.05 * batch * length}}}});
      }
  return std::move(run.data());
}

/// Text that tries to be markup, a script, a command or the end of a string wherever a sweep file's text is shown.
inline const std::vector<std::string>& hostile_texts() {
  static const std::vector<std::string> texts{
      "</script><img src=x onerror=\"document.documentElement.dataset.pwned=1\">",
      "'; system('touch pwned1') #",
      "\"quoted\" `touch pwned2` $(touch pwned3) \\",
      "line one\nset output 'pwned4'\n! touch pwned5",
      "]]> <!-- &#0; &lt; %s %n @macro \x1b[31m \xff\xfe",
      "![x](http://example.invalid/p.png) | <b>bold</b>",
  };
  return texts;
}

inline RunData hostile_run() {
  RunBuilder run;
  const auto& texts = hostile_texts();
  run.data().plan.name = texts[0];
  run.data().plan.swept_paths = {texts[1] + ".rank", "finetune.method"};
  const std::string step = texts[2];
  run.report().select = run.report().metric = step + ".accuracy";
  run.report().baseline = "0";
  for (std::size_t i = 0; i < texts.size(); ++i)
    for (const int rank : {2, 4}) {
      const std::string name = std::to_string(i) + (rank == 2 ? "" : "b");
      const double accuracy = 0.5 + 0.05 * static_cast<double>(i) + 0.01 * rank;
      run.trial(name, texts[i] + " " + std::to_string(rank), 0, {rank, texts[i]},
                {{"finetune",
                  StepKind::finetune,
                  name + "f",
                  JobState::succeeded,
                  {{"seconds", 10.0 + rank}, {"peak_memory_mb", 100.0 * rank}},
                  {{1, 10, "loss", 1}, {2, 20, "loss", 0.5}, {2, 20, texts[i], 0.25}},
                  "",
                  texts[i]},
                 {step, StepKind::evaluate, name + "t", JobState::succeeded, {{"accuracy", accuracy}}}});
    }
  run.trial("bad", texts[0], 0, {2, texts[0]},
            {{"finetune", StepKind::finetune, "bad", JobState::failed, {}, {}, texts[3]}});
  return std::move(run.data());
}

}  // namespace finesweep::reports
