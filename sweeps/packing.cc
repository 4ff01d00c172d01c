#include "sweeps/packing.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <map>
#include <set>
#include <string>
#include <unordered_map>

#include "jobs/settings.h"
#include "sweeps/memory.h"

namespace finesweep::sweeps {

namespace {

// What `pack: auto` stops at: past so many jobs the work on each alone, and what a crash costs, outweigh the gain.
constexpr int kMostJobs = 32;
constexpr std::int64_t kReferenceTokens = 4096, kReferenceWidth = 768;
// A pass of an evaluation has no way back: its tokens cost a third, while what it costs besides, the host that
// waits for each result among it, is no less.
constexpr std::int64_t kEvaluatedTokens = 3;

class Packing {
 public:
  Packing(const Plan& plan, ModelCatalog& models) : plan_(plan), models_(models) {
    for (const Job& job : plan.jobs) jobs_[job.id] = &job;
    for (const Trial& trial : plan.trials)
      for (const TrialStep& step : trial.steps)
        if (is_measured_alone(step.name)) measured_.insert(step.job);
  }

  std::vector<PackTraits> traits() {
    std::vector<PackTraits> traits;
    const bool chosen_by_gain = plan_.resources.pack == "auto";
    for (const Job& job : plan_.jobs) {
      PackTraits& one = traits.emplace_back();
      if (job.isolate || job.gpus > 1 || measured_.contains(job.id)) continue;
      const std::string shared = shared_by_pack(job);
      const ModelInfo* model = shared.empty() ? nullptr : base_of(job);
      if (!model) continue;
      one.tokens = job.settings.at("batch_size").get<std::int64_t>() * bucket(job);
      const std::int64_t saturating =
          saturating_tokens(model->hidden) * (job.kind == StepKind::evaluate ? kEvaluatedTokens : 1);
      if (chosen_by_gain && one.tokens >= saturating) continue;
      one.key = keys_.emplace(shared, static_cast<int>(keys_.size())).first->second;
      if (chosen_by_gain) one.most_tokens = 2 * saturating;
      const MemoryEstimate memory = estimate_memory_over(job, *model);
      one.shared_mb = memory.weights_mb;
      one.own_mb = memory.total_mb() - memory.weights_mb + adapter_mb(job, *model);
    }
    return traits;
  }

 private:
  /// The report compares what a pack would change.
  bool is_measured_alone(const std::string& step) const {
    for (const std::string& metric : {plan_.report.metric, plan_.report.select}) {
      if (!metric.starts_with(step + ".")) continue;
      for (const char* word : {"seconds", "_ms", "per_second", "memory"})
        if (metric.find(word, step.size()) != std::string::npos) return true;
    }
    return false;
  }

  /// What the jobs of a pack have in common, as text. Empty: the job shares none.
  std::string shared_by_pack(const Job& job) {
    if (job.kind == StepKind::finetune) return shared_by_trainings(job);
    if (job.kind == StepKind::evaluate) return shared_by_evaluations(job);
    return "";
  }

  std::string shared_by_trainings(const Job& job) const {
    if (job.settings.value("method", "full") == "full" || job.continues || job.settings.contains("prune"))
      return "";
    if (!job.inputs.empty() && leaves_adapter(job.inputs.front())) return "";
    return shared(job, job.inputs.empty() ? job.context.at("model") : Json(job.inputs));
  }

  std::string shared_by_evaluations(const Job& job) const {
    const auto settings = read_evaluate_settings(job.settings);
    if (!settings || settings->profile || wants_generation(*settings)) return "";
    const Json adapter = base_of_adapter(job);
    return adapter.is_null() ? "" : shared(job, adapter);
  }

  static std::string shared(const Job& job, const Json& base) {
    Json all{{"kind", step_kind_name(job.kind)},
             {"base", base},
             {"task", job.context.at("task")},
             {"bucket", bucket(job)}};
    if (const auto data = job.context.find("data"); data != job.context.end())
      if (const auto labels = data->find("labels"); labels != data->end()) all["labels"] = *labels;
    for (const char* key : {"method", "precision", "double", "block_size", "compute", "attention", "dropout",
                            "model_dropout", "pooling", "gradient_checkpointing"})
      if (const auto value = job.settings.find(key); value != job.settings.end()) all[key] = *value;
    return all.dump();
  }

  /// The training that made the adapter which is the job's first input, as it is or pruned since; null where that
  /// is no adapter, or has a base of its own beside it.
  const Job* adapter_training(const Job& job) const {
    const Job* source = &job;
    do {
      const auto input = source->inputs.empty() ? jobs_.end() : jobs_.find(source->inputs.front());
      if (input == jobs_.end()) return nullptr;
      source = input->second;
    } while (source->kind == StepKind::prune && source->settings.value("target", "") == "adapter");
    const bool trains = source->kind == StepKind::finetune && source->settings.value("method", "full") != "full";
    return trains ? source : nullptr;
  }

  /// What the adapter that the job reads stands on, and how that is kept; null where adapter_training is.
  Json base_of_adapter(const Job& job) const {
    const Job* training = adapter_training(job);
    while (training != nullptr && !training->inputs.empty() && leaves_adapter(training->inputs.front()))
      training = adapter_training(*training);  // which it goes on with
    if (training == nullptr) return {};
    Json base = Json::array({training->inputs.empty() ? training->context.at("model") : Json(training->inputs)});
    if (training->settings.at("method") == "qlora")
      for (const char* key : {"double", "block_size", "compute"}) base.push_back(training->settings.at(key));
    return base;
  }

  /// Of an evaluation, which estimates leave out: the adapter as it was read and among those of the pack. Of a
  /// training that its weights are as large as their gradients.
  double adapter_mb(const Job& job, const ModelInfo& model) const {
    const Job* training = job.kind == StepKind::evaluate ? adapter_training(job) : nullptr;
    const double bytes_each = training != nullptr ? 8 : 4;
    return bytes_each * static_cast<double>(trained_parameters(training != nullptr ? *training : job, model)) / 1e6;
  }

  /// The artifact is an adapter, or has one with it.
  bool leaves_adapter(const JobId& id) const {
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return true;
    const Job& job = *found->second;
    switch (job.kind) {
      case StepKind::finetune:
        return job.settings.value("method", "full") != "full";
      case StepKind::prune:
      case StepKind::quantize:
        return !job.inputs.empty() && leaves_adapter(job.inputs.front());
      default:
        return false;
    }
  }

  /// The model that the job's base has come from, or one that is no smaller; null where none can be read.
  const ModelInfo* base_of(const Job& job) {
    const Job* source = &job;
    while (!source->inputs.empty() && source->kind != StepKind::distill) {
      const auto input = jobs_.find(source->inputs.front());
      if (input == jobs_.end()) return nullptr;
      source = input->second;
    }
    std::string path = source->context.value("model", "");
    if (const auto student = source->settings.find("student"); student != source->settings.end())
      path = student->is_string() ? student->get<std::string>() : source->settings.value("teacher", "");
    const auto& model = models_.get(path);
    return model && !model->tensors.empty() && model->hidden > 0 ? &*model : nullptr;
  }

  /// The length to which rows are padded.
  static std::int64_t bucket(const Job& job) {
    const auto length = job.settings.at("sequence_length").get<std::uint64_t>();
    return static_cast<std::int64_t>(std::bit_ceil(length));
  }

  const Plan& plan_;
  ModelCatalog& models_;
  std::unordered_map<JobId, const Job*> jobs_;
  std::set<JobId> measured_;
  std::map<std::string, int> keys_;
};

}  // namespace

PackSizes pack_sizes(const Resources& resources) {
  if (resources.pack == "auto") return {kMostJobs, 1};
  int jobs = 1;  // what "off" leaves it at
  std::from_chars(resources.pack.data(), resources.pack.data() + resources.pack.size(), jobs);
  return {std::max(1, jobs), std::max(1, jobs)};
}

std::int64_t saturating_tokens(std::int64_t width) {
  return std::max<std::int64_t>(1, kReferenceTokens * kReferenceWidth / std::max<std::int64_t>(1, width));
}

std::vector<PackTraits> pack_traits(const Plan& plan, ModelCatalog& models) {
  return Packing(plan, models).traits();
}

std::vector<PlannedPack> planned_packs(const std::vector<PackTraits>& traits, int most_jobs) {
  struct Open {
    PlannedPack pack;
    PackFill fill;
  };
  std::vector<PlannedPack> packs;
  std::map<int, Open> open;  // by key
  const auto close = [&](Open& done) {
    if (done.pack.jobs.size() < 2) return;
    done.pack.tokens = done.fill.tokens();
    done.pack.memory_mb = done.fill.memory_mb();
    packs.push_back(std::move(done.pack));
  };
  for (std::size_t job = 0; job < traits.size(); ++job) {
    if (traits[job].key < 0 || most_jobs < 2) continue;
    const auto [entry, is_new] = open.try_emplace(traits[job].key, Open{{}, PackFill(most_jobs, 0)});
    Open& current = entry->second;
    if (!current.fill.admits(traits[job])) {
      close(current);
      current = {{}, PackFill(most_jobs, 0)};
    }
    current.fill.add(traits[job]);
    current.pack.jobs.push_back(job);
  }
  for (auto& [key, rest] : open) close(rest);
  std::ranges::sort(packs, {}, [](const PlannedPack& pack) { return pack.jobs.front(); });
  return packs;
}

}  // namespace finesweep::sweeps
