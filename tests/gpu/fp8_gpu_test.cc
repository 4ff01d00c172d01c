// FP8 on the first GPU beside plain tensor operations on the CPU. Skipped where libtorch sees no GPU; what only
// tensor cores for FP8 do, where it has none.

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/gpu/gpu.h"
#include "tests/kernels/support.h"
#include "worker/executor.h"
#include "worker/kernels/fp8.h"
#include "worker/kernels/gpu/fp8.h"
#include "worker/kernels/gpu/graph.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/library.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/models/fp8_weight.h"

namespace finesweep::worker {
namespace {

using gpu::Fp8Way;

class Fp8OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
  }

  static Fp8Rows on_gpu(const Fp8Rows& rows) { return {there(rows.codes), there(rows.scales)}; }

  /// Of what both stand for, in fp64.
  static at::Tensor exact(const Fp8Rows& a, const Fp8Rows& b) {
    const auto whole = [](const Fp8Rows& rows) {
      return rows.codes.to(at::kDouble) * rows.scales.to(at::kDouble).unsqueeze(1);
    };
    return at::mm(whole(a), whole(b).t());
  }
  static double apart(const at::Tensor& mine, const at::Tensor& expected) {
    return ((mine.cpu().to(at::kDouble) - expected).norm() / (expected.norm() + 1e-12)).item<double>();
  }
};

const char* name_of(Fp8Way way) {
  switch (way) {
    case Fp8Way::whole:
      return "whole";
    case Fp8Way::scaled:
      return "scaled";
    case Fp8Way::scaled_behind:
      return "scaled behind";
    case Fp8Way::none:
      break;
  }
  return "none";
}

TEST_F(Fp8OnGpu, codes_and_scales_are_the_reference_s_bit_for_bit_in_all_sizes) {
  for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1},    {3, 7},    {5, 8},     {2, 40},    {9, 256},   {6, 264},   {7, 512},  {5, 768},   {130, 1024},
           {3, 1032}, {4, 2048}, {3, 3072},  {5, 4096},  {2, 5632},  {3, 8192},  {2, 8200}, {3, 12288}, {2, 1000},
           {2, 1001}, {2, 9001}, {3, 11264}, {2, 16384}, {2, 22016}, {2, 32768}, {2, 32776}}) {
    for (const bool with_factors : {false, true}) {
      for (const bool inside : {false, true}) {
        SCOPED_TRACE(::testing::Message() << rows << "x" << columns << " factors " << with_factors
                                          << (inside ? " inside of a wider matrix" : ""));
        at::Tensor x = (numbers({rows, columns}, 1) * at::pow(10.0, 3 * numbers({rows, 1}, 2))).to(at::kBFloat16);
        if (rows > 2) {
          x.select(0, 0).zero_();
          x[1][columns / 2] = std::numeric_limits<float>::quiet_NaN();
          x[2][columns - 1] = std::numeric_limits<float>::infinity();
        }
        const at::Tensor factors = with_factors ? numbers({columns}, 3) : at::Tensor();
        const Fp8Rows expected = reference::quantize_fp8(x, factors);
        at::Tensor input = there(x);
        if (inside) {
          const at::Tensor wide = at::zeros({rows, columns + 24}, input.options());
          wide.narrow(1, 8, columns).copy_(input);
          input = wide.narrow(1, 8, columns);
        }
        ASSERT_TRUE(gpu::quantizes_fp8(input));
        const Fp8Rows mine = quantize_fp8(input, with_factors ? there(factors) : at::Tensor());
        const at::Tensor codes = mine.codes.view(at::kByte).cpu(), right = expected.codes.view(at::kByte);
        // A NaN's sign is nobody's business.
        const at::Tensor differs = codes.ne(right).logical_and(
            codes.bitwise_and(127).eq(127).logical_and(right.bitwise_and(127).eq(127)).logical_not());
        EXPECT_EQ(differs.sum().item<std::int64_t>(), 0)
            << "first at "
            << differs.nonzero().narrow(0, 0, std::min<std::int64_t>(1, differs.sum().item<std::int64_t>()));
        EXPECT_TRUE(at::allclose(mine.scales.cpu(), expected.scales, 0, 0, /*equal_nan=*/true));
      }
    }
  }
}

TEST_F(Fp8OnGpu, cublaslt_multiplies_as_the_rounded_numbers_say_in_every_way_that_it_has) {
  const Json device = describe_device("cuda:0");
  std::printf("%s\n", device.dump().c_str());
  for (const auto& [tokens, in, out] : std::vector<std::array<std::int64_t, 3>>{{16, 16, 16},
                                                                                {1, 64, 48},
                                                                                {43, 48, 144},
                                                                                {512, 768, 2304},
                                                                                {4096, 768, 3072},
                                                                                {4096, 3072, 768},
                                                                                {1001, 768, 768}}) {
    const Fp8Rows a = reference::quantize_fp8(numbers({tokens, in}, 1), {});
    const Fp8Rows b = reference::quantize_fp8(numbers({out, in}, 2) * at::pow(10.0, numbers({out, 1}, 3)), {});
    const Fp8Rows a_there = on_gpu(a), b_there = on_gpu(b);
    const at::Tensor product = at::mm(dequantize(a, at::kFloat), dequantize(b, at::kFloat).t()).to(at::kDouble);
    const at::Tensor bias = numbers({out}, 4).to(at::kBFloat16);
    const at::Tensor residual = numbers({tokens, out}, 5).to(at::kBFloat16);
    for (const Fp8Way way : {Fp8Way::whole, Fp8Way::scaled, Fp8Way::scaled_behind}) {
      for (const int addends : {0, 1, 2, 3}) {
        const bool with_bias = (addends & 1) != 0, with_residual = (addends & 2) != 0;
        SCOPED_TRACE(::testing::Message() << tokens << "x" << in << " to " << out << " " << name_of(way)
                                          << (with_bias ? " bias" : "") << (with_residual ? " residual" : ""));
        const at::Tensor y = gpu::product_fp8_by(way, a_there, b_there, with_bias ? there(bias) : at::Tensor(),
                                                 with_residual ? there(residual) : at::Tensor());
        if (!y.defined()) {
          std::printf("no %s product of %lld x %lld x %lld%s%s: %s\n", name_of(way), static_cast<long long>(tokens),
                      static_cast<long long>(out), static_cast<long long>(in), with_bias ? " bias" : "",
                      with_residual ? " residual" : "", graph_module()->error());
          continue;
        }
        at::Tensor expected = product;
        if (with_bias) expected = expected + bias;
        if (with_residual) expected = expected + residual;
        EXPECT_LE(apart(y, expected), way == Fp8Way::scaled_behind ? 5e-3 : 3e-3);
      }
    }
  }
}

TEST_F(Fp8OnGpu, a_product_of_any_shape_is_the_reference_s) {
  for (const auto& [tokens, in, out] : std::vector<std::array<std::int64_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {17, 48, 40}, {43, 40, 48}, {64, 96, 144}, {9, 768, 776}, {131, 768, 2304}}) {
    const Fp8Rows a = reference::quantize_fp8(numbers({tokens, in}, 1), {});
    const Fp8Rows b = reference::quantize_fp8(numbers({out, in}, 2), {});
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const bool adds : {false, true}) {
        SCOPED_TRACE(::testing::Message() << tokens << "x" << in << " to " << out << " " << toString(type) << adds);
        const at::Tensor bias = numbers({out}, 3).to(type), residual = numbers({tokens, out}, 4).to(type);
        const at::Tensor mine = adds ? product_fp8(on_gpu(a), on_gpu(b), type, there(bias), there(residual))
                                     : product_fp8(on_gpu(a), on_gpu(b), type);
        at::Tensor expected = exact(a, b);
        if (adds) expected = expected + bias + residual;
        EXPECT_LE(apart(mine, expected), type == at::kFloat ? 1e-4 : 5e-3);
      }
    }
  }
}

TEST_F(Fp8OnGpu, a_row_that_is_not_finite_stays_in_its_row) {
  at::Tensor x = numbers({64, 96}, 1).to(at::kBFloat16);
  x[5][7] = std::numeric_limits<float>::quiet_NaN();
  x[9][95] = std::numeric_limits<float>::infinity();
  const at::Tensor y = product_fp8(quantize_fp8(there(x)),
                                   quantize_fp8(there(numbers({48, 96}, 2).to(at::kBFloat16))), at::kBFloat16)
                           .cpu();
  for (std::int64_t r = 0; r < 64; ++r) {
    EXPECT_EQ(at::isnan(y[r]).all().item<bool>(), r == 5 || r == 9) << r;
    EXPECT_EQ(at::isfinite(y[r]).all().item<bool>(), r != 5 && r != 9) << r;
  }
}

TEST_F(Fp8OnGpu, norms_and_activations_quantise_what_they_give_as_a_kernel_of_its_own_does) {
  const at::NoGradGuard no_graph;
  const auto expect_rows = [](const Fp8Rows* mine, const at::Tensor& of, const at::Tensor& factors = {}) {
    ASSERT_NE(mine, nullptr);
    const Fp8Rows expected = quantize_fp8(of, factors);
    EXPECT_TRUE(at::equal(mine->codes.view(at::kByte), expected.codes.view(at::kByte)));
    EXPECT_TRUE(at::equal(mine->scales, expected.scales));
  };
  for (const std::int64_t width : {8, 48, 78, 264, 768, 1024, 2048, 3072, 5120, 8192}) {
    SCOPED_TRACE(width);
    Parameter next_weight;
    next_weight.parts.push_back({"w", 16});
    next_weight.quantized = std::make_shared<Fp8Weight>(there(numbers({16, width}, 1)));
    LinearModule next;
    next.weight = &next_weight;
    const Layout layout = layout_of({17, 33, 16, 5});
    const std::int64_t tokens = layout->tokens();
    const at::Tensor x = there(numbers({tokens, width}, 2).to(at::kBFloat16));
    Parameter weight = parameter(there(numbers({width}, 3)), at::kFloat, false);
    Parameter bias = parameter(there(numbers({width}, 4)), at::kFloat, false);
    const NormModule centred{&weight, &bias, 1e-5, NormKind::layer};
    const Var plain = norm(nullptr, Var(x), centred, &next);
    expect_rows(plain.fp8.get(), plain.value);
    EXPECT_TRUE(at::equal(plain.value, norm(nullptr, Var(x), centred).value));
    EXPECT_EQ(norm(nullptr, Var(x), centred).fp8, nullptr);
    const Var sum = add_norm(nullptr, Var(x.clone()), Var(x), centred, layout,
                             make_dropout(0.1, {true, 42, 7, nullptr}, 3), &next);
    expect_rows(sum.fp8.get(), sum.value);

    if (width % 8 != 0) continue;
    const at::Tensor dy = there(numbers({tokens, width}, 5).to(at::kBFloat16));
    const at::Tensor factors = there(numbers({width}, 6));
    for (const Activation activation : {Activation::gelu, Activation::gelu_tanh}) {
      ASSERT_TRUE(gpu::fuses_fp8(x, activation));
      const auto rows = gpu::empty_fp8_for(&next, x);
      ASSERT_NE(rows, nullptr);
      const at::Tensor y = at::empty_like(x), expected = at::empty_like(x);
      gpu::activate(x, expected, activation);
      gpu::activate(x, y, *rows, activation);
      EXPECT_LE(relative_difference(y, expected), 1e-2);
      expect_rows(rows.get(), y);
      const auto alone = gpu::empty_fp8_for(&next, x);
      gpu::activate(x, {}, *alone, activation);
      expect_rows(alone.get(), y);
      gpu::activation_gradient(x, dy, expected, activation);
      const at::Tensor dz = dy.clone();
      gpu::activation_gradient(x, dz, dz, factors, *rows, activation);
      EXPECT_LE(relative_difference(dz, expected), 1e-2);
      expect_rows(rows.get(), dz, factors);
      gpu::activation_gradient(x, dy, {}, factors, *alone, activation);
      expect_rows(alone.get(), dz, factors);
    }
    EXPECT_FALSE(gpu::fuses_fp8(x, Activation::relu));
  }
}

TEST_F(Fp8OnGpu, gates_quantise_what_they_give_as_kernels_of_their_own_do) {
  const at::NoGradGuard no_graph;
  const auto expect_rows = [](const Fp8Rows& mine, const at::Tensor& of, const at::Tensor& factors = {}) {
    const Fp8Rows expected = quantize_fp8(of, factors);
    EXPECT_TRUE(at::equal(mine.codes.view(at::kByte), expected.codes.view(at::kByte)));
    EXPECT_TRUE(at::equal(mine.scales, expected.scales));
  };
  const auto room = [](const at::Tensor& like) {
    return Fp8Rows{at::empty(like.sizes(), like.options().dtype(at::kFloat8_e4m3fn)),
                   at::empty({like.size(0)}, like.options().dtype(at::kFloat))};
  };
  for (const std::int64_t inner : {8, 48, 264, 1024, 1536, 4096, 5632, 8192, 11008, 16384}) {
    for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
      SCOPED_TRACE(::testing::Message() << inner << " activation " << static_cast<int>(activation));
      ASSERT_TRUE(gpu::fuses_fp8_gate(2 * inner, activation));
      const at::Tensor z = there(numbers({37, 2 * inner}, 1).to(at::kBFloat16));
      const at::Tensor dy = there(numbers({37, inner}, 2).to(at::kBFloat16)),
                       factors = there(numbers({2 * inner}, 3));
      const at::Tensor y = at::empty_like(dy), dz = at::empty_like(z), y_too = at::empty_like(y),
                       dz_too = at::empty_like(z);
      gpu::gate(z, y, activation);
      gpu::gate_gradient(z, dy, dz, activation);
      const Fp8Rows rows = room(y), alone = room(y), gradient = room(dz), gradient_alone = room(dz);
      gpu::gate(z, y_too, rows, activation);
      gpu::gate(z, {}, alone, activation);
      gpu::gate_gradient(z, dy, dz_too, factors, gradient, activation);
      gpu::gate_gradient(z, dy, {}, factors, gradient_alone, activation);
      EXPECT_TRUE(at::equal(y_too, y));
      EXPECT_TRUE(at::equal(dz_too, dz));
      for (const Fp8Rows* mine : {&rows, &alone}) expect_rows(*mine, y);
      for (const Fp8Rows* mine : {&gradient, &gradient_alone}) expect_rows(*mine, dz, factors);
    }
  }
  EXPECT_FALSE(gpu::fuses_fp8_gate(24, Activation::silu)) << "halves are not whole vectors";
  EXPECT_FALSE(gpu::fuses_fp8_gate(32784, Activation::silu)) << "wider than registers hold";
  EXPECT_FALSE(gpu::fuses_fp8_gate(64, Activation::relu));
}

TEST_F(Fp8OnGpu, a_feed_forward_block_is_that_of_the_cpu_wherever_its_adapters_are) {
  const at::NoGradGuard no_graph;
  for (const auto& [width, inner] : std::vector<std::pair<std::int64_t, std::int64_t>>{{48, 192}, {768, 3072}}) {
    for (const Activation activation :
         {Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::relu}) {
      for (const int form : {0, 1, 2, 3, 4, 5, 6, 7}) {
        const int adapted = form & 3;
        const bool is_gated = form >= 4;
        const std::int64_t rows = is_gated ? 2 * inner : inner;
        SCOPED_TRACE(::testing::Message() << width << " activation " << static_cast<int>(activation) << " adapters "
                                          << adapted << (is_gated ? " gated" : ""));
        const Layout layout = layout_of({17, 33, 16, 64});
        const auto run = [&](c10::Device device) {
          Parameter up_weight, down_weight;
          up_weight.parts.push_back({"up", rows});
          up_weight.quantized = std::make_shared<Fp8Weight>(numbers({rows, width}, 1).to(device) / 16);
          down_weight.parts.push_back({"down", width});
          down_weight.quantized = std::make_shared<Fp8Weight>(numbers({width, inner}, 2).to(device) / 16);
          Parameter up_bias = parameter(numbers({rows}, 3).to(device), at::kBFloat16, false);
          Parameter down_bias = parameter(numbers({width}, 4).to(device), at::kBFloat16, false);
          Parameter a = parameter(numbers({8, width}, 5).to(device) / 16, at::kBFloat16, true);
          Parameter b = parameter(numbers({rows, 8}, 6).to(device) / 4, at::kBFloat16, true);
          Parameter a2 = parameter(numbers({8, inner}, 7).to(device) / 16, at::kBFloat16, true);
          Parameter b2 = parameter(numbers({width, 8}, 8).to(device) / 4, at::kBFloat16, true);
          LinearModule up, down;
          up.weight = &up_weight;
          up.bias = &up_bias;
          down.weight = &down_weight;
          down.bias = &down_bias;
          if ((adapted & 1) != 0) up.branches.push_back({&a, &b, 0.5, 0, 1, 0});
          if ((adapted & 2) != 0) down.branches.push_back({&a2, &b2, 0.5, 0, 2, 0});
          Tape tape;
          const Var x = tape.track(numbers({layout->tokens(), width}, 9).to(at::kBFloat16).to(device));
          const Var middle = is_gated ? linear_gated(&tape, x, up, layout, {}, activation, &down)
                                      : linear(&tape, x, up, layout, {}, activation, 0, -1, &down);
          const Var y = linear_add(&tape, middle, down, x, layout, {}, {});
          PassResult result{y.value.cpu(), {}};
          y.slot->add(numbers({layout->tokens(), width}, 10).to(at::kBFloat16).to(device));
          tape.backward();
          result.gradients.push_back(x.slot->grad.cpu());
          for (const Parameter* p : {&a, &b, &a2, &b2}) result.gradients.push_back(p->grad.cpu());
          return result;
        };
        const PassResult expected = run(c10::Device(c10::kCPU)), mine = run(kGpu);
        EXPECT_LE(apart(mine.value, expected.value.to(at::kDouble)), 2e-2) << "value";
        for (std::size_t i = 0; i < mine.gradients.size(); ++i) {
          EXPECT_LE(apart(mine.gradients[i], expected.gradients[i].to(at::kDouble)), 5e-2) << "gradient " << i;
        }
      }
    }
  }
}

TEST_F(Fp8OnGpu, a_linear_module_and_its_adapter_are_those_of_the_cpu_both_ways) {
  const at::NoGradGuard no_graph;
  for (const auto& [in, out] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {48, 144}, {78, 33}, {768, 2304}, {96, 48}, {3072, 768}}) {
    for (const std::int64_t rank : {0, 8}) {
      for (const auto& [begin, count] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, out}, {16, 16}}) {
        SCOPED_TRACE(::testing::Message()
                     << in << " to " << out << " rank " << rank << " columns " << begin << " + " << count);
        const Layout layout = layout_of({17, 33, 16, 64});
        const auto run = [&](c10::Device device) {
          Parameter weight;
          weight.parts.push_back({"w", out});
          weight.quantized = std::make_shared<Fp8Weight>(numbers({out, in}, 1).to(device) / 16);
          weight.dequantized_type = at::kBFloat16;
          Parameter bias = parameter(numbers({out}, 2).to(device), at::kBFloat16, false);
          Parameter a = parameter(numbers({8, in}, 3).to(device) / 16, at::kBFloat16, true);
          Parameter b = parameter(numbers({out, 8}, 4).to(device) / 4, at::kBFloat16, true);
          LinearModule module;
          module.weight = &weight;
          module.bias = &bias;
          if (rank > 0) module.branches.push_back({&a, &b, 0.5, 0, 1, 0});
          Tape tape;
          const Var x = tape.track(numbers({layout->tokens(), in}, 5).to(at::kBFloat16).to(device));
          const Var y = linear(&tape, x, module, layout, {}, Activation::gelu_tanh, begin, count);
          PassResult result{y.value.cpu(), {}};
          y.slot->add(numbers({layout->tokens(), count}, 6).to(at::kBFloat16).to(device));
          // A second gradient at the same place.
          x.slot->add(numbers({layout->tokens(), in}, 7).to(at::kBFloat16).to(device));
          tape.backward();
          result.gradients.push_back(x.slot->grad.cpu());
          if (rank > 0) result.gradients.insert(result.gradients.end(), {a.grad.cpu(), b.grad.cpu()});
          return result;
        };
        const PassResult expected = run(c10::Device(c10::kCPU)), mine = run(kGpu);
        EXPECT_LE(apart(mine.value, expected.value.to(at::kDouble)), 1e-2) << "value";
        for (std::size_t i = 0; i < mine.gradients.size(); ++i) {
          EXPECT_LE(apart(mine.gradients[i], expected.gradients[i].to(at::kDouble)), 3e-2) << "gradient " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace finesweep::worker
