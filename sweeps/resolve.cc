#include "sweeps/resolve.h"

#include <algorithm>
#include <map>
#include <utility>

namespace finesweep::sweeps {

namespace {

struct Key {
  std::string_view name;
  std::vector<const Setting*> rows;  // alternatives
};

/// The rows of a section, grouped by key.
const std::vector<Key>& keys_of(Section section) {
  static const auto tables = [] {
    std::map<Section, std::vector<Key>> all;
    for (std::uint32_t bit = 0; bit < 12; ++bit) {
      const auto one = static_cast<Section>(1u << bit);
      std::vector<Key>& keys = all[one];
      for (const Setting& setting : settings_table()) {
        if (!setting.in(one)) continue;
        auto found =
            std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return key.name == setting.key; });
        if (found == keys.end()) found = keys.insert(keys.end(), Key{setting.key, {}});
        found->rows.push_back(&setting);
      }
    }
    return all;
  }();
  return tables.at(section);
}

Json default_of(const Setting& setting) {
  return Json::parse(setting.fallback);
}

void set_nested(Json& object, std::string_view key, Json value) {
  Json* node = &object;
  for (std::size_t dot; (dot = key.find('.')) != std::string_view::npos; key.remove_prefix(dot + 1))
    node = &(*node)[std::string(key.substr(0, dot))];
  (*node)[std::string(key)] = std::move(value);
}

const Json* find_nested(const Json& object, std::string_view key) {
  const Json* node = &object;
  while (true) {
    const std::size_t dot = key.find('.');
    if (!node->is_object()) return nullptr;
    const auto found = node->find(std::string(key.substr(0, dot)));
    if (found == node->end()) return nullptr;
    node = &*found;
    if (dot == std::string_view::npos) return node;
    key.remove_prefix(dot + 1);
  }
}

Json sorted(Json list) {
  std::sort(list.begin(), list.end());
  return list;
}

class Resolver {
 public:
  Resolver(const SweepDeclaration& declaration, const Given& given, ModelCatalog& models)
      : declaration_(declaration), given_(given), models_(models) {}

  Resolved resolve() {
    if (const Json* task = find("task")) out_.task = *parse_task(task->get<std::string>());
    if (const Json* model = find("model")) {
      out_.model = model->get<std::string>();
      if (const auto& info = models_.get(out_.model)) out_.info = &*info;
    }
    resolve_data();
    for (std::size_t i = 0; i < declaration_.steps.size(); ++i)
      if (!given_.skipped[i]) out_.steps.push_back(resolve_step(i));
    for (std::size_t i = 0; i < out_.steps.size(); ++i) embed_following(i);
    return std::move(out_);
  }

 private:
  const Json* find(const std::string& path) const {
    const auto found = given_.values.find(path);
    return found == given_.values.end() ? nullptr : &found->second.value;
  }

  /// Adds every setting of a section that a step with these facts uses: to `settings` what is part of the job's id,
  /// to `scheduling` what is not.
  void fill(Json& settings, Json& scheduling, Section section, const std::string& head, const StepFacts& facts) {
    for (const Key& key : keys_of(section)) {
      if (key.rows.front()->type == ValueType::structure || key.name == "name") continue;
      const auto row = std::find_if(key.rows.begin(), key.rows.end(),
                                    [&](const Setting* candidate) { return is_used(candidate->use, facts); });
      const std::string path = head + "." + std::string(key.name);
      const Json* given = find(path);
      if (row == key.rows.end()) {
        if (given) out_.dropped.push_back({path, key.rows.front()->use});
        continue;
      }
      Json& into = (*row)->in_hash ? settings : scheduling;
      if (given)
        set_nested(into, key.name, *given);
      else if (const Json* inherited = (*row)->inherited ? inherited_value(std::string(key.name)) : nullptr)
        into[std::string(key.name)] = *inherited;
      else if (!(*row)->fallback.empty())
        set_nested(into, key.name, default_of(**row));
    }
    // A default never asks for more than the model has.
    if (settings.contains("sequence_length") && !find(head + ".sequence_length") && out_.info &&
        out_.info->positions) {
      const bool decodes = facts.generate_mode && facts.decoder_only;
      const std::int64_t most =
          *out_.info->positions - (decodes ? settings.at("new_tokens").get<std::int64_t>() : 0);
      Json& length = settings["sequence_length"];
      length = std::min(length.get<std::int64_t>(), std::max(most, std::int64_t{2}));
    }
  }

  /// Of the training step before, where there is one. Weights that were brought to fp16 or bf16 since are computed
  /// with in that precision.
  const Json* inherited_value(const std::string& key) const {
    for (auto step = out_.steps.rbegin(); step != out_.steps.rend(); ++step)
      if (key == "precision" && step->kind == StepKind::quantize &&
          (step->facts.format == "fp16" || step->facts.format == "bf16"))
        return &step->settings.at("format");
      else if (step->kind == StepKind::finetune || step->kind == StepKind::distill)
        return of_training(step->settings, key);
    return nullptr;
  }

  /// A base in FP8 is a way to train an adapter; what it has become part of is computed with in bf16.
  static const Json* of_training(const Json& settings, const std::string& key) {
    static const Json bf16 = "bf16";
    const Json* value = find_nested(settings, key);
    return key == "precision" && value != nullptr && *value == "fp8_base" ? &bf16 : value;
  }

  StepFacts facts() const {
    StepFacts facts;
    facts.task = out_.task;
    facts.decoder_only = out_.info ? out_.info->decoder_only() : out_.task == Task::causal_lm;
    facts.source_target = out_.source_target;
    return facts;
  }

  void resolve_data() {
    const bool pair = find("data.fields.text_a") || find("data.fields.text_b");
    out_.source_target = out_.task == Task::seq2seq || (out_.task == Task::causal_lm &&
                                                        (find("data.fields.source") || find("data.fields.target")));
    Json scheduling;
    fill(out_.data, scheduling, Section::data, "data", facts());
    // The fields of the task; others that are named (for a task on another axis value) are not used.
    Json fields = Json::object();
    auto use = [&](const char* name, const char* fallback) {
      const Json* given = find(std::string("data.fields.") + name);
      if (given || *fallback) fields[name] = given ? *given : Json(fallback);
    };
    if (out_.source_target) {
      use("source", "source");
      use("target", "target");
    } else if (out_.task == Task::classification && pair) {
      use("text_a", "");
      use("text_b", "");
    } else {
      use("text", "text");
    }
    if (out_.task == Task::classification) use("label", "label");
    out_.data["fields"] = std::move(fields);
    out_.data["limit_seed"] = declaration_.seed;
  }

  ResolvedStep resolve_step(std::size_t index) {
    const StepDeclaration& declared = declaration_.steps[index];
    ResolvedStep step;
    step.index = static_cast<int>(index);
    step.kind = declared.kind;
    step.name = declared.name;
    step.facts = facts();
    gather_facts(step);
    const Section section = section_of(step.kind);
    Json scheduling = Json::object();
    fill(step.settings, scheduling, section, step.name, step.facts);
    step.checkpoint_every_s = scheduling.value("checkpoint_every", step.checkpoint_every_s);
    switch (step.kind) {
      case StepKind::finetune:
      case StepKind::distill:
        finish_training(step);
        break;
      case StepKind::prune:
        if (!step.settings.contains("target")) step.settings["target"] = has_adapter() ? "adapter" : "model";
        break;
      case StepKind::evaluate:
        finish_evaluate(step);
        break;
      default:
        break;
    }
    return step;
  }

  /// What decides which settings count; read before all others.
  void gather_facts(ResolvedStep& step) const {
    auto setting = [&](std::string_view key) {
      const Json* given = find(step.name + "." + std::string(key));
      const Setting* row = find_setting(section_of(step.kind), key);
      return given ? *given : row->fallback.empty() ? Json() : default_of(*row);
    };
    switch (step.kind) {
      case StepKind::finetune:
        step.facts.method = setting("method").get<std::string>();
        break;
      case StepKind::quantize:
        step.facts.format = setting("format").get<std::string>();
        break;
      case StepKind::benchmark: {
        const Json modes = setting("mode");
        step.facts.generate_mode = std::find(modes.begin(), modes.end(), "generate") != modes.end();
        break;
      }
      case StepKind::evaluate:
        for (const std::string& metric : metrics_of(step.name))
          step.facts.generates = step.facts.generates || metric_needs_generation(metric);
        step.facts.samples = setting("generation.do_sample").get<bool>();
        break;
      default:
        break;
    }
  }

  std::vector<std::string> metrics_of(const std::string& step) const {
    const Json* given = find(step + ".metrics");
    return given ? given->get<std::vector<std::string>>()
                 : default_evaluation_metrics(out_.task, out_.source_target);
  }

  bool has_adapter() const {
    for (auto step = out_.steps.rbegin(); step != out_.steps.rend(); ++step) {
      if (step->kind == StepKind::merge || step->kind == StepKind::distill) return false;
      if (step->kind == StepKind::finetune) return step->facts.method != "full";
    }
    return false;
  }

  void finish_training(ResolvedStep& step) {
    Json& settings = step.settings;
    if (!settings.contains("epochs") && !settings.contains("steps")) settings["epochs"] = 3;
    if (step.facts.method == "qlora" && !settings.contains("compute"))
      settings["compute"] = settings.at("precision");
    if (step.kind == StepKind::finetune && step.facts.method != "full" && out_.info) {
      // Named or default, in any order: the same adapter has the same id.
      const std::string& family = out_.info->family;
      const bool ia3 = step.facts.method == "ia3";
      const bool named = settings.contains("targets");
      if (!named) settings["targets"] = ia3 ? default_ia3_targets(family) : default_lora_targets(family);
      if (ia3 && !settings.contains("feedforward_targets") && !named)
        settings["feedforward_targets"] = Json::array({default_ia3_targets(family).back()});
    }
    for (const char* list : {"targets", "feedforward_targets"})
      if (settings.contains(list)) settings[list] = sorted(settings[list]);
  }

  void finish_evaluate(ResolvedStep& step) {
    step.settings["metrics"] = metrics_of(step.name);
    if (out_.task != Task::classification) return;
    const Json* pooling = inherited_value("pooling");
    step.settings["pooling"] = pooling ? *pooling : Json("cls");
  }

  /// What a training step takes from the steps after it: the settings of the next evaluation, and masks.
  void embed_following(std::size_t i) {
    ResolvedStep& step = out_.steps[i];
    if (step.kind != StepKind::finetune && step.kind != StepKind::distill) return;
    if (i + 1 < out_.steps.size() && out_.steps[i + 1].kind == StepKind::prune &&
        out_.steps[i + 1].settings.at("when") == "before")
      step.settings["prune"] = out_.steps[i + 1].settings;
    if (!step.settings.contains("evaluate_every")) return;
    const auto next = std::find_if(out_.steps.begin() + static_cast<std::ptrdiff_t>(i), out_.steps.end(),
                                   [](const ResolvedStep& other) { return other.kind == StepKind::evaluate; });
    Json evaluation;
    if (next != out_.steps.end()) {
      evaluation = next->settings;
    } else {
      // No evaluation follows: one with the defaults.
      ResolvedStep standard;
      standard.kind = StepKind::evaluate;
      standard.name = " ";  // no path begins with it
      standard.facts = facts();
      gather_facts(standard);
      std::vector<ResolvedStep> later(out_.steps.begin() + static_cast<std::ptrdiff_t>(i) + 1, out_.steps.end());
      out_.steps.resize(i + 1);
      Json scheduling;
      fill(standard.settings, scheduling, Section::evaluate, standard.name, standard.facts);
      finish_evaluate(standard);
      for (ResolvedStep& other : later) out_.steps.push_back(std::move(other));
      evaluation = std::move(standard.settings);
    }
    evaluation["split"] = "validation";
    evaluation.erase("profile");  // of that step alone: training is the same with and without
    out_.steps[i].settings["evaluation"] = std::move(evaluation);
  }

  const SweepDeclaration& declaration_;
  const Given& given_;
  ModelCatalog& models_;
  Resolved out_;
};

}  // namespace

Json Resolved::value_of(const Target& target) const {
  if (target.section == Section::top) return target.key == "task" ? Json(task_name(task)) : Json(model);
  if (target.section == Section::data) {
    const Json* value = find_nested(data, target.key);
    return value ? *value : Json();
  }
  const auto step = std::find_if(steps.begin(), steps.end(),
                                 [&](const ResolvedStep& other) { return other.index == target.step; });
  if (target.kind == Target::Kind::step) return step == steps.end() ? "skip" : "run";
  if (step == steps.end()) return Json();
  const Json* value = find_nested(step->settings, target.key);
  return value ? *value : Json();
}

Resolved resolve(const SweepDeclaration& declaration, const Given& given, ModelCatalog& models) {
  return Resolver(declaration, given, models).resolve();
}

}  // namespace finesweep::sweeps
