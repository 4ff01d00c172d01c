// Milliseconds of training steps and passes on one GPU, for models of the true shapes with random weights and
// random token ids, beside what Hugging Face with PEFT and hand-tuned prototypes of the same steps took on an H100.
//
//   scripts/gpu-run bench [--dropout] [--steps N] [--only NAME] [--profile] [--uneven]
//
// --dropout: the models' own dropout, else none. --only: cases whose name contains this. --profile: also the
// kernels of a step, by time. --uneven: rows of a half to the whole length, as in text.
//
// A step is a whole one: tokens copied to the device, forward, back, clipping, AdamW. The host is one step ahead,
// as in a job. A pack's step takes each of its eight jobs, of ranks 2, 4, 8 and 16 twice, one step further. Each
// number is the median over groups of ten steps, of (time of the group) / 10; beside it the least. A forward pass
// is timed with its result on the host; below that, passes one behind the other.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tests/bench/device_profile.h"
#include "tests/bench/random_model.h"
#include "worker/adapters/adapter.h"
#include "worker/engine/device.h"
#include "worker/engine/task_data.h"
#include "worker/engine/teacher.h"
#include "worker/executor.h"
#include "worker/models/forward_graphs.h"
#include "worker/models/pretrained.h"
#include "worker/models/quantized_base.h"
#include "worker/models/weights.h"
#include "worker/random.h"
#include "worker/training/pack_trainer.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {
namespace {

using Clock = std::chrono::steady_clock;
const c10::Device kDevice(c10::kCUDA, 0);

struct Options {
  bool dropout = false, profile = false, uneven = false;
  int steps = 100;
  std::string only;
};

template <typename T>
T require(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::exit(2);
  }
  return std::move(*result);
}

bool generates(const Json& config) {
  return config.at("model_type") == "gpt2" || config.at("model_type") == "llama";
}

struct Case {
  const char* name;
  Json config;
  const char* method;         // lora, qlora, full, forward; distill-lora, distill-full: from a GPT-2-medium
  std::int64_t rows, length;  // of a pack: of each job
  Precision precision;
  double peer_ms, prototype_ms;  // 0: none measured
  int jobs = 1;
};

constexpr int kPackRanks[] = {2, 4, 8, 16, 2, 4, 8, 16};

std::vector<Case> cases() {
  const Json gpt2 = published_config("gpt2"), roberta = published_config("roberta-base"),
             tiny = published_config("tinybert-4l"), medium = published_config("gpt2-medium"),
             llama = published_config("tinyllama-1.1b");
  return {{"gpt2-lora-8x512", gpt2, "lora", 8, 512, Precision::bf16, 39.2, 5.6},
          {"gpt2-lora-8x128", gpt2, "lora", 8, 128, Precision::bf16, 36.8, 2.1},
          {"gpt2-lora-32x512", gpt2, "lora", 32, 512, Precision::bf16, 112, 20.5},
          {"roberta-lora-16x256", roberta, "lora", 16, 256, Precision::bf16, 33, 4.4},
          {"gpt2-qlora-8x512", gpt2, "qlora", 8, 512, Precision::bf16, 48, 0},
          {"gpt2-full-8x512", gpt2, "full", 8, 512, Precision::bf16, 47.6, 12},
          {"gpt2-distill-lora-8x512", gpt2, "distill-lora", 8, 512, Precision::bf16, 65.9, 11.6},
          {"gpt2-distill-full-8x512", gpt2, "distill-full", 8, 512, Precision::bf16, 72.3, 0},
          {"gpt2-lora-8x512-fp32", gpt2, "lora", 8, 512, Precision::fp32, 0, 0},
          {"gpt2-pack-8-of-2x128", gpt2, "lora", 2, 128, Precision::bf16, 0, 3.25, 8},
          {"gpt2-pack-8-of-8x128", gpt2, "lora", 8, 128, Precision::bf16, 0, 10.1, 8},
          {"gpt2-pack-8-of-8x512", gpt2, "lora", 8, 512, Precision::bf16, 0, 41, 8},
          {"gpt2-qlora-pack-8-of-8x128", gpt2, "qlora", 8, 128, Precision::bf16, 0, 0, 8},
          {"roberta-pack-8-of-2x256", roberta, "lora", 2, 256, Precision::bf16, 0, 0, 8},
          {"gpt2-lora-8x512-fp8", gpt2, "lora", 8, 512, Precision::fp8_base, 39.2, 5.6},
          {"roberta-lora-16x256-fp8", roberta, "lora", 16, 256, Precision::fp8_base, 33, 4.4},
          {"medium-lora-8x512", medium, "lora", 8, 512, Precision::bf16, 0, 0},
          {"medium-lora-8x512-fp8", medium, "lora", 8, 512, Precision::fp8_base, 0, 0},
          {"tinyllama-lora-8x512", llama, "lora", 8, 512, Precision::bf16, 0, 0},
          {"tinyllama-lora-8x512-fp8", llama, "lora", 8, 512, Precision::fp8_base, 0, 0},
          {"gpt2-pack-8-of-8x128-fp8", gpt2, "lora", 8, 128, Precision::fp8_base, 0, 0, 8},
          {"tinybert-forward-1x128", tiny, "forward", 1, 128, Precision::fp16, 3.6, 0.106},
          {"tinybert-forward-32x128", tiny, "forward", 32, 128, Precision::fp16, 3.5, 0.265}};
}

Batch random_batch(const Case& what, bool uneven, RandomStream& random) {
  Batch batch;
  batch.input_ids = at::empty({what.rows, what.length}, at::kLong);
  batch.attention_mask = at::ones({what.rows, what.length}, at::kLong);
  for (std::int64_t i = 0; i < what.rows * what.length; ++i) {
    batch.input_ids.mutable_data_ptr<std::int64_t>()[i] = 5 + static_cast<std::int64_t>(random.next_below(30000));
  }
  const bool of_tokens = generates(what.config);
  batch.labels = of_tokens ? batch.input_ids.clone() : at::empty({what.rows}, at::kLong);
  for (std::int64_t r = 0; r < what.rows; ++r) {
    batch.row_indices.push_back(r);
    if (!of_tokens)
      batch.labels.mutable_data_ptr<std::int64_t>()[r] = static_cast<std::int64_t>(random.next_below(4));
    if (!uneven) continue;
    const std::int64_t half = what.length / 2;
    const std::int64_t real = half + static_cast<std::int64_t>(random.next_below(static_cast<std::uint64_t>(half)));
    batch.attention_mask.select(0, r).narrow(0, real, what.length - real).zero_();
    if (of_tokens) batch.labels.select(0, r).narrow(0, real, what.length - real).fill_(-100);
  }
  return batch;
}

struct Built {
  std::shared_ptr<const Pretrained> pretrained;
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;
  std::vector<Parameter*> parameters;
};

/// lora, qlora, full or forward.
std::string method_of(const Case& what) {
  const std::string method = what.method;
  return method.starts_with("distill-") ? method.substr(8) : method;
}

/// The base of a case.
std::shared_ptr<const Pretrained> base_of(const Case& what) {
  const std::string method = method_of(what);
  auto base =
      random_pretrained(what.config, method == "full" ? at::kFloat : scalar_type_of(what.precision), kDevice);
  if (what.precision == Precision::fp8_base) return require(quantize_base(*base, {.format = QuantizedFormat::fp8}));
  if (method == "qlora") return require(quantize_base(*base, {}));
  return base;
}

/// Rank 0: the base alone.
Built build(const Case& what, const Options& options, std::shared_ptr<const Pretrained> base, int rank) {
  Built built;
  built.pretrained = std::move(base);
  const std::string method = method_of(what);
  ModelOptions how;
  how.head = generates(what.config) ? ModelHead::language_model : ModelHead::classification;
  how.labels = 4;
  how.pooling = what.config.at("model_type") == "bert" ? Pooling::mean : Pooling::cls;
  how.precision = what.precision;
  how.train_all = method == "full";
  how.frozen = method == "forward" || rank == 0;
  if (!options.dropout) how.model_dropout = 0;
  built.model = require(make_model(built.pretrained, how));
  if (!how.frozen && !how.train_all) {
    AdapterOptions adapter;
    adapter.rank = rank;
    adapter.dropout = options.dropout ? 0.1 : 0;
    built.adapter = require(make_adapter(*built.model, adapter, 1));
    built.parameters = built.adapter->parameters();
  }
  for (Parameter* parameter : trained_parameters(*built.model)) built.parameters.push_back(parameter);
  return built;
}

void report(const Case& what, const Options& options, std::vector<double> times, double loss) {
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("%-27s %8.3f ms (least %8.3f)  %9.0f tokens/s  %6.0f MB", what.name, median, times.front(),
              static_cast<double>(what.jobs * what.rows * what.length) / median * 1e3, peak_memory_mb(kDevice));
  if (!options.dropout && !options.uneven && what.peer_ms > 0) {
    std::printf("  HF + PEFT %.1f ms (%.1f x)", what.peer_ms, what.peer_ms / median);
  }
  if (!options.dropout && !options.uneven && what.prototype_ms > 0) {
    std::printf("  prototype %.2f ms (%.2f)", what.prototype_ms, median / what.prototype_ms);
  }
  std::printf("  loss %.4f\n", loss);
  std::fflush(stdout);
}

/// Batches as a split has them, each of rows of its own.
class RandomRows final : public TaskData {
 public:
  RandomRows(std::vector<Batch> batches, std::int64_t length) : batches_(std::move(batches)), length_(length) {}
  std::int64_t rows() const override {
    return static_cast<std::int64_t>(batches_.size()) * batches_.front().input_ids.size(0);
  }
  std::int64_t tokens_in_row(std::int64_t) const override { return length_; }
  Batch batch(std::span<const std::int64_t> rows) const override {
    const std::int64_t a_batch = batches_.front().input_ids.size(0);
    return batches_[static_cast<std::size_t>(rows.front() / a_batch)];
  }
  std::int64_t evaluation_units(const EvaluateSettings&) const override { return 0; }
  Result<std::unique_ptr<EvaluationPasses>> passes(const EvaluateSettings&) const override {
    return Error{"no metrics"};
  }
  Result<std::optional<Metrics>> evaluate(Model&, const EvaluationRun&) const override {
    return Error{"no metrics"};
  }

 private:
  std::vector<Batch> batches_;
  std::int64_t length_;
};

/// A GPT-2-medium that teaches. Its states of the batches are kept, as in a job from the second epoch on; without a
/// key it runs in every step.
std::unique_ptr<Teacher> gpt2_medium(const TaskData& rows, const Case& what,
                                     const std::optional<std::string>& key) {
  ModelOptions how;
  how.head = ModelHead::language_model;
  how.precision = what.precision;
  how.frozen = true;
  auto model = require(make_model(random_pretrained(published_config("gpt2-medium"), at::kBFloat16, kDevice), how));
  return require(Teacher::of({2.0, 0.5}, std::move(model), rows, key));
}

TrainingSettings settings_of(const Case& what) {
  TrainingSettings settings;
  settings.learning_rate = 1e-4;
  settings.warmup.value = 2;
  settings.weight_decay = 0.01;
  settings.precision = what.precision;
  return settings;
}

/// Times steps that `start` begins and `finish` ends, of which `unfinished` are under way.
void time_steps(const Case& what, const Options& options, const std::function<void()>& start,
                const std::function<double()>& finish, const std::function<std::int64_t()>& unfinished) {
  begin_memory_peak(kDevice);
  double loss = 0;
  const auto step = [&] {
    start();
    while (unfinished() > 1) loss = finish();
  };
  const auto drain = [&] {
    while (unfinished() > 0) loss = finish();
  };
  const int warm = options.uneven ? 60 : 20, group = 10;
  for (int i = 0; i < warm; ++i) step();
  drain();
  std::vector<double> times;
  for (int i = 0; i < std::max(1, options.steps / group); ++i) {
    const auto begin = Clock::now();
    for (int k = 0; k < group; ++k) step();
    drain();
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / group);
  }
  report(what, options, times, loss);
  if (options.profile) {
    print_device_profile(
        [&] {
          step();
          drain();
        },
        4);
  }
}

std::vector<Batch> random_batches(const Case& what, const Options& options, int count, RandomStream& random) {
  std::vector<Batch> batches;
  for (int i = 0; i < count; ++i) batches.push_back(random_batch(what, options.uneven, random));
  return batches;
}

void train(const Case& what, const Options& options, bool teacher_runs = false) {
  const Built built = build(what, options, base_of(what), 8);
  RandomStream random(1, purpose::data_order);
  std::vector<Batch> batches = random_batches(what, options, 8, random);
  for (std::size_t i = 0; i < batches.size(); ++i) {
    for (std::int64_t& row : batches[i].row_indices) row += static_cast<std::int64_t>(i) * what.rows;
  }
  const RandomRows rows(batches, what.length);
  std::unique_ptr<Teacher> teacher;
  if (std::string(what.method).starts_with("distill")) {
    teacher = gpt2_medium(rows, what, teacher_runs ? std::nullopt : std::optional<std::string>(what.name));
  }
  Trainer trainer(*built.model, built.parameters, settings_of(what), 100000, 1,
                  teacher ? teacher->loss(*built.model) : TrainingLoss());
  std::size_t next = 0;
  const auto start = [&] {
    if (Status started = trainer.start({batches[next++ % batches.size()]}); !started) {
      std::fprintf(stderr, "%s\n", started.error().message.c_str());
      std::exit(2);
    }
  };
  Case named = what;
  const std::string name = std::string(what.name) + (teacher_runs ? " (teacher runs)" : "");
  named.name = name.c_str();
  time_steps(
      named, options, start, [&] { return trainer.finish().loss; }, [&] { return trainer.unfinished(); });
}

void train_pack(const Case& what, const Options& options) {
  const auto base = base_of(what);
  const Built host = build(what, options, base, 0);
  RandomStream random(1, purpose::data_order);
  std::vector<Built> built;
  std::vector<std::unique_ptr<Training>> trainings;
  std::vector<std::vector<Batch>> batches;
  std::vector<PackedTraining> jobs;
  for (int j = 0; j < what.jobs; ++j) {
    const Built& mine = built.emplace_back(build(what, options, base, kPackRanks[j]));
    trainings.push_back(
        std::make_unique<Training>(mine.parameters, settings_of(what), 100000, std::vector<ParameterMask>()));
    batches.push_back(random_batches(what, options, 8, random));
    jobs.push_back({mine.model.get(), trainings.back().get(), static_cast<std::uint64_t>(j)});
    if (Status fits = check_trainable_in_pack(*host.model, *mine.model, mine.parameters); !fits) {
      std::fprintf(stderr, "%s\n", fits.error().message.c_str());
      std::exit(2);
    }
  }
  PackTrainer trainer(*host.model, jobs);
  std::size_t next = 0;
  const auto start = [&] {
    std::vector<std::vector<Batch>> step;
    for (const auto& of_job : batches) step.push_back({of_job[next % of_job.size()]});
    ++next;
    trainer.start(step);
  };
  time_steps(
      what, options, start, [&] { return trainer.finish().front().loss; }, [&] { return trainer.unfinished(); });
}

void forward(const Case& what, const Options& options) {
  const at::NoGradGuard no_graph;
  const Built built = build(what, options, base_of(what), 0);
  RandomStream random(1, purpose::data_order);
  const Batch batch = random_batch(what, options.uneven, random);
  begin_memory_peak(kDevice);
  ForwardGraphs graphs(*built.model);
  const auto pass = [&] { graphs.logits(batch).cpu(); };
  for (int i = 0; i < 20; ++i) pass();
  std::vector<double> times, in_a_row;
  for (int i = 0; i < options.steps; ++i) {
    const auto begin = Clock::now();
    pass();
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  constexpr int kGroup = 20;
  for (int i = 0; i < std::max(1, options.steps / kGroup); ++i) {
    const auto begin = Clock::now();
    for (int k = 0; k < kGroup; ++k) graphs.logits(batch);
    synchronize(kDevice);
    in_a_row.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / kGroup);
  }
  report(what, options, times, 0);
  std::sort(in_a_row.begin(), in_a_row.end());
  std::printf("%-24s %8.3f ms a pass where none waits for another's result\n", "", in_a_row[in_a_row.size() / 2]);
  if (options.profile) print_device_profile(pass, 4);
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using namespace finesweep::worker;
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--dropout") == 0) {
      options.dropout = true;
    } else if (std::strcmp(argv[i], "--profile") == 0) {
      options.profile = true;
    } else if (std::strcmp(argv[i], "--uneven") == 0) {
      options.uneven = true;
    } else if (std::strcmp(argv[i], "--steps") == 0 && i + 1 < argc) {
      options.steps = std::max(1, std::atoi(argv[++i]));
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      options.only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--dropout] [--steps N] [--only NAME] [--profile] [--uneven]\n", argv[0]);
      return 2;
    }
  }
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr || !find_device("cuda:0")) {
    std::fprintf(stderr, "libtorch sees no GPU here\n");
    return 2;
  }
  std::printf("%s\n", describe_device("cuda:0").dump().c_str());
  for (const Case& what : cases()) {
    if (std::string(what.name).find(options.only) == std::string::npos) continue;
    try {
      if (what.jobs > 1) {
        train_pack(what, options);
      } else {
        std::string(what.method) == "forward" ? forward(what, options) : train(what, options);
      }
      if (std::string(what.method).starts_with("distill")) train(what, options, true);
    } catch (const std::exception& error) {
      std::printf("%-24s failed: %s\n", what.name, error.what());
    }
    release_cached_memory(kDevice);
  }
}
