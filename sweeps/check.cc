#include "sweeps/check.h"

#include <algorithm>
#include <limits>

#include "sweeps/check_order.h"

namespace finesweep::sweeps {

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

bool is_training(StepKind kind) {
  return kind == StepKind::finetune || kind == StepKind::distill;
}

class Checker {
 public:
  Checker(const SweepDeclaration& declaration, const Given& given, const Resolved& resolved, ModelCatalog& models,
          DataCatalog& data, Diagnostics& diagnostics)
      : declaration_(declaration),
        given_(given),
        resolved_(resolved),
        models_(models),
        data_(data),
        diagnostics_(diagnostics) {}

  void check() {
    check_model();
    check_files();
    if (!is_given("task")) return;  // reported; everything else depends on it
    check_fields();
    bool quantized = false, adapter = false;
    const ResolvedStep* training = nullptr;  // of the adapter
    const ModelInfo* info = resolved_.info;
    for (std::size_t i = 0; i < resolved_.steps.size(); ++i) {
      const ResolvedStep& step = resolved_.steps[i];
      check_splits(step);
      for (const StepProblem& problem : problems_after({adapter, quantized, training}, step))
        error_at_step(step, problem.key, problem.message);
      switch (step.kind) {
        case StepKind::distill:
          info = check_distill(step, info);
          quantized = adapter = false;
          check_training(step, info);
          break;
        case StepKind::finetune:
          check_method(step, info);
          check_training(step, info);
          adapter = step.facts.method != "full";
          training = adapter ? &step : nullptr;
          quantized = quantized || step.facts.method == "qlora";
          break;
        case StepKind::prune:
          check_prune(step, i);
          break;
        case StepKind::quantize:
          if (step.facts.format == "nf4") check_block_size(step);
          quantized = quantized || step.facts.format == "nf4" || step.facts.format == "int8";
          break;
        case StepKind::merge:
          adapter = quantized = false;  // merged weights are in full precision
          break;
        case StepKind::evaluate:
          check_evaluate(step, info, i);
          break;
        case StepKind::benchmark:
          check_benchmark(step, info, i, quantized && !adapter);
          break;
      }
    }
  }

 private:
  /// At the value of `key` where it is given, else at the step.
  void error_at_step(const ResolvedStep& step, const std::string& key, std::string message) {
    const std::string path = key.empty() ? step.name : step.name + "." + key;
    const auto given = given_.values.find(path);
    const Mark mark = given != given_.values.end() ? given->second.mark
                                                   : declaration_.steps[static_cast<std::size_t>(step.index)].mark;
    diagnostics_.error(mark, path, std::move(message));
  }

  bool is_given(const std::string& path) const { return given_.values.contains(path); }

  Mark mark_of(const std::string& path, Mark otherwise) const {
    const auto found = given_.values.find(path);
    return found == given_.values.end() ? otherwise : found->second.mark;
  }

  void check_model() {
    if (!is_given("model")) return;
    const Mark mark = mark_of("model", {});
    const auto& info = models_.get(resolved_.model);
    if (!info) {
      diagnostics_.error(mark, "model", info.error().message);
    } else if (!info->supports(resolved_.task) && is_given("task")) {
      const std::string can = info->family == "t5"   ? "seq2seq"
                              : info->decoder_only() ? "causal_lm or classification"
                                                     : "classification";
      diagnostics_.error(mark_of("task", mark), "task",
                         "a " + info->family + " model cannot do " + std::string(task_name(resolved_.task)) +
                             "; it can do " + can);
    }
  }

  void check_fields() {
    const auto fields_given = [&](const char* name) { return is_given(std::string("data.fields.") + name); };
    const bool task_swept = std::any_of(declaration_.swept.begin(), declaration_.swept.end(),
                                        [](const Target& t) { return t.path == "task"; });
    auto mismatch = [&](const char* name, const std::string& message) {
      diagnostics_.error(mark_of(std::string("data.fields.") + name, declaration_.data_mark),
                         std::string("data.fields.") + name, message);
    };
    const std::string task(task_name(resolved_.task));
    if (resolved_.task == Task::classification && fields_given("text_a") != fields_given("text_b"))
      mismatch(fields_given("text_a") ? "text_a" : "text_b", "a pair needs both text_a and text_b");
    if (resolved_.task == Task::classification && fields_given("text") && fields_given("text_a"))
      mismatch("text", "give either text, or text_a and text_b");
    if (resolved_.task == Task::causal_lm && fields_given("source") != fields_given("target"))
      mismatch(fields_given("source") ? "source" : "target", "source and target belong together");
    if (resolved_.task == Task::causal_lm && fields_given("source") && fields_given("text"))
      mismatch("text", "give either text, or source and target");
    if (!task_swept)
      for (const char* name : {"text", "text_a", "text_b", "source", "target", "label"})
        if (fields_given(name) && !allowed_field(name))
          mismatch(name, "task " + task + " has no such field; it reads " +
                             (resolved_.task == Task::classification ? "text (or text_a and text_b) and label"
                              : resolved_.task == Task::seq2seq      ? "source and target"
                                                                     : "text, or source and target"));
    if (const auto prompt = resolved_.data.find("prompt"); prompt != resolved_.data.end()) {
      const std::string& text = prompt->get_ref<const std::string&>();
      const std::size_t source = text.find("{source}");
      if (source == std::string::npos || source != text.rfind("{source}"))
        diagnostics_.error(mark_of("data.prompt", declaration_.data_mark), "data.prompt",
                           "must hold {source} once, where the source is put");
    }
  }

  bool allowed_field(std::string_view name) const {
    switch (resolved_.task) {
      case Task::classification:
        return name == "text" || name == "text_a" || name == "text_b" || name == "label";
      case Task::causal_lm:
        return name == "text" || name == "source" || name == "target";
      case Task::seq2seq:
        return name == "source" || name == "target";
    }
    return false;
  }

  /// Every file that is named must be good, whether a step uses it or not.
  void check_files() {
    for (const char* split : {"train", "validation", "test"}) {
      const std::string path = std::string("data.") + split;
      const auto file = resolved_.data.find(split);
      if (file == resolved_.data.end()) continue;
      const auto& info = data_.get(file->get_ref<const std::string&>());
      if (!info) diagnostics_.error(mark_of(path, {}), path, info.error().message);
    }
  }

  void check_splits(const ResolvedStep& step) {
    for (const std::string& split : splits_of(step, resolved_.data)) {
      const auto file = resolved_.data.find(split);
      if (file == resolved_.data.end()) {
        const char* key = step.kind == StepKind::evaluate ? "split" : split == "validation" ? "evaluate_every" : "";
        if (!declaration_.broken.contains("data"))
          error_at_step(step, key, "uses the " + split + " rows, but data." + split + " is not given");
        continue;
      }
      const auto& info = data_.get(file->get_ref<const std::string&>());
      if (!info) continue;
      if (info->is_plain_text && (resolved_.task != Task::causal_lm || resolved_.source_target))
        diagnostics_.error(mark_of("data." + split, declaration_.data_mark), "data." + split,
                           "a .txt file is plain text, for task causal_lm without source and target; rows with "
                           "fields stand in a .jsonl, .csv or .tsv file");
      else if (!info->fields.empty())
        check_row_fields(split, *info);
    }
  }

  void check_row_fields(const std::string& split, const DataInfo& info) {
    for (const auto& [role, name] : resolved_.data.at("fields").items()) {
      const std::string& field = name.get_ref<const std::string&>();
      if (std::find(info.fields.begin(), info.fields.end(), field) != info.fields.end()) continue;
      const std::string path = "data.fields." + role;
      const bool given = is_given(path);
      const std::string fields = "\ntheir fields are " + joined(info.fields);
      if (given)
        diagnostics_.error(mark_of(path, {}), path,
                           "the rows have no field '" + field + "'" + did_you_mean(field, info.fields) + fields);
      else
        diagnostics_.error(
            mark_of("data." + split, declaration_.data_mark), "data." + split,
            "the rows have no field '" + field + "'; say with data.fields." + role + " which field it is" + fields);
    }
  }

  void check_length(const ResolvedStep& step, const ModelInfo* info, std::int64_t more = 0) {
    if (!info || !info->positions) return;
    const auto length = step.settings.at("sequence_length").get<std::int64_t>();
    if (length + more <= *info->positions) return;
    const std::string what =
        std::to_string(length) + " tokens" + (more ? " and " + std::to_string(more) + " new ones are" : " are");
    error_at_step(step, "sequence_length",
                  what + " more than the " + std::to_string(*info->positions) + " positions of the model");
  }

  void check_training(const ResolvedStep& step, const ModelInfo* info) { check_length(step, info); }

  void check_block_size(const ResolvedStep& step) {
    const auto size = step.settings.at("block_size").get<std::int64_t>();
    if ((size & (size - 1)) != 0)
      error_at_step(step, "block_size", "expected a power of two, got " + std::to_string(size));
  }

  void check_method(const ResolvedStep& step, const ModelInfo* info) {
    const std::string& method = step.facts.method;
    if (method == "qlora") check_block_size(step);
    if (step.settings.at("precision") == "fp8_base" && (method == "full" || method == "qlora"))
      error_at_step(step, "precision",
                    method == "full"
                        ? "all weights are trained, none of them can stand in FP8; use bf16, or method lora"
                        : "the base of qlora is in NF4, not in FP8; use bf16, or method lora");
    if (method == "full" || !info || info->tensors.empty()) return;
    // The default follows from the sweep's model: where that cannot be read, which is reported, there is none.
    if (!step.settings.contains("targets")) return;
    std::int64_t width = std::numeric_limits<std::int64_t>::max();
    std::string narrowest;
    const auto targets = step.settings.at("targets").get<std::vector<std::string>>();
    for (const std::string& target : targets) {
      const auto layers = info->layers_named(target);
      if (layers.empty())
        error_at_step(step, "targets",
                      "the model has no layer '" + target + "'" + did_you_mean(target, info->layer_names()) +
                          "\nits layers are " + joined(info->layer_names()));
      for (const ModelInfo::Tensor* layer : layers) {
        const std::int64_t least = std::min(layer->shape[0], layer->shape[1]);
        if (least < width) narrowest = target;
        width = std::min(width, least);
      }
    }
    if (method != "ia3") {
      const auto rank = step.settings.at("rank").get<std::int64_t>();
      if (!narrowest.empty() && rank > width)
        error_at_step(step, "rank",
                      "rank " + std::to_string(rank) + " is above the width " + std::to_string(width) +
                          " of layer '" + narrowest + "'");
    }
    if (method == "ia3" && step.settings.contains("feedforward_targets"))
      for (const Json& target : step.settings["feedforward_targets"])
        if (std::find(targets.begin(), targets.end(), target.get<std::string>()) == targets.end())
          error_at_step(step, "feedforward_targets",
                        "'" + target.get<std::string>() + "' is not among the targets");
  }

  /// What a teacher says of a token is of use only to a student that has the same one.
  void check_same_vocabulary(const ResolvedStep& step, const ModelInfo* teacher, const ModelInfo* student) {
    if (!teacher || !student || teacher->vocabulary == student->vocabulary) return;
    error_at_step(step, "teacher",
                  "has a vocabulary of " + std::to_string(teacher->vocabulary) + " tokens and the student of " +
                      std::to_string(student->vocabulary) + "; choose models with the same tokenizer");
  }

  /// The model that comes out of the step.
  const ModelInfo* check_distill(const ResolvedStep& step, const ModelInfo* before) {
    const auto teacher_path = step.settings.find("teacher");
    const ModelInfo* teacher = nullptr;
    if (teacher_path == step.settings.end()) {
      error_at_step(step, "teacher", "missing; expected a path");
    } else {
      const auto& info = models_.get(teacher_path->get_ref<const std::string&>());
      if (!info)
        error_at_step(step, "teacher", info.error().message);
      else
        teacher = &*info;
    }
    const auto student = step.settings.find("student");
    if (student == step.settings.end()) {
      check_same_vocabulary(step, teacher, before);
      return before;
    }
    if (student->is_string()) {
      const auto& info = models_.get(student->get_ref<const std::string&>());
      if (info) {
        check_same_vocabulary(step, teacher, &*info);
        return &*info;
      }
      error_at_step(step, "student", info.error().message);
      return nullptr;
    }
    const auto layers = student->value("layers", std::int64_t{0});
    if (teacher && layers > teacher->layers)
      error_at_step(step, "student.layers", "the teacher has " + std::to_string(teacher->layers) + " layers only");
    return teacher;
  }

  void check_prune(const ResolvedStep& step, std::size_t i) {
    if (step.settings.at("when") != "before") return;
    const bool follows = i > 0 && resolved_.steps[i - 1].kind == StepKind::finetune;
    if (!follows || step.settings.at("target") != "adapter")
      error_at_step(step, "when",
                    "masks before training need an adapter, and the finetune step right before this one");
  }

  bool has_training_before(std::size_t i) const {
    return std::any_of(resolved_.steps.begin(), resolved_.steps.begin() + static_cast<std::ptrdiff_t>(i),
                       [](const ResolvedStep& step) { return is_training(step.kind); });
  }

  void check_evaluate(const ResolvedStep& step, const ModelInfo* info, std::size_t i) {
    const auto possible = possible_evaluation_metrics(resolved_.task);
    for (const Json& metric : step.settings.at("metrics"))
      if (std::find(possible.begin(), possible.end(), metric.get<std::string>()) == possible.end())
        error_at_step(step, "metrics",
                      "'" + metric.get<std::string>() + "' does not go with task " +
                          std::string(task_name(resolved_.task)) + ", which has " + joined(possible));
      else if (metric_needs_generation(metric.get<std::string>()) && !resolved_.source_target)
        error_at_step(step, "metrics", "'" + metric.get<std::string>() + "' needs rows with source and target");
    if (const auto generation = step.settings.find("generation"); generation != step.settings.end() &&
                                                                  generation->value("do_sample", false) &&
                                                                  generation->value("num_beams", 1) > 1)
      error_at_step(step, "generation.num_beams",
                    "beams and do_sample do not go together; set num_beams: 1, or do_sample: false");
    // An inherited length was reported where it is given.
    if (is_given(step.name + ".sequence_length") || !has_training_before(i)) check_length(step, info);
    if (resolved_.task == Task::classification && info && !info->has_classification_head() &&
        !has_training_before(i) && !diagnostics_.has_errors())
      diagnostics_.warning(
          declaration_.steps[static_cast<std::size_t>(step.index)].mark, step.name,
          "the model's files have no classification head, and no step before this one trains one: what "
          "it measures is a random head");
  }

  /// `untrainable`: the model is quantised and has no adapter.
  void check_benchmark(const ResolvedStep& step, const ModelInfo* info, std::size_t i, bool untrainable) {
    const Json& modes = step.settings.at("mode");
    if (untrainable && std::find(modes.begin(), modes.end(), Json("train")) != modes.end())
      error_at_step(
          step, "mode",
          "mode train steps all weights where there is no adapter, and quantised weights cannot be trained; "
          "leave train out, or fine-tune an adapter before");
    if (step.facts.generate_mode && resolved_.task == Task::classification)
      error_at_step(step, "mode", "task classification generates no text");
    const bool decodes = step.facts.generate_mode && info && info->decoder_only();
    const std::int64_t more = decodes ? step.settings.at("new_tokens").get<std::int64_t>() : 0;
    if (more || is_given(step.name + ".sequence_length") || !has_training_before(i)) check_length(step, info, more);
  }

  const SweepDeclaration& declaration_;
  const Given& given_;
  const Resolved& resolved_;
  ModelCatalog& models_;
  DataCatalog& data_;
  Diagnostics& diagnostics_;
};

}  // namespace

void check_configuration(const SweepDeclaration& declaration, const Given& given, const Resolved& resolved,
                         ModelCatalog& models, DataCatalog& data, Diagnostics& diagnostics) {
  Checker(declaration, given, resolved, models, data, diagnostics).check();
}

std::vector<std::string> metrics_of(const ResolvedStep& step) {
  switch (step.kind) {
    case StepKind::finetune:
    case StepKind::distill: {
      std::vector<std::string> metrics{"loss",
                                       "seconds",
                                       "batch_ms_mean",
                                       "batch_ms_std",
                                       "samples_per_second_mean",
                                       "samples_per_second_std",
                                       "tokens_per_second",
                                       "peak_memory_mb",
                                       "trainable_parameters"};
      if (step.settings.contains("evaluate_every")) metrics.push_back("validation_loss");
      return metrics;
    }
    case StepKind::evaluate: {
      auto metrics = step.settings.at("metrics").get<std::vector<std::string>>();
      metrics.insert(metrics.end(), {"seconds", "peak_memory_mb"});
      return metrics;
    }
    case StepKind::benchmark: {
      std::vector<std::string> metrics;
      for (const Json& mode : step.settings.at("mode"))
        for (const char* suffix : {"_ms_mean", "_ms_std", "_ms_p50", "_ms_p99", "_samples_per_second_mean",
                                   "_samples_per_second_std", "_tokens_per_second", "_peak_memory_mb"})
          metrics.push_back(mode.get<std::string>() + suffix);
      return metrics;
    }
    case StepKind::quantize:
      return {"model_mb"};
    case StepKind::prune:
      return {"sparsity"};
    case StepKind::merge:
      return {"relative_error"};
  }
  return {};
}

std::vector<std::string> splits_of(const ResolvedStep& step, const Json& data) {
  switch (step.kind) {
    case StepKind::finetune:
    case StepKind::distill:
      return step.settings.contains("evaluate_every") ? std::vector<std::string>{"train", "validation"}
                                                      : std::vector<std::string>{"train"};
    case StepKind::evaluate:
      return {step.settings.at("split").get<std::string>()};
    case StepKind::benchmark:
      for (const char* split : {"train", "validation", "test"})
        if (data.contains(split)) return {split};
      return {};
    default:
      return {};
  }
}

}  // namespace finesweep::sweeps
