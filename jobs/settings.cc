#include "jobs/settings.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "jobs/compression_settings.h"
#include "jobs/settings_table.h"

namespace finesweep {

namespace {

/// Reads one JSON object; remembers which key it was at, for the Error.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  template <typename T>
  void get(const char* key, T& value) {
    key_ = key;
    object_.at(key).get_to(value);
  }
  template <typename T>
  void get(const char* key, std::optional<T>& value) {
    key_ = key;
    if (const auto found = object_.find(key); found != object_.end()) value = found->template get<T>();
  }
  /// For settings that only some methods have.
  template <typename T>
  void get_if_present(const char* key, T& value) {
    key_ = key;
    if (const auto found = object_.find(key); found != object_.end()) found->get_to(value);
  }
  template <typename T, std::size_t N>
  void get(const char* key, T& value, const std::pair<const char*, T> (&names)[N]) {
    std::string name;
    get(key, name);
    for (const auto& [known, meaning] : names)
      if (name == known) return void(value = meaning);
    throw std::invalid_argument("unknown value '" + name + "'");
  }
  bool has(const char* key) const { return object_.contains(key); }
  const Json& at(const char* key) {
    key_ = key;
    return object_.at(key);
  }
  const char* key() const { return key_; }

 private:
  const Json& object_;
  const char* key_ = "";
};

constexpr std::pair<const char*, Precision> kPrecisionNames[] = {{"fp32", Precision::fp32},
                                                                 {"bf16", Precision::bf16},
                                                                 {"fp16", Precision::fp16},
                                                                 {"fp8_base", Precision::fp8_base}};
constexpr std::pair<const char*, AttentionKind> kAttentionNames[] = {{"flash", AttentionKind::flash},
                                                                     {"math", AttentionKind::math}};
constexpr std::pair<const char*, Schedule> kScheduleNames[] = {
    {"constant", Schedule::constant}, {"linear", Schedule::linear}, {"cosine", Schedule::cosine}};
constexpr std::pair<const char*, Pooling> kPoolingNames[] = {{"cls", Pooling::cls}, {"mean", Pooling::mean}};
constexpr std::pair<const char*, Method> kMethodNames[] = {
    {"full", Method::full}, {"lora", Method::lora}, {"qlora", Method::qlora}, {"ia3", Method::ia3}};
constexpr std::pair<const char*, PruneTarget> kPruneTargetNames[] = {{"adapter", PruneTarget::adapter},
                                                                     {"model", PruneTarget::model}};
constexpr std::pair<const char*, PruneScope> kScopeNames[] = {{"per_tensor", PruneScope::per_tensor},
                                                              {"global", PruneScope::global}};
constexpr std::pair<const char*, bool> kWhenNames[] = {{"after", false}, {"before", true}};
constexpr std::pair<const char*, WeightFormat> kFormatNames[] = {{"fp16", WeightFormat::fp16},
                                                                 {"bf16", WeightFormat::bf16},
                                                                 {"int8", WeightFormat::int8},
                                                                 {"nf4", WeightFormat::nf4}};

constexpr std::pair<const char*, BenchmarkMode> kModeNames[] = {
    {"forward", BenchmarkMode::forward}, {"generate", BenchmarkMode::generate}, {"train", BenchmarkMode::train}};

constexpr std::pair<const char*, LossOn> kLossOnNames[] = {{"target", LossOn::target}, {"all", LossOn::all}};
constexpr std::pair<const char*, TextRows> kRowNames[] = {{"samples", TextRows::samples},
                                                          {"blocks", TextRows::blocks}};

/// Runs `read`; an exception of nlohmann-json becomes an Error that names the key.
template <typename T, typename Read>
Result<T> reading(const char* what, const Json& json, Read read) {
  Reader reader(json);
  try {
    T value;
    read(reader, value);
    return value;
  } catch (const std::exception& e) {
    return Error{std::string(what) + ": setting '" + reader.key() + "': " + e.what() +
                 " (the job was not planned by this version of finesweep)"};
  }
}

void read_generation(Reader& in, GenerationSettings& out) {
  in.get("max_new_tokens", out.max_new_tokens);
  in.get("num_beams", out.num_beams);
  in.get("do_sample", out.do_sample);
  in.get("kv_cache", out.kv_cache);
  if (!out.do_sample) return;
  in.get("temperature", out.temperature);
  in.get("top_k", out.top_k);
  in.get("top_p", out.top_p);
}

void read_evaluate(Reader& in, EvaluateSettings& out) {
  in.get("split", out.split);
  in.get("metrics", out.metrics);
  in.get("batch_size", out.batch_size);
  in.get("sequence_length", out.sequence_length);
  in.get("precision", out.precision, kPrecisionNames);
  in.get("attention", out.attention, kAttentionNames);
  if (in.has("pooling")) in.get("pooling", out.pooling, kPoolingNames);
  if (in.has("generation")) {
    Reader generation(in.at("generation"));
    read_generation(generation, out.generation.emplace());
  }
  in.get_if_present("profile", out.profile);
}

void read_benchmark(Reader& in, BenchmarkSettings& out) {
  for (const Json& name : in.at("mode")) {
    const auto mode = std::find_if(std::begin(kModeNames), std::end(kModeNames),
                                   [&](const auto& known) { return name == known.first; });
    if (mode == std::end(kModeNames)) throw std::invalid_argument("unknown value " + name.dump());
    if (std::find(out.modes.begin(), out.modes.end(), mode->second) == out.modes.end())
      out.modes.push_back(mode->second);
  }
  if (out.modes.empty()) throw std::invalid_argument("no mode is named");
  in.get("batch_size", out.batch_size);
  in.get("sequence_length", out.sequence_length);
  in.get("iterations", out.iterations);
  in.get("warmup", out.warmup);
  in.get("precision", out.precision, kPrecisionNames);
  in.get("attention", out.attention, kAttentionNames);
  in.get_if_present("kv_cache", out.kv_cache);
  in.get("profile", out.profile);
  const bool generates = std::find(out.modes.begin(), out.modes.end(), BenchmarkMode::generate) != out.modes.end();
  if (generates) in.get("new_tokens", out.new_tokens);
}

void read_training(Reader& in, TrainingSettings& out) {
  in.get("epochs", out.epochs);
  in.get("steps", out.steps);
  if (out.epochs.has_value() == out.steps.has_value())
    throw std::invalid_argument("exactly one of epochs and steps is needed");
  in.get("batch_size", out.batch_size);
  in.get("gradient_accumulation", out.gradient_accumulation);
  in.get("sequence_length", out.sequence_length);
  in.get("learning_rate", out.learning_rate);
  in.get("schedule", out.schedule, kScheduleNames);
  const Json& warmup = in.at("warmup");
  out.warmup.value = warmup.get<double>();
  out.warmup.is_share = !warmup.is_number_integer();
  in.get("weight_decay", out.weight_decay);
  in.get("beta1", out.beta1);
  in.get("beta2", out.beta2);
  in.get("epsilon", out.epsilon);
  in.get("max_grad_norm", out.max_grad_norm);
  in.get("precision", out.precision, kPrecisionNames);
  in.get("attention", out.attention, kAttentionNames);
  in.get("model_dropout", out.model_dropout);
  if (in.has("pooling")) in.get("pooling", out.pooling, kPoolingNames);
  in.get("gradient_checkpointing", out.gradient_checkpointing);
  if (in.has("evaluate_every")) {
    const Json& every = in.at("evaluate_every");
    if (every.is_string())
      out.evaluate_every_epoch = true;
    else
      out.evaluate_every_steps = every.get<std::int64_t>();
    Reader evaluation(in.at("evaluation"));
    read_evaluate(evaluation, out.evaluation.emplace());
  }
}

void read_prune(Reader& in, PruneSettings& out) {
  in.get("target", out.target, kPruneTargetNames);
  in.get("amount", out.amount);
  in.get("scope", out.scope, kScopeNames);
  in.get("when", out.before_training, kWhenNames);
}

void read_quantize(Reader& in, QuantizeSettings& out) {
  in.get("format", out.format, kFormatNames);
  if (out.format != WeightFormat::nf4) return;
  in.get("double", out.double_quantization);
  in.get("block_size", out.block_size);
  in.get("compute", out.compute, kPrecisionNames);
}

void read_distill(Reader& in, DistillSettings& out) {
  in.get("teacher", out.teacher);
  if (in.has("student")) {
    const Json& student = in.at("student");
    if (student.is_string())
      out.student = student.get<std::string>();
    else
      out.student_layers = student.at("layers").get<std::int64_t>();
  }
  in.get("temperature", out.temperature);
  in.get("alpha", out.alpha);
  read_training(in, out.training);
}

void read_finetune(Reader& in, FinetuneSettings& out) {
  in.get("method", out.method, kMethodNames);
  if (out.method == Method::lora || out.method == Method::qlora) {
    in.get("rank", out.rank);
    in.get("alpha", out.alpha);
    in.get("dropout", out.dropout);
    in.get("rslora", out.rslora);
  }
  in.get_if_present("targets", out.targets);
  in.get_if_present("feedforward_targets", out.feedforward_targets);
  if (out.method == Method::qlora) {
    in.get("double", out.double_quantization);
    in.get("block_size", out.block_size);
    in.get("compute", out.compute, kPrecisionNames);
  }
  read_training(in, out.training);
}

void read_data(Reader& in, DataContext& out) {
  in.get("train", out.train);
  in.get("validation", out.validation);
  in.get("test", out.test);
  in.get("labels", out.labels);
  if (in.has("fields")) {
    Reader fields(in.at("fields"));
    fields.get_if_present("text", out.text);
    fields.get_if_present("text_a", out.text_a);
    fields.get_if_present("text_b", out.text_b);
    fields.get_if_present("source", out.source);
    fields.get_if_present("target", out.target);
    fields.get_if_present("label", out.label);
  }
  if (in.has("limit")) {
    Reader limit(in.at("limit"));
    limit.get("train", out.limit_train);
    limit.get("validation", out.limit_validation);
    limit.get("test", out.limit_test);
  }
  in.get_if_present("limit_seed", out.limit_seed);
  in.get_if_present("prompt", out.prompt);
  if (in.has("loss_on")) in.get("loss_on", out.loss_on, kLossOnNames);
  if (in.has("rows")) in.get("rows", out.rows, kRowNames);
}

}  // namespace

std::int64_t Warmup::steps(std::int64_t total) const {
  // 0.29 × 100 is 28.999999999999996 in binary: a share that means a whole number of steps gives that number.
  return static_cast<std::int64_t>(is_share ? std::floor(value * static_cast<double>(total) + 1e-9) : value);
}

Result<Precision> parse_precision(const std::string& name) {
  for (const auto& [known, precision] : kPrecisionNames)
    if (name == known && precision != Precision::fp8_base) return precision;
  return Error{"'" + name + "' is no precision; expected fp32, bf16 or fp16"};
}

std::string_view precision_name(Precision precision) {
  for (const auto& [name, known] : kPrecisionNames)
    if (known == precision) return name;
  throw std::logic_error("a precision without a name");
}

Result<FinetuneSettings> read_finetune_settings(const Json& settings) {
  return reading<FinetuneSettings>("finetune", settings, read_finetune);
}

bool wants_generation(const EvaluateSettings& settings) {
  const std::vector<std::string>& metrics = settings.metrics;
  return settings.generation &&
         (metrics.empty() || std::any_of(metrics.begin(), metrics.end(), metric_needs_generation));
}

Result<EvaluateSettings> read_evaluate_settings(const Json& settings) {
  return reading<EvaluateSettings>("evaluate", settings, read_evaluate);
}

Result<BenchmarkSettings> read_benchmark_settings(const Json& settings) {
  return reading<BenchmarkSettings>("benchmark", settings, read_benchmark);
}

std::string_view benchmark_mode_name(BenchmarkMode mode) {
  for (const auto& [name, known] : kModeNames)
    if (known == mode) return name;
  throw std::logic_error("a mode without a name");
}

Result<DistillSettings> read_distill_settings(const Json& settings) {
  return reading<DistillSettings>("distill", settings, read_distill);
}

Result<PruneSettings> read_prune_settings(const Json& settings) {
  return reading<PruneSettings>("prune", settings, read_prune);
}

Result<std::optional<PruneSettings>> read_masks_while_training(const Json& finetune_settings) {
  const auto masks = finetune_settings.find("prune");
  if (masks == finetune_settings.end()) return std::optional<PruneSettings>();
  auto settings = read_prune_settings(*masks);
  if (!settings) return settings.error();
  return std::optional(*settings);
}

Result<QuantizeSettings> read_quantize_settings(const Json& settings) {
  return reading<QuantizeSettings>("quantize", settings, read_quantize);
}

Result<JobContext> read_job_context(const Json& context) {
  return reading<JobContext>("context", context, [](Reader& in, JobContext& out) {
    std::string task;
    in.get("task", task);
    const auto parsed = parse_task(task);
    if (!parsed) throw std::invalid_argument("unknown task '" + task + "'");
    out.task = *parsed;
    in.get("model", out.model);
    Reader data(in.at("data"));
    read_data(data, out.data);
  });
}

}  // namespace finesweep
