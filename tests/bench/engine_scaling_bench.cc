// Milliseconds of a training step on one GPU and on several, data-parallel over NCCL, for a GPT-2 of the true shape
// with random weights and random token ids. On CPUs the same over Gloo, to see what sums cost.
//
//   scripts/gpu-run bench scaling [--gpus N] [--steps N] [--rows N] [--length N] [--only lora|full] [--cpu]
//
// For LoRA (rank 8, query, key and value) and for full fine-tuning in bf16: the step of `rows` rows on one
// GPU; then on N GPUs that of N times as many rows (each GPU has as much to do as the one had: weak scaling) and
// that of the same rows (strong scaling). In between the N GPUs at once, each on its own: what sums have no part
// in, as power that the GPUs share. A step is a whole one, as in a job: tokens copied, forward, back, sums,
// clipping, AdamW; the host is one step ahead. Each number is the median over groups of ten steps. Its peer:
// peers/ddp_lm.py.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/bench/random_model.h"
#include "worker/adapters/adapter.h"
#include "worker/collectives/process_group.h"
#include "worker/engine/device.h"
#include "worker/random.h"
#include "worker/training/trainer.h"

extern char** environ;

namespace finesweep::worker {
namespace {

using Clock = std::chrono::steady_clock;

/// As many as a job on a GPU has. With all cores for each process they stand in each other's way: from 64 rows of
/// 512 tokens on libtorch shares even small things out.
constexpr int kThreads = 4;

struct Options {
  int gpus = 2, steps = 100, rank = -1;
  std::int64_t rows = 8, length = 512;
  bool cpu = false, full = false, apart = false;
  std::string only, rendezvous;
};

template <typename T>
T require(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::exit(2);
  }
  return std::move(*result);
}

Batch random_batch(const Options& options, RandomStream& random) {
  Batch batch;
  batch.input_ids = at::empty({options.rows, options.length}, at::kLong);
  batch.attention_mask = at::ones({options.rows, options.length}, at::kLong);
  for (std::int64_t i = 0; i < options.rows * options.length; ++i)
    batch.input_ids.mutable_data_ptr<std::int64_t>()[i] = 5 + static_cast<std::int64_t>(random.next_below(30000));
  batch.labels = batch.input_ids.clone();
  for (std::int64_t r = 0; r < options.rows; ++r) batch.row_indices.push_back(r);
  return batch;
}

/// One rank: trains, and where it leads prints the median of a step.
int train(const Options& options) {
  const std::string name = options.cpu ? "cpu" : "cuda:" + std::to_string(options.rank);
  const c10::Device device = require(find_device(name));
  const c10::DeviceGuard guard(device);
  at::set_num_threads(kThreads);
  std::unique_ptr<ProcessGroup> group;
  if (options.gpus > 1 && !options.apart) {
    GroupOptions how;
    how.rank = options.rank;
    how.size = options.gpus;
    how.rendezvous = options.rendezvous;
    how.device = device;
    group = ProcessGroup::join(how);
  }
  const auto pretrained =
      random_pretrained(published_config("gpt2"), options.full || options.cpu ? at::kFloat : at::kBFloat16, device);
  ModelOptions model_options;
  model_options.head = ModelHead::language_model;
  model_options.precision = options.cpu ? Precision::fp32 : Precision::bf16;
  model_options.train_all = options.full;
  model_options.model_dropout = 0;
  const auto model = require(make_model(pretrained, model_options));
  std::unique_ptr<Adapter> adapter;
  std::vector<Parameter*> parameters;
  if (!options.full) {
    adapter = require(make_adapter(*model, AdapterOptions(), 1));
    parameters = adapter->parameters();
  }
  for (Parameter* parameter : trained_parameters(*model)) parameters.push_back(parameter);
  TrainingSettings settings;
  settings.learning_rate = 1e-4;
  settings.warmup.value = 2;
  settings.weight_decay = 0.01;
  settings.precision = model_options.precision;
  Trainer trainer(*model, parameters, settings, 100000, 1, {}, {}, group.get());
  RandomStream random(1, purpose::data_order);
  std::vector<Batch> batches;
  Options share = options;
  if (options.apart) share.rows /= options.gpus;
  for (int i = 0; i < 8; ++i) batches.push_back(random_batch(share, random));

  std::size_t next = 0;
  double loss = 0;
  const auto finish = [&](std::int64_t most) {
    while (trainer.unfinished() > most) {
      loss = trainer.finish().loss;
      if (group) group->finish_word();
    }
  };
  const auto step = [&] {
    if (group) group->start_word(0);  // as a job does
    if (Status started = trainer.start({batches[next++ % batches.size()]}); !started) {
      std::fprintf(stderr, "%s\n", started.error().message.c_str());
      std::exit(2);
    }
    finish(1);
  };
  const int per_group = options.cpu ? 1 : 10;
  for (int i = 0; i < (options.cpu ? 2 : 20); ++i) step();
  finish(0);
  std::vector<double> times;
  for (int i = 0; i < std::max(1, options.steps / per_group); ++i) {
    const auto begin = Clock::now();
    for (int k = 0; k < per_group; ++k) step();
    finish(0);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / per_group);
  }
  std::sort(times.begin(), times.end());
  if (options.rank == 0) {
    std::printf("%.4f %.4f %.6f\n", times[times.size() / 2], times.front(), loss);
    std::fflush(stdout);
  }
  if (group) group->word(0);
  return 0;
}

/// The median and the least of a step on so many ranks, each a process of this program.
std::pair<double, double> measure(Options options, const char* program) {
  static int counter = 0;
  const auto rendezvous = std::filesystem::temp_directory_path() /
                          ("finesweep-scaling-" + std::to_string(getpid()) + "-" + std::to_string(counter++));
  int out[2];
  if (pipe(out) != 0) return {};
  std::vector<pid_t> pids;
  for (int rank = 0; rank < options.gpus; ++rank) {
    std::vector<std::string> words{program,
                                   "--gpus",
                                   std::to_string(options.gpus),
                                   "--steps",
                                   std::to_string(options.steps),
                                   "--rows",
                                   std::to_string(options.rows),
                                   "--length",
                                   std::to_string(options.length),
                                   "--rank",
                                   std::to_string(rank),
                                   "--rendezvous",
                                   rendezvous.string()};
    if (options.cpu) words.emplace_back("--cpu");
    if (options.full) words.emplace_back("--full");
    if (options.apart) words.emplace_back("--apart");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (rank == 0) posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    pid_t pid = -1;
    if (posix_spawn(&pid, program, &actions, nullptr, arguments.data(), environ) == 0) pids.push_back(pid);
    posix_spawn_file_actions_destroy(&actions);
  }
  close(out[1]);
  std::string text;
  char buffer[256];
  for (ssize_t n = 0; (n = read(out[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  close(out[0]);
  bool good = true;
  for (const pid_t pid : pids) {
    int status = 0;
    waitpid(pid, &status, 0);
    good &= status == 0;
  }
  std::error_code ignored;
  std::filesystem::remove(rendezvous, ignored);
  double median = 0, least = 0;
  if (!good || std::sscanf(text.c_str(), "%lf %lf", &median, &least) != 2) {
    std::fprintf(stderr, "a rank failed\n");
    std::exit(1);
  }
  return {median, least};
}

void compare(Options options, const char* program) {
  const int gpus = options.gpus;
  const std::int64_t rows = options.rows;
  const auto line = [&](const char* what, std::pair<double, double> ms, double ideal) {
    std::printf("%-28s %2d x %4lld rows  %9.3f ms (least %9.3f)  %9.0f tokens/s", what, options.gpus,
                static_cast<long long>(options.rows / options.gpus), ms.first, ms.second,
                static_cast<double>(options.rows * options.length) / ms.first * 1e3);
    if (ideal > 0) std::printf("  %5.1f %% of perfect scaling", 100 * ideal / ms.first);
    std::printf("\n");
    std::fflush(stdout);
  };
  options.gpus = 1;
  const auto one = measure(options, program);
  const std::string name = options.full ? "full" : "lora";
  line((name + ", one").c_str(), one, 0);
  options.gpus = gpus;
  options.rows = rows * gpus;
  options.apart = true;
  line((name + ", each on its own").c_str(), measure(options, program), one.first);
  options.apart = false;
  line((name + ", as many rows for each").c_str(), measure(options, program), one.first);
  options.rows = rows;
  line((name + ", the same rows").c_str(), measure(options, program), one.first / gpus);
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using namespace finesweep::worker;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--cpu") {
      options.cpu = true;
    } else if (word == "--full") {
      options.full = true;
    } else if (word == "--apart") {
      options.apart = true;
    } else if (word == "--only" && has_value) {
      options.only = argv[++i];
    } else if (word == "--gpus" && has_value) {
      options.gpus = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--steps" && has_value) {
      options.steps = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--rows" && has_value) {
      options.rows = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--length" && has_value) {
      options.length = std::max(2, std::atoi(argv[++i]));
    } else if (word == "--rank" && has_value) {
      options.rank = std::atoi(argv[++i]);
    } else if (word == "--rendezvous" && has_value) {
      options.rendezvous = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--gpus N] [--steps N] [--rows N] [--length N] [--only lora|full] [--cpu]\n",
                   argv[0]);
      return 2;
    }
  }
  if (!options.cpu && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "libtorch's CUDA library cannot be loaded: %s\n", dlerror());
    return 2;
  }
  if (options.rank >= 0) return train(options);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  for (const bool full : {false, true}) {
    if (!options.only.empty() && options.only != (full ? "full" : "lora")) continue;
    options.full = full;
    compare(options, program.c_str());
  }
  return 0;
}
