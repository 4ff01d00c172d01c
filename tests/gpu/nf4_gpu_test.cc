// The kernels for NF4 beside the plain tensor operations. Skipped where libtorch sees no GPU.

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "tests/gpu/gpu.h"
#include "worker/kernels/cuda/module.h"
#include "worker/quantization/nf4_cuda.h"
#include "worker/quantization/nf4_product.h"
#include "worker/quantization/nf4_reference.h"

namespace finesweep::worker {
namespace {

class Nf4OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
  }

  static Nf4Tensor quantized(std::int64_t out, std::int64_t in, const Nf4Options& options) {
    return quantize_nf4(at::randn({out, in}, at::kFloat), options).to(at::Device(at::kCUDA, 0));
  }
};

TEST_F(Nf4OnGpu, dequantised_values_are_the_reference_s_bit_for_bit_in_all_sizes) {
  for (const auto& [out, in] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1}, {1, 3}, {3, 5}, {7, 64}, {5, 96}, {48, 144}, {64, 64}, {33, 129}, {768, 2304}, {1, 70000}}) {
    for (const bool nested : {false, true}) {
      for (const std::int64_t block : {32, 64, 128, 48}) {
        const Nf4Tensor tensor = quantized(out, in, {block, nested});
        for (const at::ScalarType type : kFloatTypes) {
          SCOPED_TRACE(testing::Message()
                       << out << "x" << in << " block " << block << " nested " << nested << " " << toString(type));
          EXPECT_TRUE(at::equal(dequantize(tensor, type), reference::dequantize(tensor, type)));
        }
      }
    }
  }
}

TEST_F(Nf4OnGpu, any_part_of_a_matrix_is_dequantised_alone) {
  const Nf4Tensor tensor = quantized(37, 129, {64, true});
  const at::Tensor whole = dequantize(tensor, at::kBFloat16).view({-1});
  for (const auto& [first, count] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 1}, {1, 2}, {31, 34}, {64, 640}, {129, 129}, {4000, 773}}) {
    const at::Tensor part = at::full({count}, 99.0f, whole.options());
    cuda::dequantize(tensor, first, part);
    EXPECT_TRUE(at::equal(part, whole.narrow(0, first, count))) << first << " " << count;
  }
}

TEST_F(Nf4OnGpu, products_are_those_with_the_dequantised_matrix) {
  for (const auto& [out, in] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 64}, {9, 192}, {768, 768}, {2304, 768}, {333, 2048}, {48, 60}}) {
    for (const bool nested : {false, true}) {
      const Nf4Tensor w = quantized(out, in, {64, nested});
      for (const std::int64_t tokens : {1, 2, 3, 5, 8, 9, 64}) {
        for (const at::ScalarType type : kFloatTypes) {
          SCOPED_TRACE(testing::Message() << tokens << "x" << in << " to " << out << " " << toString(type));
          const at::Tensor x = at::randn({tokens, in}, at::TensorOptions(type).device(at::kCUDA));
          const at::Tensor exact = at::mm(x.to(at::kDouble), reference::dequantize(w, type).to(at::kDouble).t());
          const at::Tensor mine = product_with_nf4(x, w).to(at::kDouble);
          const double bound = type == at::kFloat ? 1e-5 : type == at::kHalf ? 2e-3 : 1.2e-2;
          EXPECT_LE((mine - exact).norm().item<double>(), bound * exact.norm().item<double>() + 1e-12);
        }
      }
    }
  }
}

}  // namespace
}  // namespace finesweep::worker
