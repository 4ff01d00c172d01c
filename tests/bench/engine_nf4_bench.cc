// Milliseconds of products with an NF4 weight that stays quantised, beside dequantising it whole and multiplying
// with libtorch: forward for few and many tokens, backward, dequantising and quantising alone.
//
//   engine_nf4_bench [--out N] [--in N] [--threads N]
//
// Each time stands beside the time that all threads of the process together were running, which is what to compare
// on a busy machine.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <vector>

#include "worker/quantization/nf4.h"
#include "worker/quantization/nf4_product.h"

namespace finesweep::worker {
namespace {

struct Time {
  double wall_ms = 0, processor_ms = 0;
};

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Time time_of(const std::function<void()>& work) {
  std::vector<double> wall, processor;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 300; ++i) {
    const std::clock_t processor_start = std::clock();
    const auto start = std::chrono::steady_clock::now();
    work();
    const auto end = std::chrono::steady_clock::now();
    processor.push_back(static_cast<double>(std::clock() - processor_start) * 1e3 / CLOCKS_PER_SEC);
    wall.push_back(std::chrono::duration<double, std::milli>(end - start).count());
    if (i >= 7 && end - begin > std::chrono::milliseconds(1500)) break;
  }
  return {median(wall), median(processor)};
}

void print(const char* what, const std::function<void()>& work) {
  const Time time = time_of(work);
  std::printf("  %-34s %8.3f ms, processor %8.3f ms\n", what, time.wall_ms, time.processor_ms);
  std::fflush(stdout);
}

void measure(std::int64_t out, std::int64_t in) {
  const at::Tensor w = at::randn({out, in});
  const Nf4Tensor q = quantize_nf4(w);
  std::printf("NF4 [%lld, %lld], %.2f bits a value, %d threads\n", static_cast<long long>(out),
              static_cast<long long>(in), static_cast<double>(q.bytes()) * 8 / static_cast<double>(q.values()),
              at::get_num_threads());
  print("quantise", [&] { (void)quantize_nf4(w); });
  print("dequantise to fp32", [&] { (void)dequantize(q); });
  print("dequantise to bf16", [&] { (void)dequantize(q, at::kBFloat16); });
  for (const std::int64_t tokens : {1, 2, 4, 8, 16, 64, 512}) {
    std::printf(" %lld tokens\n", static_cast<long long>(tokens));
    const at::Tensor x = at::randn({tokens, in}), dy = at::randn({tokens, out});
    print("x wᵀ", [&] { (void)product_with_nf4(x, q); });
    print("x wᵀ: dequantise + at::mm", [&] { (void)at::mm(x, dequantize(q).t()); });
    print("x wᵀ: at::mm alone, w in fp32", [&] { (void)at::mm(x, w.t()); });
    print("dy w", [&] { (void)product_with_transposed_nf4(dy, q); });
    print("dy w: dequantise + at::mm", [&] { (void)at::mm(dy, dequantize(q)); });
  }
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  std::int64_t out = 2048, in = 2048;
  for (int i = 1; i + 1 < argc; i += 2) {
    const long number = std::atol(argv[i + 1]);
    if (std::strcmp(argv[i], "--out") == 0) out = number;
    if (std::strcmp(argv[i], "--in") == 0) in = number;
    if (std::strcmp(argv[i], "--threads") == 0) at::set_num_threads(static_cast<int>(number));
  }
  const at::NoGradGuard no_graph;
  finesweep::worker::measure(out, in);
  return 0;
}
