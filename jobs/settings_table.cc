#include "jobs/settings_table.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace finesweep {

namespace {

using enum Section;
using enum ValueType;

constexpr std::array<std::pair<Section, std::string_view>, 12> kSections{{{top, ""},
                                                                          {data, "data"},
                                                                          {sweep, "sweep"},
                                                                          {report, "report"},
                                                                          {resources, "resources"},
                                                                          {distill, "distill"},
                                                                          {finetune, "finetune"},
                                                                          {prune, "prune"},
                                                                          {quantize, "quantize"},
                                                                          {merge, "merge"},
                                                                          {evaluate, "evaluate"},
                                                                          {benchmark, "benchmark"}}};

constexpr std::string_view kTasks[] = {"classification", "causal_lm", "seq2seq"};
constexpr std::string_view kLossOn[] = {"target", "all"};
constexpr std::string_view kRows[] = {"samples", "blocks"};
constexpr std::string_view kMethods[] = {"full", "lora", "qlora", "ia3"};
constexpr std::string_view kSchedules[] = {"constant", "linear", "cosine"};
constexpr std::string_view kPrecisions[] = {"fp32", "bf16", "fp16"};
constexpr std::string_view kFinetunePrecisions[] = {"fp32", "bf16", "fp16", "fp8_base"};
constexpr std::string_view kAttention[] = {"flash", "math"};
constexpr std::string_view kPooling[] = {"cls", "mean"};
constexpr std::string_view kEpoch[] = {"epoch"};
constexpr std::string_view kPruneTargets[] = {"adapter", "model"};
constexpr std::string_view kScopes[] = {"per_tensor", "global"};
constexpr std::string_view kWhen[] = {"after", "before"};
constexpr std::string_view kFormats[] = {"fp16", "bf16", "int8", "nf4"};
constexpr std::string_view kSplits[] = {"train", "validation", "test"};
constexpr std::string_view kMetrics[] = {"loss",   "perplexity", "accuracy",  "f1",  "rouge1",
                                         "rouge2", "rougeL",     "rougeLsum", "bleu"};
constexpr std::string_view kModes[] = {"forward", "generate", "train"};
constexpr std::string_view kGoals[] = {"maximize", "minimize"};
constexpr std::string_view kPack[] = {"auto", "off"};

constexpr Sections kTraining = distill | finetune;
constexpr Sections kSteps = distill | finetune | prune | quantize | merge | evaluate | benchmark;
constexpr Sections only(Section section) {
  return static_cast<Sections>(section);
}

constexpr double kLargeCount = 1e9;

// clang-format off
constexpr Setting kTable[] = {
    // The file itself.
    {.sections = only(top), .key = "name", .type = text, .in_hash = false,
     .doc = "Names the sweep and its run directory. Default: the file's name."},
    {.sections = only(top), .key = "model", .type = path, .required = true,
     .doc = "Hugging Face directory with safetensors weights, or a GGUF file."},
    {.sections = only(top), .key = "task", .type = choice, .required = true, .choices = kTasks,
     .doc = "What the model learns and is measured by."},

    {.sections = only(data), .key = "train", .type = path, 
     .doc = "Training rows: `.jsonl`, `.csv` or `.tsv`, by extension; for a language model also `.txt`, one row a "
            "line."},
    {.sections = only(data), .key = "validation", .type = path, .doc = "Rows that choose among configurations."},
    {.sections = only(data), .key = "test", .type = path, .doc = "Rows that are shown in the end."},
    {.sections = only(data), .key = "fields.text", .type = text,
     .doc = "Field with the text. Default: `text`, where neither pairs nor source and target are named."},
    {.sections = only(data), .key = "fields.text_a", .type = text, .doc = "First text of a pair."},
    {.sections = only(data), .key = "fields.text_b", .type = text, .doc = "Second text of a pair."},
    {.sections = only(data), .key = "fields.source", .type = text,
     .doc = "Field with what is read. Default for `seq2seq`: `source`."},
    {.sections = only(data), .key = "fields.target", .type = text,
     .doc = "Field with what is to be written. Default for `seq2seq`: `target`."},
    {.sections = only(data), .key = "fields.label", .type = text,
     .doc = "Field with the class. Default for `classification`: `label`."},
    {.sections = only(data), .key = "labels", .type = text_list, .use = Use::classification,
     .doc = "The classes in the order of their numbers. Default: integers as given, else the names in the "
            "training rows sorted by code point. Numbers of which one has a fraction make a regression, which is "
            "measured by `metrics: [loss]`."},
    {.sections = only(data), .key = "limit.train", .type = integer, .minimum = 1, .maximum = kLargeCount,
     .unit = "rows", .doc = "Keep the first rows after a shuffle seeded by `sweep.seed`."},
    {.sections = only(data), .key = "limit.validation", .type = integer, .minimum = 1, .maximum = kLargeCount,
     .unit = "rows", .doc = "Likewise."},
    {.sections = only(data), .key = "limit.test", .type = integer, .minimum = 1, .maximum = kLargeCount,
     .unit = "rows", .doc = "Likewise."},
    {.sections = only(data), .key = "prompt", .type = text, .fallback = R"("{source}\nTL;DR: ")",
     .use = Use::prompted, 
     .doc = "What is read before the target is written; `{source}` stands for the source. Default for `seq2seq`: the "
            "source alone."},
    {.sections = only(data), .key = "prompt", .type = text, .use = Use::translated,
     .doc = "Likewise, for the encoder."},
    {.sections = only(data), .key = "loss_on", .type = choice, .fallback = R"("target")", .choices = kLossOn,
     .use = Use::prompted, .doc = "Which tokens count in the loss: those of the target, or all."},
    {.sections = only(data), .key = "rows", .type = choice, .fallback = R"("samples")", .choices = kRows,
     .use = Use::plain_text,
     .doc = "A row of the file is a sample, or all text is joined and cut into blocks of `sequence_length`."},

    {.sections = only(sweep), .key = "axes", .type = structure,
     .doc = "List of axes; their cross product is trained. An axis maps paths to lists of equal length."},
    {.sections = only(sweep), .key = "include", .type = structure,
     .doc = "List of further configurations, each a map of paths to values set on the pipeline as written."},
    {.sections = only(sweep), .key = "exclude", .type = structure,
     .doc = "List of maps; a configuration that matches one is dropped."},
    {.sections = only(sweep), .key = "repeats", .type = integer, .fallback = "1", .minimum = 1, .maximum = 10000,
     .doc = "How often each configuration runs, each time with another seed."},
    {.sections = only(sweep), .key = "seed", .type = integer, .fallback = "0", .minimum = 0,
     .doc = "From which the seeds of the repeats are made; also shuffles for `data.limit`."},

    {.sections = only(report), .key = "select", .type = text,
     .doc = "`step.metric` that chooses the best configuration. Default: `metric`, on the validation split where "
            "an evaluation of the same model yields the same."},
    {.sections = only(report), .key = "metric", .type = text,
     .doc = "`step.metric` that is shown. Default: the main metric of the last evaluation, of the test split "
            "where there is one."},
    {.sections = only(report), .key = "goal", .type = choice, .choices = kGoals,
     .doc = "Default: minimize for losses, perplexity, times and sizes, else maximize."},
    {.sections = only(report), .key = "baseline", .type = structure,
     .doc = "Map of paths or `label`: the configuration that the others are compared with. Must match exactly "
            "one."},

    {.sections = only(resources), .key = "gpus", .type = integer, .fallback = "1", .minimum = 1, .maximum = 64,
     .doc = "GPUs of one host that a training job uses together (on CPUs: workers). Each computes its share of every "
            "batch; other steps use one."},
    {.sections = only(resources), .key = "pack", .type = integer_or_choice, .fallback = R"("auto")",
     .minimum = 1, .maximum = 4096, .choices = kPack, .in_hash = false,
     .doc = "How many jobs with the same frozen base run together ([packs](packing.md)): as many as keep a GPU busy, one, or "
            "up to so many."},
    {.sections = only(resources), .key = "retries", .type = integer, .fallback = "2", .minimum = 0,
     .maximum = 100, .in_hash = false, .doc = "How often a job that failed by itself is tried again."},
    {.sections = only(resources), .key = "threads", .type = integer, .minimum = 1, .maximum = 1024,
     .in_hash = false, .doc = "Threads of each worker on a CPU. Default: 1 on up to 8 cores, else 4."},

    // Every step.
    {.sections = kSteps, .key = "name", .type = text, .in_hash = false,
     .doc = "Needed where a kind of step occurs twice; paths and metrics begin with it."},

    {.sections = only(distill), .key = "teacher", .type = path, .required = true,
     .doc = "Model whose outputs are learnt."},
    {.sections = only(distill), .key = "student", .type = path, .doc = "Model that learns. Default: `model`."},
    {.sections = only(distill), .key = "student.layers", .type = integer, .minimum = 1, .maximum = 1000,
     .doc = "Instead of a path: a student of so many layers, taken from the teacher."},
    {.sections = only(distill), .key = "temperature", .type = number, .fallback = "2.0", .minimum = 0,
     .above_minimum = true, .doc = "Softens both distributions."},
    {.sections = only(distill), .key = "alpha", .type = number, .fallback = "0.5", .minimum = 0, .maximum = 1,
     .doc = "Share of the teacher's loss; the rest is that of the labels."},

    {.sections = only(finetune), .key = "method", .type = choice, .fallback = R"("lora")", .choices = kMethods,
     .doc = "All weights, or an adapter: LoRA, LoRA on a base in NF4, IA3."},
    {.sections = only(finetune), .key = "rank", .type = integer, .fallback = "8", .minimum = 1, .maximum = 65536,
     .use = Use::lora, .doc = "Width of the adapter's bottleneck."},
    {.sections = only(finetune), .key = "alpha", .type = number, .fallback = "16.0", .minimum = 0,
     .above_minimum = true, .use = Use::lora, .doc = "The adapter's output is scaled by alpha ÷ rank."},
    {.sections = only(finetune), .key = "dropout", .type = number, .fallback = "0.0", .minimum = 0, .maximum = 1,
     .below_maximum = true, .use = Use::lora, .doc = "Dropout on the adapter's input while training."},
    {.sections = only(finetune), .key = "rslora", .type = boolean, .fallback = "false", .use = Use::lora,
     .doc = "Scale by alpha ÷ √rank instead (rank-stabilised LoRA)."},
    {.sections = only(finetune), .key = "targets", .type = text_list, .use = Use::adapter,
     .doc = "Layers that get an adapter, by the ends of their names. Default: PEFT's for the family."},
    {.sections = only(finetune), .key = "feedforward_targets", .type = text_list, .use = Use::ia3,
     .doc = "Those targets whose input is scaled, not their output. Default: PEFT's for the family."},
    {.sections = only(finetune), .key = "double", .type = boolean, .fallback = "true", .use = Use::qlora,
     .doc = "Quantise the scales too."},
    {.sections = only(finetune), .key = "block_size", .type = integer, .fallback = "64", .minimum = 32,
     .maximum = 4096, .use = Use::qlora, .unit = "weights",
     .doc = "Weights that share a scale; a power of two."},
    {.sections = only(finetune), .key = "compute", .type = choice, .choices = kPrecisions, .use = Use::qlora,
     .doc = "In what the products with quantised weights are computed. Default: `precision`."},

    // Training.
    {.sections = kTraining, .key = "epochs", .type = integer, .minimum = 1, .maximum = 1e6,
     .doc = "Passes over the training rows. Default: 3, where `steps` is not given."},
    {.sections = kTraining, .key = "steps", .type = integer, .minimum = 1, .maximum = kLargeCount,
     .unit = "optimiser steps", .doc = "Instead of `epochs`."},
    {.sections = kTraining, .key = "batch_size", .type = integer, .fallback = "16", .minimum = 1,
     .maximum = 65536, .unit = "rows", .doc = "Rows of one forward and backward pass."},
    {.sections = kTraining, .key = "gradient_accumulation", .type = integer, .fallback = "1", .minimum = 1,
     .maximum = 65536, .doc = "Passes whose gradients make one optimiser step."},
    {.sections = kTraining, .key = "sequence_length", .type = integer, .fallback = "128", .minimum = 2,
     .maximum = 1048576, .unit = "tokens",
     .doc = "Longer rows are cut. The default is never above the model's positions."},
    {.sections = only(finetune), .key = "learning_rate", .type = number, .fallback = "5e-5", .minimum = 0,
     .maximum = 10, .use = Use::full, .doc = "Peak of the schedule."},
    {.sections = only(finetune), .key = "learning_rate", .type = number, .fallback = "5e-4", .minimum = 0,
     .maximum = 10, .use = Use::lora, .doc = "Peak of the schedule."},
    {.sections = only(finetune), .key = "learning_rate", .type = number, .fallback = "5e-3", .minimum = 0,
     .maximum = 10, .use = Use::ia3, .doc = "Peak of the schedule."},
    {.sections = only(distill), .key = "learning_rate", .type = number, .fallback = "5e-5", .minimum = 0,
     .maximum = 10, .doc = "Peak of the schedule."},
    {.sections = kTraining, .key = "schedule", .type = choice, .fallback = R"("linear")", .choices = kSchedules,
     .doc = "The learning rate after warm-up: constant, or falling to 0 at the end."},
    {.sections = kTraining, .key = "warmup", .type = count_or_share, .fallback = "0", .minimum = 0,
     .maximum = kLargeCount, .doc = "An integer: optimiser steps. Below 1: share of all steps, rounded down."},
    {.sections = kTraining, .key = "weight_decay", .type = number, .fallback = "0.01", .minimum = 0,
     .maximum = 1, .doc = "Of AdamW; biases and norms do not decay."},
    {.sections = kTraining, .key = "beta1", .type = number, .fallback = "0.9", .minimum = 0, .maximum = 1,
     .below_maximum = true, .doc = "Of AdamW."},
    {.sections = kTraining, .key = "beta2", .type = number, .fallback = "0.999", .minimum = 0, .maximum = 1,
     .below_maximum = true, .doc = "Of AdamW."},
    {.sections = kTraining, .key = "epsilon", .type = number, .fallback = "1e-8", .minimum = 0, .maximum = 1,
     .above_minimum = true, .doc = "Of AdamW."},
    {.sections = kTraining, .key = "max_grad_norm", .type = number, .fallback = "1.0", .minimum = 0,
     .doc = "Gradients are scaled down to this norm; 0: never."},
    {.sections = kTraining, .key = "model_dropout", .type = number, .minimum = 0, .maximum = 1,
     .below_maximum = true,
     .doc = "All dropout inside the model while training. Default: as its config has it."},
    {.sections = kTraining, .key = "evaluate_every", .type = integer_or_choice, .minimum = 1,
     .maximum = kLargeCount, .choices = kEpoch, .unit = "optimiser steps",
     .doc = "Evaluate on the validation split while training, with the settings of the next `evaluate`, into "
            "`history.csv`."},
    {.sections = kTraining, .key = "checkpoint_every", .type = number, .fallback = "60.0", .minimum = 0,
     .above_minimum = true, .in_hash = false, .unit = "seconds", .doc = "How much training a crash may cost."},
    {.sections = kTraining, .key = "gradient_checkpointing", .type = boolean, .fallback = "false",
     .doc = "Compute activations again in the backward pass: less memory, more time."},
    {.sections = kTraining, .key = "pooling", .type = choice, .fallback = R"("cls")", .choices = kPooling,
     .use = Use::classification,
     .doc = "What the classification head reads: as the reference head has it, or the mean over tokens."},
    {.sections = kTraining, .key = "isolate", .type = boolean, .fallback = "false",
     .doc = "Run alone on the device (on a CPU: alone on the host), so that times and memory compare fairly. A "
            "benchmark always does."},

    {.sections = only(prune), .key = "target", .type = choice, .choices = kPruneTargets,
     .doc = "What loses weights. Default: the adapter where there is one, else the model."},
    {.sections = only(prune), .key = "amount", .type = number, .fallback = "0.5", .minimum = 0, .maximum = 1,
     .above_minimum = true, .below_maximum = true,
     .doc = "Share of the weights that become 0, the smallest first."},
    {.sections = only(prune), .key = "scope", .type = choice, .fallback = R"("per_tensor")", .choices = kScopes,
     .doc = "Whether the share holds in each tensor or over all together."},
    {.sections = only(prune), .key = "when", .type = choice, .fallback = R"("after")", .choices = kWhen,
     .doc = "After training, or masks on the adapter as initialised that stay in force while it trains."},

    {.sections = only(quantize), .key = "format", .type = choice, .fallback = R"("nf4")", .choices = kFormats,
     .doc = "In what the weights are kept; with an unmerged adapter only those of its base."},
    {.sections = only(quantize), .key = "double", .type = boolean, .fallback = "true", .use = Use::nf4,
     .doc = "Quantise the scales too."},
    {.sections = only(quantize), .key = "block_size", .type = integer, .fallback = "64", .minimum = 32,
     .maximum = 4096, .use = Use::nf4, .unit = "weights", .doc = "Weights that share a scale; a power of two."},
    {.sections = only(quantize), .key = "compute", .type = choice, .fallback = R"("fp32")",
     .choices = kPrecisions, .use = Use::nf4,
     .doc = "In what the products with quantised weights are computed."},

    {.sections = only(evaluate), .key = "split", .type = choice, .fallback = R"("validation")",
     .choices = kSplits, .doc = "Which rows are measured."},
    {.sections = only(evaluate), .key = "metrics", .type = choice_list, .choices = kMetrics,
     .doc = "Default: loss, accuracy, f1 for classification; loss and perplexity for language models; with "
            "source and target also the ROUGE scores and BLEU."},
    {.sections = only(evaluate), .key = "batch_size", .type = integer, .fallback = "32", .minimum = 1,
     .maximum = 65536, .unit = "rows", .doc = "Rows at a time."},
    {.sections = only(evaluate), .key = "sequence_length", .type = integer, .fallback = "128", .minimum = 2,
     .maximum = 1048576, .inherited = true, .unit = "tokens",
     .doc = "Longer rows are cut. The default is never above the model's positions."},
    {.sections = only(evaluate), .key = "generation.max_new_tokens", .type = integer, .fallback = "64",
     .minimum = 1, .maximum = 1048576, .use = Use::generation, .unit = "tokens",
     .doc = "Where generation stops at the latest."},
    {.sections = only(evaluate), .key = "generation.num_beams", .type = integer, .fallback = "1", .minimum = 1,
     .maximum = 1024, .use = Use::generation, .doc = "Beams of the search; 1: greedy, or sampling."},
    {.sections = only(evaluate), .key = "generation.do_sample", .type = boolean, .fallback = "false",
     .use = Use::generation, .doc = "Draw tokens instead of taking the best."},
    {.sections = only(evaluate), .key = "generation.temperature", .type = number, .fallback = "1.0",
     .minimum = 0, .above_minimum = true, .use = Use::sampling,
     .doc = "Below 1: bolder towards the best token."},
    {.sections = only(evaluate), .key = "generation.top_k", .type = integer, .fallback = "50", .minimum = 0,
     .maximum = 1e7, .use = Use::sampling, .doc = "Draw from the best so many tokens; 0: from all."},
    {.sections = only(evaluate), .key = "generation.top_p", .type = number, .fallback = "1.0", .minimum = 0,
     .maximum = 1, .above_minimum = true, .use = Use::sampling,
     .doc = "Draw from the fewest tokens that hold so much probability."},
    {.sections = only(evaluate), .key = "generation.kv_cache", .type = boolean, .fallback = "true",
     .use = Use::generation, .doc = "Keep keys and values of the tokens before."},

    {.sections = only(benchmark), .key = "mode", .type = choice_list, .fallback = R"(["forward"])",
     .choices = kModes,
     .doc = "What is timed; one or a list. `train` steps the model as it stands: its adapter, else all weights."},
    {.sections = only(benchmark), .key = "batch_size", .type = integer, .fallback = "1", .minimum = 1,
     .maximum = 65536, .unit = "rows", .doc = "Rows of a call."},
    {.sections = only(benchmark), .key = "sequence_length", .type = integer, .fallback = "128", .minimum = 2,
     .maximum = 1048576, .inherited = true, .unit = "tokens", .doc = "Tokens of a row, or of a prompt."},
    {.sections = only(benchmark), .key = "new_tokens", .type = integer, .fallback = "32", .minimum = 1,
     .maximum = 1048576, .use = Use::generate_mode, .unit = "tokens", .doc = "Tokens generated for each row."},
    {.sections = only(benchmark), .key = "iterations", .type = integer, .fallback = "20", .minimum = 1,
     .maximum = 1e6, .doc = "Calls that are timed."},
    {.sections = only(benchmark), .key = "warmup", .type = integer, .fallback = "5", .minimum = 0,
     .maximum = 1e6, .doc = "Calls before those."},
    {.sections = only(benchmark), .key = "kv_cache", .type = boolean, .fallback = "true",
     .use = Use::generate_mode, .doc = "Keep keys and values of the tokens before."},

    // Whatever runs the model.
    {.sections = only(distill), .key = "precision", .type = choice, .fallback = R"("fp32")", .choices = kPrecisions,
     .doc = "In what the model computes; trained weights stay in fp32. fp16 scales the loss; a step whose gradients "
            "overflow is done again with half the scale."},
    {.sections = only(finetune), .key = "precision", .type = choice, .fallback = R"("fp32")",
     .choices = kFinetunePrecisions,
     .doc = "In what the model computes; trained weights stay in fp32. fp16 scales the loss; a step whose gradients "
            "overflow is done again with half the scale. fp8_base: bf16, but the products with the linear layers of an "
            "adapter's frozen base in FP8; evaluations after the step are in bf16."},
    {.sections = evaluate | benchmark, .key = "precision", .type = choice, .fallback = R"("fp32")",
     .choices = kPrecisions, .inherited = true, .doc = "In what the model computes."},
    {.sections = kTraining, .key = "attention", .type = choice, .fallback = R"("flash")", .choices = kAttention,
     .doc = "Fused attention, or the plain products."},
    {.sections = evaluate | benchmark, .key = "attention", .type = choice, .fallback = R"("flash")",
     .choices = kAttention, .inherited = true, .doc = "Fused attention, or the plain products."},
    {.sections = only(evaluate), .key = "isolate", .type = boolean,
     .doc = "Run alone on the device, as a training's `isolate` has it. Default: false."},
    {.sections = evaluate | benchmark, .key = "profile", .type = boolean, .fallback = "false",
     .doc = "Keep a profile of the operations beside the result."},
};
// clang-format on

std::string plain_number(double value) {
  std::string text = Json(value).dump();
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

std::string joined(std::span<const std::string_view> words) {
  std::string text;
  for (std::string_view word : words) text += (text.empty() ? "" : ", ") + std::string(word);
  return text;
}

/// " of at least 1", " between 0 and 1", " above 0 and below 1".
std::string range_phrase(const Setting& s) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const bool low = s.minimum > -infinity;
  const bool high = s.maximum < infinity && s.maximum < kLargeCount;
  if (low && high && !s.above_minimum && !s.below_maximum)
    return " between " + plain_number(s.minimum) + " and " + plain_number(s.maximum);
  std::string text;
  if (low) text = (s.above_minimum ? " above " : " of at least ") + plain_number(s.minimum);
  if (high)
    text += (low ? " and" : "") +
            std::string(s.below_maximum ? " below "
                        : low           ? " at most "
                                        : " of at most ") +
            plain_number(s.maximum);
  return text;
}

}  // namespace

std::string_view section_name(Section section) {
  for (const auto& [value, name] : kSections)
    if (value == section) return name;
  throw std::logic_error("a section without a name");
}

Section section_of(StepKind kind) {
  const std::string_view name = step_kind_name(kind);
  for (const auto& [value, known] : kSections)
    if (known == name) return value;
  throw std::logic_error("a step kind without a section");
}

bool is_used(Use use, const StepFacts& facts) {
  const std::string& method = facts.method;
  switch (use) {
    case Use::always:
      return true;
    case Use::full:
      return method == "full";
    case Use::lora:
      return method == "lora" || method == "qlora";
    case Use::ia3:
      return method == "ia3";
    case Use::adapter:
      return method == "lora" || method == "qlora" || method == "ia3";
    case Use::qlora:
      return method == "qlora";
    case Use::classification:
      return facts.task == Task::classification;
    case Use::prompted:
      return facts.decoder_only && facts.source_target;
    case Use::translated:
      return facts.task == Task::seq2seq && !facts.decoder_only;
    case Use::plain_text:
      return facts.task == Task::causal_lm && !facts.source_target;
    case Use::generation:
      return facts.generates;
    case Use::sampling:
      return facts.generates && facts.samples;
    case Use::nf4:
      return facts.format == "nf4";
    case Use::generate_mode:
      return facts.generate_mode;
  }
  throw std::logic_error("a use without a rule");
}

std::string_view use_phrase(Use use) {
  switch (use) {
    case Use::always:
      return "all steps of the kind";
    case Use::full:
      return "method full";
    case Use::lora:
      return "methods lora and qlora";
    case Use::ia3:
      return "method ia3";
    case Use::adapter:
      return "methods lora, qlora and ia3";
    case Use::qlora:
      return "method qlora";
    case Use::classification:
      return "task classification";
    case Use::prompted:
      return "decoder-only models on source-target data";
    case Use::translated:
      return "task seq2seq";
    case Use::plain_text:
      return "task causal_lm on plain text";
    case Use::generation:
      return "metrics of generated text";
    case Use::sampling:
      return "generation with do_sample";
    case Use::nf4:
      return "format nf4";
    case Use::generate_mode:
      return "mode generate";
  }
  throw std::logic_error("a use without a phrase");
}

std::span<const Setting> settings_table() {
  return kTable;
}

const Setting* find_setting(Section section, std::string_view key) {
  for (const Setting& setting : kTable)
    if (setting.in(section) && setting.key == key) return &setting;
  return nullptr;
}

const Setting* find_used_setting(Section section, std::string_view key, const StepFacts& facts) {
  for (const Setting& setting : kTable)
    if (setting.in(section) && setting.key == key && is_used(setting.use, facts)) return &setting;
  return nullptr;
}

std::vector<std::string_view> setting_keys(Section section) {
  std::vector<std::string_view> keys;
  for (const Setting& setting : kTable)
    if (setting.in(section) && std::find(keys.begin(), keys.end(), setting.key) == keys.end())
      keys.push_back(setting.key);
  return keys;
}

bool is_setting_group(Section section, std::string_view prefix) {
  return std::any_of(std::begin(kTable), std::end(kTable), [&](const Setting& setting) {
    return setting.in(section) && setting.key.size() > prefix.size() && setting.key.starts_with(prefix) &&
           setting.key[prefix.size()] == '.';
  });
}

std::string expectation(const Setting& s) {
  switch (s.type) {
    case boolean:
      return "true or false";
    case integer:
      return "an integer" + range_phrase(s);
    case number:
      return "a number" + range_phrase(s);
    case text:
      return "text";
    case path:
      return "a path";
    case choice:
      return "one of " + joined(s.choices);
    case text_list:
      return "a list of names";
    case choice_list:
      return "a list of " + joined(s.choices);
    case integer_or_choice:
      return joined(s.choices) + ", or an integer" + range_phrase(s);
    case count_or_share:
      return "an integer of at least 0, or a share below 1";
    case structure:
      break;
  }
  return s.key == "baseline" ? "a map" : "a list";
}

std::vector<std::string> default_evaluation_metrics(Task task, bool source_target) {
  if (task == Task::classification) return {"loss", "accuracy", "f1"};
  std::vector<std::string> metrics{"loss", "perplexity"};
  if (task == Task::seq2seq || source_target)
    metrics.insert(metrics.end(), {"rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"});
  return metrics;
}

std::vector<std::string> possible_evaluation_metrics(Task task) {
  if (task == Task::classification) return {"loss", "accuracy", "f1"};
  return {"loss", "perplexity", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"};
}

bool metric_needs_generation(std::string_view metric) {
  return metric.starts_with("rouge") || metric == "bleu";
}

std::string_view task_name(Task task) {
  return kTasks[static_cast<int>(task)];
}

std::optional<Task> parse_task(std::string_view name) {
  for (Task task : {Task::classification, Task::causal_lm, Task::seq2seq})
    if (task_name(task) == name) return task;
  return std::nullopt;
}

}  // namespace finesweep
