// Microseconds of the kernels that a decoding step consists of, on the first GPU, beside libtorch's own products.
// Each is captured many times over one weight after the other, so that none comes from a cache.
//
//   engine_decode_bench

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <tuple>
#include <vector>

#include "worker/generation/token_choice.h"
#include "worker/kernels/decode_attention.h"
#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/gpu/graph.h"

namespace finesweep::worker {
namespace {

const c10::Device kDevice(c10::kCUDA, 0);

at::Tensor random(std::vector<std::int64_t> shape, at::ScalarType type) {
  return at::randn(shape, at::TensorOptions(at::kFloat).device(kDevice)).to(type);
}

void wait() {
  const c10::impl::VirtualGuardImpl guard(kDevice.type());
  guard.synchronizeDevice(0);
}

/// Microseconds of one call: the least of some replays of `count` of them.
double time_of(int count, const std::function<void(int)>& work) {
  CapturedGraph::warm_up(kDevice, [&] { work(0); });
  auto graph = CapturedGraph::capture(kDevice, [&] {
    for (int i = 0; i < count; ++i) work(i);
  });
  if (!graph) {
    std::printf("not captured: %s\n", graph.error().message.c_str());
    return 0;
  }
  double least = 1e30;
  for (int time = 0; time < 8; ++time) {
    wait();
    const auto begin = std::chrono::steady_clock::now();
    graph->replay();
    wait();
    least = std::min(least,
                     std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
  }
  return least / count;
}

struct Product {
  const char* name;
  std::int64_t in, out;
  bool normed, adds;
};

void time_products(at::ScalarType type, const std::vector<Product>& products,
                   const std::vector<std::int64_t>& counts) {
  for (const Product& product : products) {
    const double bytes = static_cast<double>(product.in * product.out) * (type == at::kFloat ? 4 : 2);
    const int copies = static_cast<int>(std::clamp(150e6 / bytes, 2.0, 40.0));
    std::vector<Parameter> weights(static_cast<std::size_t>(copies));
    std::vector<LinearModule> modules(weights.size());
    Parameter bias, scale, shift;
    bias.value = random({product.out}, type);
    scale.value = random({product.in}, at::kFloat);
    shift.value = random({product.in}, at::kFloat);
    const NormModule norm{&scale, &shift, 1e-5, NormKind::layer};
    for (std::size_t i = 0; i < weights.size(); ++i) {
      weights[i].value = random({product.out, product.in}, type);
      modules[i].weight = &weights[i];
      modules[i].bias = &bias;
    }
    std::printf("%-10s %5lld -> %5lld %s (%.1f us to read)", product.name, static_cast<long long>(product.in),
                static_cast<long long>(product.out), toString(type), bytes / 3.0e6);
    for (const std::int64_t tokens : counts) {
      const at::Tensor x = random({tokens, product.in}, type), residual = random({tokens, product.out}, type);
      gpu::DecodeLinear what;
      if (product.normed) what.norm = &norm;
      if (product.adds) what.residual = residual;
      const auto library = [&](int i) {
        const at::Tensor y = at::linear(x, weights[static_cast<std::size_t>(i)].value, bias.value);
      };
      if (!gpu::decode_linear(x, modules[0], what).defined()) {
        std::printf(" | %lld: - (%.2f)", static_cast<long long>(tokens), time_of(copies, library));
        continue;
      }
      const double mine =
          time_of(copies, [&](int i) { gpu::decode_linear(x, modules[static_cast<std::size_t>(i)], what); });
      what.norm = nullptr;
      const double bare =
          product.normed
              ? time_of(copies, [&](int i) { gpu::decode_linear(x, modules[static_cast<std::size_t>(i)], what); })
              : mine;
      const double theirs = time_of(copies, library);
      std::printf(" | %lld: %.2f %.2f (%.2f)", static_cast<long long>(tokens), mine, bare, theirs);
    }
    std::printf("\n");
  }
}

void time_others() {
  for (const std::int64_t tokens : {1, 8, 64}) {
    const at::Tensor x = random({tokens, 768}, at::kBFloat16), y = random({tokens, 768}, at::kBFloat16);
    const at::Tensor wide = random({tokens, 3072}, at::kBFloat16);
    Parameter scale, shift;
    scale.value = random({768}, at::kFloat);
    shift.value = random({768}, at::kFloat);
    const NormModule norm{&scale, &shift, 1e-5, NormKind::layer};
    const at::Tensor head = random({50257, 768}, at::kBFloat16);
    const at::Tensor padded = random({tokens, 50264}, at::kBFloat16);
    at::Tensor logits = padded.narrow(1, 0, 50257);
    std::printf("others     %lld tokens | norm %.2f | add %.2f | gelu %.2f | head by mm %.2f | to fp32 %.2f\n",
                static_cast<long long>(tokens), time_of(40, [&](int) { gpu::decode_norm(x, norm); }),
                time_of(40, [&](int) { y.add_(x); }), time_of(40, [&](int) { at::gelu(wide, "tanh"); }),
                time_of(10, [&](int) { at::mm_out(logits, x, head.t()); }),
                time_of(10, [&](int) { logits.to(at::kFloat).contiguous(); }));
  }
}

void time_attention(const char* name, at::ScalarType type, std::int64_t heads, std::int64_t size, std::int64_t held,
                    std::int64_t capacity) {
  std::printf("%-10s %lld x %lld over %lld", name, static_cast<long long>(heads), static_cast<long long>(size),
              static_cast<long long>(held));
  for (const std::int64_t rows : {1, 8, 64}) {
    AttentionOptions options;
    options.heads = heads;
    options.size = size;
    options.causal = true;
    const at::Tensor qkv = random({rows, 3 * heads * size}, type);
    std::vector<at::Tensor> caches;
    for (int i = 0; i < 12; ++i) caches.push_back(random({rows, capacity, 2 * heads * size}, type));
    CountedCache counted;
    counted.settled = true;
    counted.lengths = at::full({rows}, held, at::TensorOptions(at::kLong).device(kDevice));
    const double time = time_of(
        12, [&](int i) { decode_attention(qkv, caches[static_cast<std::size_t>(i)], counted, options, nullptr); });
    std::printf(" | %lld rows: %.2f", static_cast<long long>(rows), time);
  }
  std::printf("\n");
}

void time_choices() {
  for (const std::int64_t rows : {1, 8, 64}) {
    const at::Tensor logits = random({rows, 50257}, at::kFloat) * 3;
    std::printf("choice     %lld rows", static_cast<long long>(rows));
    for (const auto& [name, samples, top_k] : {std::tuple<const char*, bool, std::int64_t>{"greedy", false, 0},
                                               {"top 50", true, 50},
                                               {"all", true, 0},
                                               {"top 3000", true, 3000}}) {
      TokenChoice choice(kDevice, rows, 4096, 50257);
      GenerationOptions options;
      options.max_new_tokens = 4096;
      options.do_sample = samples;
      options.sampling = {0.8, top_k, 0.9};
      choice.begin(std::vector<std::int64_t>(static_cast<std::size_t>(rows), 4), options, 1 << 20);
      std::printf(" | %s %.2f", name, time_of(20, [&](int) { choice.choose(logits, true); }));
    }
    std::printf("\n");
  }
}

int run() {
  const std::vector<std::int64_t> counts = {1, 2, 4, 8, 16, 32, 64};
  std::printf("microseconds by number of tokens: with norm, without, in brackets at::linear with bias\n");
  time_products(at::kBFloat16,
                {{"qkv", 768, 2304, true, false},
                 {"output", 768, 768, false, true},
                 {"up", 768, 3072, true, false},
                 {"down", 3072, 768, false, true},
                 {"head", 768, 50257, true, false}},
                counts);
  time_products(at::kHalf,
                {{"qkv", 2048, 6144, true, false},
                 {"output", 2048, 2048, false, true},
                 {"up", 2048, 8192, true, false},
                 {"down", 8192, 2048, false, true},
                 {"head", 2048, 50257, true, false}},
                {1, 8, 64});
  time_products(at::kFloat, {{"qkv", 768, 2304, true, false}, {"down", 3072, 768, false, true}}, {1, 4, 8});
  time_others();
  time_attention("gpt2", at::kBFloat16, 12, 64, 128, 256);
  time_attention("gpt2", at::kBFloat16, 12, 64, 1000, 1024);
  time_attention("gpt-neo", at::kHalf, 16, 128, 128, 256);
  time_choices();
  return 0;
}

}  // namespace
}  // namespace finesweep::worker

int main() {
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "libtorch's CUDA library cannot be loaded: %s\n", dlerror());
    return 2;
  }
  return finesweep::worker::run();
}
