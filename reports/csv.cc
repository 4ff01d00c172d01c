#include "reports/csv.h"

#include "reports/numbers.h"

namespace finesweep::reports {

namespace {

class CsvWriter {
 public:
  CsvWriter& cell(const std::string& text) {
    if (!row_is_empty_) text_ += ',';
    row_is_empty_ = false;
    if (text.find_first_of(",\"\r\n") == std::string::npos) {
      text_ += text;
      return *this;
    }
    text_ += '"';
    for (const char c : text) {
      if (c == '"') text_ += '"';
      text_ += c;
    }
    text_ += '"';
    return *this;
  }
  CsvWriter& empty_cells(int count) {
    while (count-- > 0) cell("");
    return *this;
  }
  void end_row() {
    text_ += '\n';
    row_is_empty_ = true;
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
  bool row_is_empty_ = true;
};

void swept_cells(CsvWriter& csv, const Analysis& analysis, const Trial& trial) {
  for (std::size_t i = 0; i < analysis.data->plan.swept_paths.size(); ++i)
    csv.cell(i < trial.swept.size() ? exact(trial.swept[i]) : "");
}

}  // namespace

std::string results_csv(const Analysis& analysis) {
  CsvWriter csv;
  for (const char* name : {"trial", "label", "repeat", "seed", "state"}) csv.cell(name);
  for (const std::string& path : analysis.data->plan.swept_paths) csv.cell(path);
  for (const std::string& metric : analysis.metrics) csv.cell(metric);
  csv.cell("error").end_row();
  for (const TrialResult& result : analysis.trials) {
    const Trial& trial = *result.trial;
    csv.cell(trial.name).cell(trial.label).cell(std::to_string(trial.repeat)).cell(std::to_string(trial.seed));
    csv.cell(std::string(job_state_name(result.state)));
    swept_cells(csv, analysis, trial);
    for (const std::string& metric : analysis.metrics) {
      const auto found = result.metrics.find(metric);
      csv.cell(found == result.metrics.end() ? "" : exact(found->second.value));
    }
    csv.cell(result.error).end_row();
  }
  return csv.take();
}

std::string summary_csv(const Analysis& analysis) {
  CsvWriter csv;
  csv.cell("label");
  for (const std::string& path : analysis.data->plan.swept_paths) csv.cell(path);
  csv.cell("n");
  for (const std::string& metric : analysis.metrics)
    for (const char* ending : {"_mean", "_std", "_ci95_low", "_ci95_high"}) csv.cell(metric + ending);
  csv.end_row();
  for (const Configuration& configuration : analysis.configurations) {
    csv.cell(configuration.label);
    swept_cells(csv, analysis, *analysis.trials[configuration.trials[0]].trial);
    csv.cell(std::to_string(configuration.succeeded));
    for (const std::string& metric : analysis.metrics) {
      const auto found = configuration.metrics.find(metric);
      if (found == configuration.metrics.end()) {
        csv.empty_cells(4);
        continue;
      }
      const Sample& sample = found->second;
      csv.cell(exact(sample.mean));
      if (sample.deviation && sample.ci95) {
        csv.cell(exact(*sample.deviation)).cell(exact(sample.ci95->low)).cell(exact(sample.ci95->high));
      } else {
        csv.empty_cells(3);
      }
    }
    csv.end_row();
  }
  return csv.take();
}

std::string history_csv(const Analysis& analysis) {
  CsvWriter csv;
  for (const char* name : {"trial", "step", "epoch", "global_step", "metric", "value"}) csv.cell(name);
  csv.end_row();
  for (const TrialResult& result : analysis.trials)
    for (const TrialStep& step : result.trial->steps) {
      const auto job = analysis.data->jobs.find(step.job);
      if (job == analysis.data->jobs.end() || !job->second.outcome) continue;
      for (const HistoryPoint& point : job->second.outcome->history)
        csv.cell(result.trial->name)
            .cell(step.name)
            .cell(exact(point.epoch))
            .cell(std::to_string(point.global_step))
            .cell(point.metric)
            .cell(exact(point.value))
            .end_row();
    }
  return csv.take();
}

}  // namespace finesweep::reports
