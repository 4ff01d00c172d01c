// New tokens a second on a CPU: greedy generation after a prompt of random ids.
//
//   engine_generate_bench MODEL [--threads N] [--rows N] [--prompt N] [--new N] [--times N] [--bf16] [--no-cache]
//
// MODEL is a Hugging Face directory or a GGUF file of a decoder-only model. The peer is
// `tests/bench/peers/hf_lm.py generate` with the same options.

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

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
  bool low = false, kv_cache = true;
};

int measure(const Case& what) {
  at::set_num_threads(what.threads);
  ModelOptions model_options;
  model_options.head = ModelHead::language_model;
  model_options.frozen = true;
  model_options.precision = what.low ? Precision::bf16 : Precision::fp32;
  const auto pretrained = require(load_pretrained(what.model, what.low ? at::kBFloat16 : at::kFloat));
  const auto model = require(make_model(pretrained, model_options));
  GenerationOptions options;
  options.max_new_tokens = what.fresh;
  options.kv_cache = what.kv_cache;
  RandomStream random(1, purpose::data_order);
  Prompts prompts(static_cast<std::size_t>(what.rows));
  for (auto& prompt : prompts) {
    for (std::int64_t i = 0; i < what.prompt; ++i)
      prompt.push_back(5 + static_cast<std::int64_t>(random.next_below(40000)));
  }
  std::vector<double> times;
  for (int i = 0; i <= what.times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    require(generate(*model->language_model(), prompts, options));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (i > 0) times.push_back(time.count());
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf(
      "finesweep generate %s %lld rows, %lld + %lld tokens, %s, threads %d: median %.1f ms, least %.1f ms, "
      "%.1f new tokens/s\n",
      what.low ? "bf16" : "fp32", static_cast<long long>(what.rows), static_cast<long long>(what.prompt),
      static_cast<long long>(what.fresh), what.kv_cache ? "cache" : "no cache", what.threads, median, times[0],
      static_cast<double>(what.rows * what.fresh) / median * 1e3);
  return 0;
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
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
      what.low = true;
    } else if (std::strcmp(argv[i], "--no-cache") == 0) {
      what.kv_cache = false;
    } else {
      what.model = argv[i];
    }
  }
  if (what.model.empty() || what.times < 1 || what.rows < 1 || what.prompt < 1 || what.fresh < 1) {
    std::fprintf(
        stderr,
        "usage: %s MODEL [--threads N] [--rows N] [--prompt N] [--new N] [--times N] [--bf16] [--no-cache]\n",
        argv[0]);
    return 2;
  }
  return finesweep::worker::measure(what);
}
