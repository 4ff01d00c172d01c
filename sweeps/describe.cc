#include "sweeps/describe.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>

#include "jobs/counted.h"
#include "sweeps/memory.h"
#include "sweeps/model_info.h"
#include "sweeps/packing.h"

namespace finesweep::sweeps {

namespace {

std::string cell(const Json& value) {
  if (value.is_null()) return "–";
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const Json& item : value) text += (text.empty() ? "" : ",") + cell(item);
  return text;
}

std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// Columns as wide as their widest cell, two blanks between them; the first row is the heading.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  std::string text;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - columns_of(row[i]) + 2, ' ');
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

struct Uses {
  std::unordered_map<JobId, std::vector<std::string>> trials;
  std::size_t steps = 0;
  explicit Uses(const Plan& plan) {
    for (const Trial& trial : plan.trials)
      for (const TrialStep& step : trial.steps) {
        trials[step.job].push_back(trial.name);
        ++steps;
      }
  }
};

/// The first trial of each configuration, in the order of the plan, with the number of its trials.
std::vector<std::pair<const Trial*, std::vector<std::string>>> configurations_of(const Plan& plan) {
  std::vector<std::pair<const Trial*, std::vector<std::string>>> found;
  std::unordered_map<std::string, std::size_t> index;
  for (const Trial& trial : plan.trials) {
    const auto [known, is_new] = index.emplace(trial.configuration, found.size());
    if (is_new) found.push_back({&trial, {}});
    found[known->second].second.push_back(trial.name);
  }
  return found;
}

std::string rounded_mb(double mb) {
  return std::to_string(static_cast<long long>(std::llround(mb)));
}

std::string report_line(const Plan& plan) {
  const ReportSettings& report = plan.report;
  if (report.metric.empty() && report.select.empty())
    return "The report shows every metric; none is named as the main one.\n";
  std::string line = "The report shows " + (report.metric.empty() ? report.select : report.metric) + " (" +
                     (report.goal == Goal::maximize ? "higher" : "lower") + " is better)";
  if (!report.select.empty()) line += ", chooses by " + report.select;
  for (const Trial& trial : plan.trials)
    if (!report.baseline.empty() && trial.configuration == report.baseline) {
      line += ", compares with '" + trial.label + "'";
      break;
    }
  return line + ".\n";
}

/// Jobs that look the same to a person on one line.
std::string job_table(const Plan& plan, const Uses& uses, ModelCatalog& models) {
  struct Line {
    std::size_t jobs = 0, uses = 0;
    double memory_mb = 0;
    bool continues = false;
  };
  std::vector<std::string> order;
  std::map<std::string, Line> lines;
  bool any_memory = false;
  for (const Job& job : plan.jobs) {
    const std::string epochs = job.settings.contains("epochs") && (job.keep_training_state || job.continues)
                                   ? ", " + counted(job.settings["epochs"].get<std::int64_t>(), "epoch")
                                   : "";
    const std::string devices = job.gpus > 1 ? ", on " + counted(job.gpus, "device") : "";
    const std::string title = job.title + epochs + devices;
    const auto [entry, is_new] = lines.emplace(title, Line{});
    if (is_new) order.push_back(title);
    Line& line = entry->second;
    ++line.jobs;
    line.uses += uses.trials.at(job.id).size();
    line.continues = line.continues || job.continues.has_value();
    if (const auto memory = estimate_memory(job, models))
      line.memory_mb = std::max(line.memory_mb, memory->total_mb());
    any_memory = any_memory || line.memory_mb > 0;
  }
  std::vector<std::vector<std::string>> rows{{"job", "jobs", "used by steps of"}};
  if (any_memory) rows[0].push_back("memory, MB (estimate)");
  for (const std::string& title : order) {
    const Line& line = lines.at(title);
    rows.push_back({title + (line.continues ? " (continues a shorter one)" : ""), std::to_string(line.jobs),
                    counted(static_cast<std::int64_t>(line.uses), "trial")});
    if (any_memory) rows.back().push_back(line.memory_mb > 0 ? rounded_mb(line.memory_mb) : "");
  }
  return table(rows);
}

/// "12,288"
std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

/// Packs that look the same to a person on one line; empty where no jobs run together.
std::string pack_table(const Plan& plan, ModelCatalog& models) {
  constexpr std::size_t most_lines = 12;
  const PackSizes sizes = pack_sizes(plan.resources);
  const std::vector<PlannedPack> packs = planned_packs(pack_traits(plan, models), sizes.on_gpu);
  if (packs.empty()) return "";
  struct Line {
    std::size_t packs = 0, jobs = 0;
    double memory_mb = 0;
  };
  std::vector<std::pair<std::string, std::int64_t>> order;
  std::map<std::pair<std::string, std::int64_t>, Line> lines;
  for (const PlannedPack& pack : packs) {
    std::vector<std::pair<std::string, std::size_t>> titles;
    for (const std::size_t job : pack.jobs) {
      if (titles.empty() || titles.back().first != plan.jobs[job].title)
        titles.push_back({plan.jobs[job].title, 0});
      ++titles.back().second;
    }
    std::string text;
    for (const auto& [title, count] : titles)
      text += (text.empty() ? "" : ", ") + title + (count > 1 ? " (" + std::to_string(count) + ")" : "");
    const auto [entry, is_new] = lines.emplace(std::pair(text, pack.tokens), Line{});
    if (is_new) order.push_back(entry->first);
    Line& line = entry->second;
    ++line.packs;
    line.jobs = pack.jobs.size();
    line.memory_mb = std::max(line.memory_mb, pack.memory_mb);
  }
  std::vector<std::vector<std::string>> rows{
      {"packs", "jobs of each", "tokens a step", "memory, MB (estimate)", "of"}};
  for (std::size_t i = 0; i < std::min(order.size(), most_lines); ++i) {
    const Line& line = lines.at(order[i]);
    rows.push_back({std::to_string(line.packs), std::to_string(line.jobs), grouped(order[i].second),
                    rounded_mb(line.memory_mb), order[i].first});
  }
  std::string text = table(rows);
  if (order.size() > most_lines) text += "  and " + std::to_string(order.size() - most_lines) + " more\n";
  return text + (sizes.on_cpu > 1 ? "These jobs" : "On a GPU these jobs") +
         " run together as far as memory allows, and in smaller packs where several workers share them.\n\n";
}

}  // namespace

std::string plan_text(const Plan& plan, SweepFiles& files) {
  ModelCatalog models(files);
  const Uses uses(plan);
  const auto configurations = configurations_of(plan);
  std::string text = plan.name + ": " + counted(std::ssize(configurations), "configuration") + ", " +
                     counted(std::ssize(plan.trials), "trial") + ", " + counted(std::ssize(plan.jobs), "job");
  if (plan.jobs.size() < uses.steps)
    text += " (" + counted(static_cast<std::int64_t>(uses.steps), "step") + ", of which " +
            std::to_string(uses.steps - plan.jobs.size()) + " share a job with another)";
  text += "\n\n";

  std::vector<std::vector<std::string>> rows{{"name", "repeats", "label"}};
  for (const std::string& path : plan.swept_paths) rows[0].push_back(path);
  for (const auto& [trial, names] : configurations) {
    rows.push_back({trial->configuration, std::to_string(names.size()), trial->label});
    for (const Json& value : trial->swept) rows.back().push_back(cell(value));
  }
  text += table(rows) + "\n" + job_table(plan, uses, models) + "\n" + pack_table(plan, models) + report_line(plan);
  if (!plan.notes.empty()) text += "\n";
  for (const std::string& note : plan.notes) text += "note: " + note + "\n";
  return text;
}

Json plan_json(const Plan& plan, SweepFiles& files) {
  ModelCatalog models(files);
  const Uses uses(plan);
  Json configurations = Json::array();
  for (const auto& [trial, names] : configurations_of(plan)) {
    Json swept = Json::object();
    for (std::size_t i = 0; i < plan.swept_paths.size(); ++i) swept[plan.swept_paths[i]] = trial->swept[i];
    configurations.push_back({{"name", trial->configuration},
                              {"label", trial->label},
                              {"repeats", names.size()},
                              {"swept", swept},
                              {"trials", names}});
  }
  Json jobs = Json::array();
  for (const Job& job : plan.jobs) {
    Json entry{{"id", job.id},
               {"title", job.title},
               {"kind", step_kind_name(job.kind)},
               {"trials", uses.trials.at(job.id)},
               {"inputs", job.inputs},
               {"settings", job.settings}};
    if (job.continues) entry["continues"] = *job.continues;
    if (const auto memory = estimate_memory(job, models))
      entry["memory_mb"] = {{"weights", memory->weights_mb},
                            {"gradients", memory->gradients_mb},
                            {"moments", memory->moments_mb},
                            {"activations", memory->activations_mb},
                            {"total", memory->total_mb()}};
    jobs.push_back(std::move(entry));
  }
  Json packs = Json::array();
  const PackSizes sizes = pack_sizes(plan.resources);
  for (const PlannedPack& pack : planned_packs(pack_traits(plan, models), sizes.on_gpu)) {
    Json members = Json::array();
    for (const std::size_t job : pack.jobs) members.push_back(plan.jobs[job].id);
    packs.push_back({{"jobs", std::move(members)}, {"tokens", pack.tokens}, {"memory_mb", pack.memory_mb}});
  }
  return Json{{"name", plan.name},
              {"configurations", std::move(configurations)},
              {"jobs", std::move(jobs)},
              {"packs", std::move(packs)},
              {"packs_on", sizes.on_cpu > 1   ? "cpu, gpu"
                           : sizes.on_gpu > 1 ? "gpu"
                                              : ""},
              {"report", Json(plan).at("report")},
              {"notes", plan.notes}};
}

}  // namespace finesweep::sweeps
