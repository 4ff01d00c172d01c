// Milliseconds of one training step on a CPU: LoRA and full fine-tuning of a classifier, or with --lm of a language
// model, on random token ids.
//
//   engine_train_bench MODEL [--lm] [--threads N] [--steps N] [--rows N] [--length N] [--real N]
//   [--method lora|full] [--bf16] [--mean]
//
// MODEL is a Hugging Face directory or a GGUF file.
// `--real N`: only the first N of the `length` tokens of each row are real, as in padded text. The peer is
// tests/bench/peers/hf_train.py, or hf_lm.py for a language model, with the same options.
//
// "processor" is the time that all threads of the process together were running: what to compare on a busy machine.

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "worker/adapters/adapter.h"
#include "worker/models/pretrained.h"
#include "worker/random.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {
namespace {

struct Case {
  std::string model, method = "both";
  std::int64_t rows = 16, length = 64, real = 0;
  int steps = 12, threads = 2;
  Precision precision = Precision::fp32;
  Pooling pooling = Pooling::cls;
  ModelHead head = ModelHead::classification;
};

template <typename T>
T require(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::exit(2);
  }
  return std::move(*result);
}

Batch random_batch(const Case& what, RandomStream& random) {
  Batch batch;
  batch.input_ids = at::empty({what.rows, what.length}, at::kLong);
  batch.attention_mask = at::ones({what.rows, what.length}, at::kLong);
  for (std::int64_t i = 0; i < what.rows * what.length; ++i) {
    batch.input_ids.mutable_data_ptr<std::int64_t>()[i] = 5 + static_cast<std::int64_t>(random.next_below(30000));
  }
  const bool classifies = what.head == ModelHead::classification;
  batch.labels = classifies ? at::empty({what.rows}, at::kLong) : batch.input_ids.clone();
  for (std::int64_t r = 0; r < what.rows; ++r) {
    if (classifies)
      batch.labels.mutable_data_ptr<std::int64_t>()[r] = static_cast<std::int64_t>(random.next_below(6));
    batch.row_indices.push_back(r);
  }
  if (what.real > 0) batch.attention_mask.narrow(1, what.real, what.length - what.real).zero_();
  return batch;
}

void measure(const Case& what, bool lora) {
  const bool low = what.precision == Precision::bf16;
  const auto pretrained = require(load_pretrained(what.model, lora && low ? at::kBFloat16 : at::kFloat));
  ModelOptions options;
  options.head = what.head;
  options.labels = 6;
  options.train_all = !lora;
  options.precision = what.precision;
  options.pooling = what.pooling;
  const auto model = require(make_model(pretrained, options));
  std::unique_ptr<Adapter> adapter;
  std::vector<Parameter*> parameters;
  if (lora) {
    adapter = require(make_adapter(*model, AdapterOptions(), 1));
    parameters = adapter->parameters();
  }
  for (Parameter* parameter : trained_parameters(*model)) parameters.push_back(parameter);
  TrainingSettings settings;
  settings.learning_rate = 1e-4;
  settings.warmup.value = 2;
  settings.weight_decay = 0.01;
  Trainer trainer(*model, parameters, settings, 100000, 1);
  RandomStream random(1, purpose::data_order);
  const std::vector<Batch> batches = {random_batch(what, random), random_batch(what, random),
                                      random_batch(what, random), random_batch(what, random)};
  std::vector<double> times, processor_times;
  for (int step = 0; step < what.steps + 3; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t processor_begin = std::clock();
    require(trainer.step({batches[step % 4]}));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (step < 3) continue;
    times.push_back(time.count());
    processor_times.push_back(static_cast<double>(std::clock() - processor_begin) * 1e3 / CLOCKS_PER_SEC);
  }
  std::sort(times.begin(), times.end());
  std::sort(processor_times.begin(), processor_times.end());
  const double median = times[times.size() / 2];
  std::printf(
      "finesweep %-4s %s %s %lldx%lld threads %d: median %.1f ms, least %.1f ms, processor %.1f ms, %.0f tokens/s, "
      "%lld trained\n",
      lora ? "lora" : "full", low ? "bf16" : "fp32",
      what.head == ModelHead::language_model ? "lm"
      : what.pooling == Pooling::cls         ? "cls"
                                             : "mean",
      static_cast<long long>(what.rows), static_cast<long long>(what.length), what.threads, median, times[0],
      processor_times[processor_times.size() / 2], static_cast<double>(what.rows * what.length) / median * 1e3,
      static_cast<long long>(count_values(parameters)));
  std::fflush(stdout);
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using namespace finesweep;
  worker::Case what;
  for (int i = 1; i < argc; ++i) {
    const auto number = [&] { return i + 1 < argc ? std::atoi(argv[++i]) : 0; };
    if (std::strcmp(argv[i], "--threads") == 0) {
      what.threads = number();
    } else if (std::strcmp(argv[i], "--steps") == 0) {
      what.steps = number();
    } else if (std::strcmp(argv[i], "--rows") == 0) {
      what.rows = number();
    } else if (std::strcmp(argv[i], "--length") == 0) {
      what.length = number();
    } else if (std::strcmp(argv[i], "--real") == 0) {
      what.real = number();
    } else if (std::strcmp(argv[i], "--method") == 0 && i + 1 < argc) {
      what.method = argv[++i];
    } else if (std::strcmp(argv[i], "--bf16") == 0) {
      what.precision = Precision::bf16;
    } else if (std::strcmp(argv[i], "--lm") == 0) {
      what.head = worker::ModelHead::language_model;
    } else if (std::strcmp(argv[i], "--mean") == 0) {
      what.pooling = Pooling::mean;
    } else {
      what.model = argv[i];
    }
  }
  if (what.model.empty() || what.steps < 1) {
    std::fprintf(stderr,
                 "usage: %s MODEL [--lm] [--threads N] [--steps N] [--rows N] [--length N] [--real N] "
                 "[--method lora|full] [--bf16] [--mean]\n",
                 argv[0]);
    return 2;
  }
  at::set_num_threads(what.threads);
  if (what.method != "full") worker::measure(what, true);
  if (what.method != "lora") worker::measure(what, false);
}
