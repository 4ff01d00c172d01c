// Milliseconds of processor time of attention, forward and with the way back, beside libtorch's
// scaled_dot_product_attention on the same numbers; and of one step of generation over a long cache, with the bytes
// of keys and values read in such a second.
//
//   engine_attention_bench [--threads N] [--bf16]

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <vector>

#include "worker/kernels/ops.h"

namespace finesweep::worker {
namespace {

struct Case {
  const char* name;
  std::int64_t rows, queries, keys, heads, key_heads, size;
  bool causal;
};

double processor_ms(const std::function<void()>& work) {
  std::vector<double> times;
  for (int i = 0; i < 15; ++i) {
    const std::clock_t begin = std::clock();
    work();
    if (i >= 3) times.push_back(static_cast<double>(std::clock() - begin) * 1e3 / CLOCKS_PER_SEC);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Layout full_rows(std::int64_t rows, std::int64_t length) {
  return TokenLayout::of_mask(at::ones({rows, length}, at::kLong), 0);
}

void measure(const Case& c, at::ScalarType type) {
  const at::NoGradGuard no_graph;
  const std::int64_t width = c.heads * c.size, key_width = c.key_heads * c.size;
  const at::Tensor query = at::randn({c.rows * c.queries, width}).to(type);
  const at::Tensor key_value = at::randn({c.rows * c.keys, 2 * key_width}).to(type);
  const at::Tensor gradient = at::randn({c.rows * c.queries, width}).to(type);
  const Layout layout = full_rows(c.rows, c.queries);
  const RowSpans keys = full_rows(c.rows, c.keys)->spans();
  AttentionOptions options;
  options.heads = c.heads;
  options.key_heads = c.key_heads;
  options.size = c.size;
  options.causal = c.causal;
  const auto ours = [&](bool backward) {
    Tape tape;
    const Var q = tape.track(query), kv = tape.track(key_value);
    const Var y = attention(backward ? &tape : nullptr, {q, 0, kv, 0, key_width}, layout, keys, options, {});
    if (!backward) return;
    y.slot->add(gradient);
    tape.backward();
  };
  const auto split = [&](const at::Tensor& x, std::int64_t length, std::int64_t heads) {
    return x.view({c.rows, length, heads, c.size}).transpose(1, 2).contiguous();
  };
  const at::Tensor q = split(query, c.queries, c.heads), dy = split(gradient, c.queries, c.heads);
  const at::Tensor k = split(key_value.narrow(1, 0, key_width).contiguous(), c.keys, c.key_heads);
  const at::Tensor v = split(key_value.narrow(1, key_width, key_width).contiguous(), c.keys, c.key_heads);
  // Its causal mask counts from the first key; a single query sees all of them.
  const bool causal = c.causal && c.queries == c.keys;
  const auto peers = [&](bool backward) {
    if (!backward) {
      at::scaled_dot_product_attention(q, k, v, {}, 0, causal, std::nullopt, c.heads != c.key_heads);
      return;
    }
    const at::AutoGradMode graph(true);
    const at::Tensor a = q.detach().requires_grad_(), b = k.detach().requires_grad_(),
                     d = v.detach().requires_grad_();
    const at::Tensor y =
        at::scaled_dot_product_attention(a, b, d, {}, 0, causal, std::nullopt, c.heads != c.key_heads);
    torch::autograd::grad({y}, {a, b, d}, {dy});
  };
  const double forward = processor_ms([&] { ours(false); }), peer = processor_ms([&] { peers(false); });
  std::printf("%-22s forward %8.3f ms (libtorch %8.3f)", c.name, forward, peer);
  if (c.queries > 1) {
    const double both = processor_ms([&] { ours(true); }), peer_both = processor_ms([&] { peers(true); });
    std::printf(", and back %8.3f ms (libtorch %8.3f)\n", both, peer_both);
  } else {
    const double bytes = static_cast<double>(key_value.nbytes());
    std::printf(", %.1f GB/s (libtorch %.1f)\n", bytes / forward * 1e-6, bytes / peer * 1e-6);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using namespace finesweep::worker;
  int threads = 1;
  at::ScalarType type = at::kFloat;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--bf16") == 0) type = at::kBFloat16;
  }
  at::set_num_threads(threads);
  const Case cases[] = {
      {"encoder 16x128", 16, 128, 128, 12, 12, 64, false},
      {"encoder 16x128 of 26", 16, 128, 128, 12, 12, 26, false},
      {"causal 4x512", 4, 512, 512, 12, 12, 64, true},
      {"causal grouped 4x512", 4, 512, 512, 9, 3, 64, true},
      {"first token 16x128", 16, 1, 128, 12, 12, 64, false},
      {"decode 64x128", 64, 1, 128, 12, 12, 64, true},
      {"decode 64x1024", 64, 1, 1024, 12, 12, 64, true},
      {"decode grouped 64x1024", 64, 1, 1024, 9, 3, 64, true},
  };
  for (const Case& c : cases) measure(c, type);
  return 0;
}
