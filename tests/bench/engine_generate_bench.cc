// New tokens a second: greedy generation after a prompt of random ids, or drawn.
//
//   engine_generate_bench MODEL [--threads N] [--rows N] [--prompt N] [--new N] [--times N] [--bf16 | --fp16]
//                         [--no-cache] [--gpu] [--sample] [--profile]
//   engine_generate_bench --gpu        the cases of the GPU's table; --profile: and what the GPU was busy with
//
// MODEL is a Hugging Face directory or a GGUF file of a decoder-only model, or random:gpt2, random:gpt-neo-1.3b or
// random:smollm2-135m: random weights of its shapes. The peers are `tests/bench/peers/hf_lm.py generate` with the
// same options and, on a GPU, Hugging Face's generate().

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/device_profile.h"
#include "tests/bench/random_model.h"
#include "worker/generation/generate.h"
#include "worker/models/pretrained.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

template <typename T>
T require(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::exit(2);
  }
  return std::move(*result);
}

struct Case {
  std::string model;
  int threads = 2, times = 5;
  std::int64_t rows = 1, prompt = 32, fresh = 32;
  Precision precision = Precision::fp32;
  bool kv_cache = true, on_gpu = false, sample = false, profile = false;
  double peer = 0;  // tokens a second of Hugging Face on an H100; 0: not known
};

std::shared_ptr<const Pretrained> pretrained_of(const Case& what, at::ScalarType type, c10::Device device) {
  const std::string prefix = "random:";
  if (!what.model.starts_with(prefix)) return require(load_pretrained(what.model, type, device));
  return random_pretrained(published_config(what.model.substr(prefix.size())), type, device);
}

/// Milliseconds, sorted.
std::vector<double> times_of(Generator& generator, const Prompts& prompts, const GenerationOptions& options,
                             int times) {
  std::vector<double> all;
  for (int i = -1; i < times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    require(generator.generate(prompts, options));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (i >= 0) all.push_back(time.count());
  }
  std::sort(all.begin(), all.end());
  return all;
}

int measure(const Case& what) {
  at::set_num_threads(what.threads);
  const c10::Device device = what.on_gpu ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
  const char* precision = what.precision == Precision::fp32   ? "fp32"
                          : what.precision == Precision::bf16 ? "bf16"
                                                              : "fp16";
  const at::ScalarType type = what.precision == Precision::fp32   ? at::kFloat
                              : what.precision == Precision::bf16 ? at::kBFloat16
                                                                  : at::kHalf;
  ModelOptions model_options;
  model_options.head = ModelHead::language_model;
  model_options.frozen = true;
  model_options.precision = what.precision;
  const auto model = require(make_model(pretrained_of(what, type, device), model_options));
  GenerationOptions options;
  options.kv_cache = what.kv_cache;
  options.do_sample = what.sample;
  RandomStream random(1, purpose::data_order);
  Prompts prompts(static_cast<std::size_t>(what.rows));
  for (auto& prompt : prompts) {
    for (std::int64_t i = 0; i < what.prompt; ++i)
      prompt.push_back(5 + static_cast<std::int64_t>(random.next_below(40000)));
  }
  Generator generator(*model->language_model());
  options.max_new_tokens = 1;
  const double first = times_of(generator, prompts, options, what.times)[what.times / 2];
  options.max_new_tokens = what.fresh;
  const std::vector<double> times = times_of(generator, prompts, options, what.times);
  const double median = times[times.size() / 2];
  std::printf(
      "finesweep generate %s %s %s%lld rows, %lld + %lld tokens, %s, %s: median %.2f ms, least %.2f ms, %.1f new "
      "tokens/s; first token %.2f ms, then %.1f tokens/s",
      what.model.c_str(), precision, what.sample ? "drawn " : "", static_cast<long long>(what.rows),
      static_cast<long long>(what.prompt), static_cast<long long>(what.fresh), what.kv_cache ? "cache" : "no cache",
      what.on_gpu ? "GPU" : ("threads " + std::to_string(what.threads)).c_str(), median, times[0],
      static_cast<double>(what.rows * what.fresh) / median * 1e3, first,
      static_cast<double>(what.rows * (what.fresh - 1)) / (median - first) * 1e3);
  if (what.peer > 0) std::printf("; Hugging Face %.0f tokens/s", what.peer);
  std::printf("\n");
  std::fflush(stdout);
  if (what.profile && what.on_gpu) print_device_profile([&] { require(generator.generate(prompts, options)); }, 1);
  return 0;
}

/// The table of docs/performance.md, with what Hugging Face reached on an H100 (transformers 5.17, torch 2.11).
int measure_table(const Case& given) {
  std::vector<Case> cases;
  for (const auto& [rows, peer] : {std::pair<std::int64_t, double>{1, 95}, {8, 970}, {64, 5490}}) {
    Case one = given;
    one.model = "random:gpt2";
    one.precision = Precision::bf16;
    one.rows = rows;
    one.peer = peer;
    cases.push_back(one);
  }
  Case neo = given;
  neo.model = "random:gpt-neo-1.3b";
  neo.precision = Precision::fp16;
  neo.peer = 35;
  cases.push_back(neo);
  for (Case& one : cases) {
    one.prompt = 64;
    one.fresh = 128;
    if (const int failed = measure(one); failed != 0) return failed;
  }
  return 0;
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using finesweep::Precision;
  finesweep::worker::Case what;
  for (int i = 1; i < argc; ++i) {
    const auto number = [&] { return i + 1 < argc ? std::atoi(argv[++i]) : 0; };
    if (std::strcmp(argv[i], "--threads") == 0) {
      what.threads = number();
    } else if (std::strcmp(argv[i], "--times") == 0) {
      what.times = number();
    } else if (std::strcmp(argv[i], "--rows") == 0) {
      what.rows = number();
    } else if (std::strcmp(argv[i], "--prompt") == 0) {
      what.prompt = number();
    } else if (std::strcmp(argv[i], "--new") == 0) {
      what.fresh = number();
    } else if (std::strcmp(argv[i], "--bf16") == 0) {
      what.precision = Precision::bf16;
    } else if (std::strcmp(argv[i], "--fp16") == 0) {
      what.precision = Precision::fp16;
    } else if (std::strcmp(argv[i], "--gpu") == 0) {
      what.on_gpu = true;
    } else if (std::strcmp(argv[i], "--sample") == 0) {
      what.sample = true;
    } else if (std::strcmp(argv[i], "--profile") == 0) {
      what.profile = true;
    } else if (std::strcmp(argv[i], "--no-cache") == 0) {
      what.kv_cache = false;
    } else {
      what.model = argv[i];
    }
  }
  if (what.on_gpu && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "libtorch's CUDA library cannot be loaded: %s\n", dlerror());
    return 2;
  }
  if (what.model.empty() && what.on_gpu) return finesweep::worker::measure_table(what);
  if (what.model.empty() || what.times < 1 || what.rows < 1 || what.prompt < 1 || what.fresh < 2) {
    std::fprintf(stderr,
                 "usage: %s MODEL [--threads N] [--rows N] [--prompt N] [--new N] [--times N] [--bf16 | --fp16] "
                 "[--no-cache] [--gpu] [--sample] [--profile]\n",
                 argv[0]);
    return 2;
  }
  return finesweep::worker::measure(what);
}
