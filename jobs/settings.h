#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"

namespace finesweep {

// Typed views of a job's resolved settings. A sweep file's names, defaults, ranges and what applies to what stand
// in jobs/settings_table.h; by the time a job exists every setting that it can use is present in Job::settings, so
// nothing here has a default that matters. Reading fails (with the missing or ill-typed key) only for a job that
// finesweep did not plan.

/// fp8_base is bf16 with the linear layers of a frozen base in FP8 (worker/models/fp8_weight.h); of a finetune step
/// alone.
enum class Precision { fp32, bf16, fp16, fp8_base };
enum class AttentionKind { flash, math };
enum class Schedule { constant, linear, cosine };
enum class Pooling { cls, mean };
enum class Method { full, lora, qlora, ia3 };

/// An integer in the sweep file counts optimiser steps; a number below 1 is a share of all steps.
struct Warmup {
  bool is_share = false;
  double value = 0;
  /// Optimiser steps of warm-up in a run of `total` steps (a share is rounded down).
  std::int64_t steps(std::int64_t total) const;
};

/// How text is generated; what the sampling does not use has its default.
struct GenerationSettings {
  std::int64_t max_new_tokens = 64;
  std::int64_t num_beams = 1;  // 1: greedy, or sampling
  bool do_sample = false;
  double temperature = 1;
  std::int64_t top_k = 50;  // 0: all tokens
  double top_p = 1;
  bool kv_cache = true;
};

struct EvaluateSettings {
  std::string split;                 // train, validation or test
  std::vector<std::string> metrics;  // empty: those of the task
  std::int64_t batch_size = 0;
  std::int64_t sequence_length = 0;
  Precision precision = Precision::fp32;
  AttentionKind attention = AttentionKind::flash;
  /// How the classification head pools; of the training step before, or as set there.
  Pooling pooling = Pooling::cls;
  /// Present where a metric needs generated text.
  std::optional<GenerationSettings> generation;
  /// Leaves profile.json and trace.json in the artifact.
  bool profile = false;
};

/// Some of its metrics need generated text.
bool wants_generation(const EvaluateSettings& settings);

enum class BenchmarkMode { forward, generate, train };

struct BenchmarkSettings {
  std::vector<BenchmarkMode> modes;  // each once, in the order given
  std::int64_t batch_size = 1;
  std::int64_t sequence_length = 0;  // tokens of every row, or of every prompt
  std::int64_t new_tokens = 0;       // generate
  std::int64_t iterations = 20;      // calls that are timed
  std::int64_t warmup = 5;           // calls before those
  Precision precision = Precision::fp32;
  AttentionKind attention = AttentionKind::flash;
  bool kv_cache = true;  // generate
  bool profile = false;
};

struct TrainingSettings {
  std::optional<std::int64_t> epochs;  // exactly one of epochs and steps
  std::optional<std::int64_t> steps;   // optimiser steps
  std::int64_t batch_size = 0;         // rows of one forward and backward pass
  std::int64_t gradient_accumulation = 1;
  std::int64_t sequence_length = 0;  // tokens; longer rows are truncated
  double learning_rate = 0;
  Schedule schedule = Schedule::linear;
  Warmup warmup;
  double weight_decay = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double max_grad_norm = 1;  // 0: no clipping
  Precision precision = Precision::fp32;
  AttentionKind attention = AttentionKind::flash;
  std::optional<double> model_dropout;  // absent: as the model's config has it
  Pooling pooling = Pooling::cls;
  bool gradient_checkpointing = false;

  /// Evaluate on the validation split at the end of every epoch, or every so many optimiser steps; neither: not.
  bool evaluate_every_epoch = false;
  std::optional<std::int64_t> evaluate_every_steps;
  /// With which settings; present where one of the above is.
  std::optional<EvaluateSettings> evaluation;
};

struct FinetuneSettings {
  Method method = Method::lora;
  std::int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  bool rslora = false;
  std::vector<std::string> targets;              // empty: the family's default, as PEFT has it
  std::vector<std::string> feedforward_targets;  // IA3
  bool double_quantization = true;               // qlora
  std::int64_t block_size = 64;                  // qlora
  Precision compute = Precision::fp32;           // qlora
  TrainingSettings training;
};

/// Of a whole model: not fp8_base.
Result<Precision> parse_precision(const std::string& name);
std::string_view precision_name(Precision precision);

Result<FinetuneSettings> read_finetune_settings(const Json& settings);
Result<EvaluateSettings> read_evaluate_settings(const Json& settings);
Result<BenchmarkSettings> read_benchmark_settings(const Json& settings);
std::string_view benchmark_mode_name(BenchmarkMode mode);

enum class Task { classification, causal_lm, seq2seq };

/// Which tokens of a row with source and target count in the loss.
enum class LossOn { target, all };
/// What a row of plain text becomes: a sample of its own, or a part of one long text that is cut into blocks.
enum class TextRows { samples, blocks };

/// Job::context, typed.
struct DataContext {
  std::optional<std::string> train, validation, test;       // absolute paths
  std::string text, text_a, text_b, source, target, label;  // field names; empty where not used
  std::optional<std::vector<std::string>> labels;
  std::optional<std::int64_t> limit_train, limit_validation, limit_test;
  std::uint64_t limit_seed = 0;  // the sweep's seed
  std::string prompt;            // around {source}; empty: the source alone
  LossOn loss_on = LossOn::target;
  TextRows rows = TextRows::samples;
  bool operator==(const DataContext&) const = default;
};

struct JobContext {
  Task task = Task::classification;
  std::string model;  // absolute path of a Hugging Face directory or a GGUF file
  DataContext data;
  bool operator==(const JobContext&) const = default;
};

Result<JobContext> read_job_context(const Json& context);

}  // namespace finesweep
