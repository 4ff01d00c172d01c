#include "sweeps/planner.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "sweeps/chains.h"
#include "sweeps/check.h"
#include "sweeps/descriptions.h"
#include "sweeps/expand.h"
#include "sweeps/job_hash.h"
#include "sweeps/resolve.h"

namespace finesweep::sweeps {

namespace {

/// Notes of configurations that are the same as another one; an axis of a setting that is dropped makes as many as
/// it has values.
constexpr std::size_t kMostMergesTold = 10;

/// A configuration that is run, after merging those that mean the same.
struct Configuration {
  std::string hash;  // 64 hex digits
  std::string label;
  bool labelled = false;
  std::vector<std::string> all_labels;  // of those merged into it, too
  Mark mark;
  bool may_be_baseline = false;  // by the paths of report.baseline
  std::vector<std::size_t> trials;
  int merged = 0;
};

bool same_json(const Json& a, const Json& b) {
  if (!a.is_array() || !b.is_array()) return a == b;
  Json x = a, y = b;
  std::sort(x.begin(), x.end());
  std::sort(y.begin(), y.end());
  return x == y;
}

/// All but the label.
bool matches_paths(const Matcher& matcher, const Resolved& resolved) {
  for (const auto& [target, value] : matcher.values)
    if (!same_json(resolved.value_of(target), value)) return false;
  for (const auto& [step, skip] : matcher.skips) {
    const bool runs = std::any_of(resolved.steps.begin(), resolved.steps.end(),
                                  [step = step](const ResolvedStep& other) { return other.index == step; });
    if (runs == skip) return false;
  }
  return true;
}

class Planner {
 public:
  Planner(const SweepDeclaration& declaration, ModelCatalog& models, DataCatalog& data, Diagnostics& diagnostics)
      : declaration_(declaration),
        models_(models),
        data_(data),
        diagnostics_(diagnostics),
        swept_values_(declaration),
        labels_(declaration),
        excluded_(declaration.excludes.size(), 0) {}

  Plan make(std::size_t most_trials) {
    plan_.name = declaration_.name;
    plan_.resources = declaration_.resources;
    for (const Target& target : declaration_.swept) plan_.swept_paths.push_back(target.path);
    const std::size_t configurations = count_configurations(declaration_);
    if (configurations > most_trials / static_cast<std::size_t>(declaration_.repeats)) {
      const std::string count = configurations == SIZE_MAX ? "too many" : std::to_string(configurations);
      diagnostics_.error(declaration_.repeats_mark, "sweep",
                         count + " configurations with " + std::to_string(declaration_.repeats) +
                             " repeats are more than the " + std::to_string(most_trials) + " trials of one sweep");
      return std::move(plan_);
    }
    for_each_configuration(declaration_, [this](RawConfiguration&& raw) { add(std::move(raw)); });
    for (std::size_t i = 0; i < excluded_.size(); ++i)
      if (excluded_[i] == 0)
        diagnostics_.warning(declaration_.excludes[i].mark, "sweep.exclude",
                             "matches no configuration: " + declaration_.excludes[i].text);
    if (configurations_.empty() && !diagnostics_.has_errors())
      diagnostics_.error(declaration_.excludes.front().mark, "sweep.exclude", "leaves no configuration");
    note_dropped();
    finish_labels();
    finish_names();
    form_chains(declaration_, plan_, chain_candidates_);
    report();
    return std::move(plan_);
  }

 private:
  void add(RawConfiguration&& raw) {
    const Resolved resolved = resolve(declaration_, raw.given, models_);
    Configuration configuration;
    std::vector<Json> swept = swept_values_.of(resolved);
    configuration.label = labels_.make(raw.label, swept);
    configuration.labelled = raw.labelled;
    configuration.mark = raw.mark;
    if (configuration.label.empty())
      configuration.label = declaration_.includes.empty() ? declaration_.name : "as written";
    if (is_excluded(resolved, configuration.label)) return;
    if (resolved.steps.empty())
      diagnostics_.error(raw.mark.line ? raw.mark : declaration_.pipeline_mark, "pipeline",
                         "every step of '" + configuration.label + "' is left out");
    check_configuration(declaration_, raw.given, resolved, models_, data_, diagnostics_);
    collect_yields(resolved);
    // A step of the pipeline that was not readable has no place here: nothing is run anyway.
    if (diagnostics_.has_errors() || !resolved.info) {
      remember_for_baseline(std::move(configuration), resolved);
      return;
    }
    const std::vector<JobDescription> descriptions = describe_jobs(declaration_, resolved, models_, data_);
    configuration.hash = hash_of(resolved, descriptions);
    if (const auto known = by_hash_.find(configuration.hash); known != by_hash_.end()) {
      merge(configurations_[known->second], configuration);
      return;
    }
    by_hash_[configuration.hash] = configurations_.size();
    for (const Dropped& dropped : resolved.dropped) {
      auto& [use, count] = dropped_[dropped.path];
      use = dropped.use;
      ++count;
    }
    const Configuration& added = remember_for_baseline(std::move(configuration), resolved);
    for (int repeat = 0; repeat < declaration_.repeats; ++repeat)
      add_trial(added.label, repeat, swept, resolved, descriptions);
  }

  bool is_excluded(const Resolved& resolved, const std::string& label) {
    bool excluded = false;
    for (std::size_t i = 0; i < declaration_.excludes.size(); ++i) {
      const Matcher& matcher = declaration_.excludes[i];
      if ((matcher.label && *matcher.label != label) || !matches_paths(matcher, resolved)) continue;
      ++excluded_[i];
      excluded = true;
    }
    return excluded;
  }

  const Configuration& remember_for_baseline(Configuration&& configuration, const Resolved& resolved) {
    configuration.may_be_baseline = declaration_.baseline && matches_paths(*declaration_.baseline, resolved);
    configuration.all_labels.push_back(configuration.label);
    return configurations_.emplace_back(std::move(configuration));
  }

  void merge(Configuration& first, Configuration& same) {
    ++first.merged;
    first.all_labels.push_back(same.label);
    if (same.labelled && !first.labelled) {
      first.label = same.label;
      first.labelled = true;
      first.mark = same.mark;
    }
  }

  void collect_yields(const Resolved& resolved) {
    task_ = resolved.task;
    for (const ResolvedStep& step : resolved.steps) {
      const std::string split = step.kind == StepKind::evaluate ? step.settings.at("split").get<std::string>() : "";
      for (const std::string& metric : metrics_of(step)) {
        const std::string name = step.name + "." + metric;
        if (yield_names_.insert(name).second)
          yields_.push_back({name, metric == "validation_loss" ? "validation" : split});
      }
    }
  }

  // ---- jobs -------------------------------------------------------------------------------------------------

  void add_trial(const std::string& label, int repeat, const std::vector<Json>& swept, const Resolved& resolved,
                 const std::vector<JobDescription>& descriptions) {
    Trial trial;
    trial.label = label;
    trial.repeat = repeat;
    trial.seed = repeat_seed(declaration_.seed, repeat);
    trial.swept = swept;
    // The job that left the model, and the one that left what its adapter stands on.
    std::optional<JobId> model, base;
    bool trained = false, adapter = false;
    for (std::size_t i = 0; i < descriptions.size(); ++i) {
      const ResolvedStep& step = resolved.steps[i];
      JobDescription description = descriptions[i];
      if (model) description.inputs = {*model};
      if (needs_seed(step, resolved, trained)) description.seed = trial.seed;
      if (step.kind == StepKind::benchmark) description.repeat = repeat;
      const std::string canonical = canonical_text(description);
      const JobId id = JobId::of(canonical);
      trial.steps.push_back({step.name, step.kind, id});
      if (job_index_.emplace(id, plan_.jobs.size()).second) {
        // The id of the model covers its base already.
        if (base && base != model) description.inputs.push_back(*base);
        add_job(id, description, step, resolved);
      }
      if (makes_model(step.kind)) model = id;
      adapter = leaves_adapter(step, adapter);
      if (leaves_base(step, adapter)) base = id;
      trained = trained || step.kind == StepKind::finetune || step.kind == StepKind::distill;
    }
    configurations_.back().trials.push_back(plan_.trials.size());
    plan_.trials.push_back(std::move(trial));
  }

  void add_job(const JobId& id, const JobDescription& description, const ResolvedStep& step,
               const Resolved& resolved) {
    Job job;
    job.id = id;
    job.kind = step.kind;
    job.settings = step.settings;
    job.context = Json{{"task", task_name(resolved.task)}, {"model", resolved.model}, {"data", resolved.data}};
    job.inputs = description.inputs;
    job.seed = description.seed;
    job.gpus = description.gpus;
    job.isolate = step.kind == StepKind::benchmark || step.settings.value("isolate", false);
    job.retries = declaration_.resources.retries;
    job.checkpoint_every_s = step.checkpoint_every_s;
    job.title = title_of(step);
    if (auto candidate = chain_candidate(declaration_, step, description))
      chain_candidates_.push_back({plan_.jobs.size(), *std::move(candidate)});
    plan_.jobs.push_back(std::move(job));
  }

  // ---- names, labels, notes ---------------------------------------------------------------------------------

  void note_dropped() {
    for (const auto& [path, dropped] : dropped_) {
      const auto& [use, count] = dropped;
      plan_.notes.push_back(path + " is dropped in " + std::to_string(count) + " of " +
                            std::to_string(configurations_.size()) + " configurations: only " +
                            std::string(use_phrase(use)) + " use" + (is_plural(use_phrase(use)) ? "" : "s") +
                            " it");
    }
    std::size_t merging = 0;
    for (const Configuration& configuration : configurations_)
      if (configuration.merged > 0 && ++merging <= kMostMergesTold)
        plan_.notes.push_back(std::to_string(configuration.merged) + " further configuration" +
                              (configuration.merged > 1 ? "s are" : " is") + " the same as '" +
                              configuration.label + "' and " + (configuration.merged > 1 ? "run" : "runs") +
                              " once with it");
    if (merging > kMostMergesTold)
      plan_.notes.push_back("so it is with " + std::to_string(merging - kMostMergesTold) + " more");
  }

  static bool is_plural(std::string_view phrase) {
    return phrase.starts_with("methods") || phrase.starts_with("decoder-only models") ||
           phrase.starts_with("metrics");
  }

  /// Every configuration gets a label of its own.
  void finish_labels() {
    std::map<std::string, const Configuration*> used;
    std::unordered_map<std::string, int> last_number;
    for (Configuration& configuration : configurations_) {
      auto [known, is_new] = used.emplace(configuration.label, &configuration);
      if (!is_new && configuration.labelled && known->second->labelled && !diagnostics_.has_errors())
        diagnostics_.error(configuration.mark, "label",
                           "'" + configuration.label + "' names two configurations that differ");
      if (!is_new) {
        int& number = last_number.try_emplace(configuration.label, 1).first->second;
        std::string label;
        do label = configuration.label + " #" + std::to_string(++number);
        while (!used.emplace(label, &configuration).second);
        configuration.label = label;
      }
      for (std::size_t trial : configuration.trials) plan_.trials[trial].label = configuration.label;
    }
  }

  /// 8 hex digits, or as many more as tell configurations apart.
  void finish_names() {
    std::map<std::string, std::vector<const Configuration*>> by_prefix;
    for (const Configuration& configuration : configurations_)
      by_prefix[configuration.hash.substr(0, 8)].push_back(&configuration);
    for (auto& [prefix, group] : by_prefix) {
      std::size_t digits = 8;
      for (std::set<std::string> names; names.size() < group.size() && digits < 64;) {
        names.clear();
        for (const Configuration* configuration : group) names.insert(configuration->hash.substr(0, digits));
        if (names.size() < group.size()) ++digits;
      }
      for (const Configuration* configuration : group)
        for (std::size_t index : configuration->trials) {
          Trial& trial = plan_.trials[index];
          trial.configuration = configuration->hash.substr(0, digits);
          trial.name = trial.configuration + "." + std::to_string(trial.repeat);
        }
    }
  }

  void report() {
    plan_.report = report_settings(declaration_, yields_, task_, diagnostics_);
    if (plan_.report.selects_on_test)
      plan_.notes.push_back("the best configuration is chosen on the test split (" + plan_.report.select +
                            "); set report.select to a metric of the validation split");
    if (!declaration_.baseline) return;
    const Matcher& baseline = *declaration_.baseline;
    std::vector<const Configuration*> matching;
    for (const Configuration& configuration : configurations_) {
      const bool label = !baseline.label || *baseline.label == configuration.label ||
                         std::find(configuration.all_labels.begin(), configuration.all_labels.end(),
                                   *baseline.label) != configuration.all_labels.end();
      if (label && configuration.may_be_baseline) matching.push_back(&configuration);
    }
    if (matching.size() == 1) {
      if (!matching[0]->trials.empty()) plan_.report.baseline = plan_.trials[matching[0]->trials[0]].configuration;
      return;
    }
    std::string labels;
    std::vector<std::string> all;
    for (const Configuration& configuration : configurations_) all.push_back(configuration.label);
    std::size_t shown = 0;
    auto next = matching.begin();  // in the order of the configurations
    for (const Configuration& configuration : configurations_) {
      if (!matching.empty() && (next == matching.end() || *next != &configuration)) continue;
      if (!matching.empty()) ++next;
      if (++shown <= 10) labels += (labels.empty() ? "" : ", ") + ("'" + configuration.label + "'");
    }
    if (shown > 10) labels += ", …";
    diagnostics_.error(
        baseline.mark, "report.baseline",
        matching.empty()
            ? "matches no configuration" + (baseline.label ? did_you_mean(*baseline.label, all) : std::string()) +
                  (labels.empty() ? "" : "\nthe configurations are " + labels)
            : "must match one configuration, but matches " + std::to_string(matching.size()) + ": " + labels);
  }

  const SweepDeclaration& declaration_;
  ModelCatalog& models_;
  DataCatalog& data_;
  Diagnostics& diagnostics_;
  SweptValues swept_values_;
  LabelMaker labels_;
  Plan plan_;
  std::vector<Configuration> configurations_;
  std::unordered_map<std::string, std::size_t> by_hash_;
  std::unordered_map<JobId, std::size_t> job_index_;
  std::vector<std::pair<std::size_t, ChainCandidate>> chain_candidates_;
  std::vector<int> excluded_;
  std::map<std::string, std::pair<Use, int>> dropped_;
  std::set<std::string> yield_names_;
  std::vector<std::pair<std::string, std::string>> yields_;
  Task task_ = Task::classification;
};

}  // namespace

Plan make_plan(const SweepDeclaration& declaration, ModelCatalog& models, DataCatalog& data,
               std::size_t most_trials, Diagnostics& diagnostics) {
  return Planner(declaration, models, data, diagnostics).make(most_trials);
}

}  // namespace finesweep::sweeps
