// Products in FP8 against what the rounded numbers say, computed in fp64, over odd sizes.

#include "worker/kernels/fp8.h"

#include <c10/util/StringUtil.h>

#include <limits>

#include "tests/kernels/support.h"
#include "worker/models/fp8_weight.h"

namespace finesweep::worker {
namespace {

struct Product {
  std::int64_t tokens, in, out;
};
const std::vector<Product> kProducts = {{1, 1, 1},    {3, 5, 7},    {2, 16, 32},
                                        {17, 33, 48}, {64, 96, 40}, {131, 129, 65}};

/// Rows of very different sizes.
at::Tensor uneven(at::IntArrayRef shape, int salt) {
  return numbers(shape, salt) * at::pow(10.0, numbers({shape[0], 1}, salt + 7));
}

/// The numbers that a matrix in FP8 stands for.
at::Tensor exact(const Fp8Rows& rows) {
  return rows.codes.to(at::kDouble) * rows.scales.to(at::kDouble).unsqueeze(1);
}

/// All that e4m3 can say.
at::Tensor all_codes() {
  const at::Tensor values = at::arange(256, at::kInt).to(at::kByte).view(at::kFloat8_e4m3fn).to(at::kFloat);
  return values.index({at::isfinite(values)});
}

TEST(Fp8, each_number_becomes_the_nearest_code_of_its_row_s_scale) {
  const at::Tensor codes = all_codes();
  EXPECT_EQ(codes.max().item<float>(), kFp8Largest);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto& [rows, columns] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {5, 3}, {9, 77}}) {
      SCOPED_TRACE(c10::str(rows, "x", columns, " ", type));
      const at::Tensor x = uneven({rows, columns}, 1).to(type);
      const Fp8Rows quantized = quantize_fp8(x);
      ASSERT_EQ(quantized.codes.scalar_type(), at::kFloat8_e4m3fn);
      const at::Tensor most = at::amax(x.to(at::kFloat).abs(), {1});
      EXPECT_TRUE(at::equal(quantized.scales, most / at::full_like(most, kFp8Largest)));
      const at::Tensor wanted = x.to(at::kFloat) * (at::full_like(most, kFp8Largest) / most).unsqueeze(1);
      const at::Tensor chosen = (wanted - quantized.codes.to(at::kFloat)).abs();
      const at::Tensor best = at::amin((wanted.unsqueeze(2) - codes).abs(), {2});
      EXPECT_TRUE(at::equal(chosen, best));
    }
  }
}

TEST(Fp8, rows_of_nothing_stay_zero_and_broken_rows_stay_broken) {
  const at::Tensor x = numbers({5, 20}, 1);
  x.select(0, 1).zero_();
  x.select(0, 2).mul_(1e-36);
  x[3][7] = std::numeric_limits<float>::infinity();
  x[4][0] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = product_fp8(quantize_fp8(x), quantize_fp8(numbers({6, 20}, 2)), at::kFloat);
  EXPECT_TRUE(at::isfinite(y.select(0, 0)).all().item<bool>());
  EXPECT_TRUE(y.narrow(0, 1, 2).eq(0).all().item<bool>());
  EXPECT_TRUE(at::isnan(y.narrow(0, 3, 2)).all().item<bool>());
}

TEST(Fp8, factors_of_columns_go_in_before_the_rounding) {
  const at::Tensor x = uneven({7, 33}, 1), factors = numbers({33}, 2);
  const Fp8Rows mine = quantize_fp8(x, factors), expected = quantize_fp8(x * factors);
  EXPECT_TRUE(at::equal(mine.codes.view(at::kByte), expected.codes.view(at::kByte)));
  EXPECT_TRUE(at::equal(mine.scales, expected.scales));
}

TEST(Fp8, a_product_is_that_of_what_both_matrices_stand_for) {
  for (const auto& [tokens, in, out] : kProducts) {
    const Fp8Rows a = quantize_fp8(numbers({tokens, in}, 1)), b = quantize_fp8(numbers({out, in}, 2));
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const bool adds : {false, true}) {
        SCOPED_TRACE(c10::str(tokens, "x", in, " to ", out, " ", type, adds ? " with bias and residual" : ""));
        const at::Tensor bias = numbers({out}, 3).to(type), residual = numbers({tokens, out}, 4).to(type);
        at::Tensor expected = at::mm(exact(a), exact(b).t());
        if (adds) expected = expected + bias + residual;
        const at::Tensor mine = adds ? product_fp8(a, b, type, bias, residual) : product_fp8(a, b, type);
        ASSERT_EQ(mine.scalar_type(), type);
        EXPECT_LE(relative_difference(mine, expected), type == at::kFloat ? 1e-6 : 4e-3);
      }
    }
  }
}

TEST(Fp8, products_are_close_to_those_of_what_was_rounded) {
  const at::Tensor x = numbers({64, 96}, 1), w = numbers({48, 96}, 2);
  const at::Tensor mine = product_fp8(quantize_fp8(x), quantize_fp8(w), at::kFloat), whole = at::mm(x, w.t());
  // Each factor is off by up to 1/16 of itself.
  EXPECT_LE(((mine - whole).norm() / whole.norm()).item<double>(), 0.05);
  EXPECT_GE(((mine - whole).norm() / whole.norm()).item<double>(), 1e-3);
}

/// A linear module on a weight in FP8, with bias and LoRA on a part of its columns.
struct LinearCase {
  at::Tensor w;
  Parameter weight, bias, a, b;
  std::shared_ptr<const Fp8Weight> fp8;
  LinearModule module;
  at::ScalarType type;

  LinearCase(std::int64_t in, std::int64_t out, at::ScalarType computed_in, std::int64_t rank) : type(computed_in) {
    w = numbers({out, in}, 1);
    weight.parts.push_back({"w", out});
    fp8 = std::make_shared<Fp8Weight>(w);
    weight.quantized = fp8;
    weight.dequantized_type = type;
    bias = parameter(numbers({out}, 2), type, false);
    module.weight = &weight;
    module.bias = &bias;
    if (rank == 0) return;
    a = parameter(numbers({rank, in}, 3), type, true);
    b = parameter(numbers({(out + 1) / 2, rank}, 4), type, true);
    module.branches.push_back({&a, &b, 0.5, 0, 1, out / 2});
  }
};

TEST(Fp8, a_linear_module_quantises_what_comes_in_both_ways) {
  for (const Sizes& sizes : odd_sizes()) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const std::int64_t rank : {0, 3}) {
        const std::int64_t in = sizes.width(), out = 2 * in + 3;
        SCOPED_TRACE(c10::str(in, " to ", out, " ", type, " rank ", rank));
        LinearCase c(in, out, type, rank);
        const Layout layout = layout_of(sizes.lengths);
        const at::Tensor x = numbers({layout->tokens(), in}, 5).to(type);
        const at::Tensor dy = numbers({layout->tokens(), out}, 6).to(type);
        std::vector<Parameter*> trained;
        if (rank > 0) trained = {&c.a, &c.b};
        const PassResult mine = run_kernel(
            {x}, trained,
            [&](Tape* tape, const std::vector<Var>& v) { return linear(tape, v[0], c.module, layout, {}); }, 6);

        const Fp8Rows weight = quantize_fp8(c.w);
        at::Tensor y = at::mm(exact(quantize_fp8(x)), exact(weight).t()) + c.bias.value;
        at::Tensor dx = at::mm(exact(quantize_fp8(dy, weight.scales)), weight.codes.to(at::kDouble));
        PassResult expected{y, {dx}};
        if (rank > 0) {
          const at::Tensor a = c.a.value.to(at::kDouble), b = c.b.value.to(at::kDouble);
          const at::Tensor columns = dy.to(at::kDouble).narrow(1, out / 2, (out + 1) / 2);
          const at::Tensor down = at::mm(x.to(at::kDouble), a.t()), through = 0.5 * at::mm(columns, b);
          y.narrow(1, out / 2, (out + 1) / 2).add_(0.5 * at::mm(down, b.t()));
          dx.add_(at::mm(through, a));
          expected.gradients.push_back(at::mm(through.t(), x.to(at::kDouble)));
          expected.gradients.push_back(0.5 * at::mm(columns.t(), down));
        }
        expect_same(mine, expected, tolerance(type));
      }
    }
  }
}

TEST(Fp8, columns_that_are_asked_for_alone_are_those_of_the_whole_module) {
  LinearCase c(33, 70, at::kFloat, 3);
  const Layout layout = layout_of({5, 9});
  const at::Tensor x = numbers({14, 33}, 5);
  const at::Tensor whole = linear(nullptr, Var(x), c.module, layout, {}).value;
  for (const auto& [begin, count] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {16, 32}, {69, 1}}) {
    SCOPED_TRACE(c10::str(begin, " + ", count));
    const at::Tensor part = linear(nullptr, Var(x), c.module, layout, {}, Activation::none, begin, count).value;
    EXPECT_LE(relative_difference(part, whole.narrow(1, begin, count)), 1e-6);
    const at::Tensor dy = numbers({14, count}, 6);
    const Fp8Rows weight = quantize_fp8(c.w.narrow(0, begin, count));
    const at::Tensor expected = at::mm(exact(quantize_fp8(dy, weight.scales)), weight.codes.to(at::kDouble));
    EXPECT_LE(relative_difference(c.fp8->quantized_transposed_product(dy, nullptr, begin, count, {}), expected),
              1e-6);
  }
}

TEST(Fp8, a_weight_is_given_back_as_its_codes_say) {
  const at::Tensor w = uneven({37, 20}, 1);
  const Fp8Weight weight(w);
  EXPECT_EQ(weight.rows(), 37);
  EXPECT_EQ(weight.columns(), 20);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor whole = weight.dequantize(type, 0, 37);
    EXPECT_TRUE(at::equal(weight.dequantize(type, 5, 9), whole.narrow(0, 5, 9)));
  }
  const at::Tensor apart = (weight.dequantize(at::kFloat, 0, 37) - w).abs();
  // Half a step of three bits of mantissa, and half the smallest code below.
  EXPECT_TRUE(apart.le(w.abs() / 16 + at::amax(w.abs(), {1}, true) * 3e-6).all().item<bool>());
}

}  // namespace
}  // namespace finesweep::worker
