#include "worker/kernels/ops.h"

#include "tests/kernels/support.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

class Ops : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::ScalarType type() const { return GetParam(); }
  double tolerance() const { return worker::tolerance(type()); }
};

INSTANTIATE_TEST_SUITE_P(BothTypes, Ops, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return info.param == at::kFloat ? "fp32" : "bf16"; });

TEST_P(Ops, linear_with_every_activation_is_its_reference) {
  for (const Activation activation : {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                      Activation::tanh, Activation::silu}) {
    for (const Sizes& sizes : odd_sizes()) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(activation) << " width " << sizes.width());
      const Layout layout = layout_of(sizes.lengths);
      const std::int64_t in = sizes.width(), out = 2 * in + 1;
      Parameter weight = parameter(numbers({out, in}, 1) / std::sqrt(double(in)), type(), true);
      Parameter bias = parameter(numbers({out}, 2), type(), true);
      const LinearModule module{{"m"}, &weight, &bias, {}, {}};
      const at::Tensor x = numbers({layout->tokens(), in}, 3).to(type());
      const PassResult mine = run_kernel(
          {x}, {&weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) { return linear(tape, v[0], module, layout, {}, activation); },
          4);
      const PassResult expected = run_reference(
          {x}, {&weight, &bias},
          [&](const std::vector<at::Tensor>& v) { return reference::linear(v[0], v[1], v[2], {}, activation); }, 4);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(Ops, adapters_on_parts_of_a_stacked_linear_with_dropout_are_their_reference) {
  for (const Sizes& sizes : odd_sizes()) {
    SCOPED_TRACE(sizes.width());
    const Layout layout = layout_of(sizes.lengths, 3, 5);
    const std::int64_t width = sizes.width();
    Parameter weight = parameter(numbers({3 * width, width}, 1) / std::sqrt(double(width)), type(), false);
    Parameter bias = parameter(numbers({3 * width}, 2), type(), false);
    Parameter a1 = parameter(numbers({3, width}, 3) / std::sqrt(double(width)), type(), true),
              b1 = parameter(numbers({width, 3}, 4), type(), true);
    Parameter a2 = parameter(numbers({8, width}, 5) / std::sqrt(double(width)), type(), true),
              b2 = parameter(numbers({width, 8}, 6), type(), true);
    const LinearModule module{
        {"q", "k", "v"}, &weight, &bias, {{&a1, &b1, 0.5, 0.2, 11, 0}, {&a2, &b2, 2.0, 0.0, 12, 2 * width}}, {}};
    const at::Tensor mask = dropout_mask(make_dropout(0.2, kRun, 11), *layout, width);
    const at::Tensor x = numbers({layout->tokens(), width}, 7).to(type());
    const std::vector<Parameter*> parameters{&a1, &b1, &a2, &b2};
    const PassResult mine = run_kernel(
        {x}, parameters,
        [&](Tape* tape, const std::vector<Var>& v) { return linear(tape, v[0], module, layout, kRun); }, 8);
    const PassResult expected = run_reference(
        {x}, parameters,
        [&](const std::vector<at::Tensor>& v) {
          return reference::linear(v[0], weight.value.to(at::kFloat), bias.value.to(at::kFloat),
                                   {{v[1], v[2], 0.5, mask, 0}, {v[3], v[4], 2.0, {}, 2 * width}},
                                   Activation::none);
        },
        8);
    expect_same(mine, expected, tolerance());

    // Columns of the last two parts alone: the first adapter has no part in them.
    for (Parameter* p : parameters) p->zero_grad();
    const PassResult some = run_kernel(
        {x}, {&a2, &b2},
        [&](Tape* tape, const std::vector<Var>& v) {
          return linear(tape, v[0], module, layout, kRun, Activation::none, width, 2 * width);
        },
        9);
    const PassResult some_expected = run_reference(
        {x}, {&a2, &b2},
        [&](const std::vector<at::Tensor>& v) {
          return reference::linear(v[0], weight.value.to(at::kFloat).narrow(0, width, 2 * width),
                                   bias.value.to(at::kFloat).narrow(0, width, 2 * width),
                                   {{v[1], v[2], 2.0, {}, width}}, Activation::none);
        },
        9);
    expect_same(some, some_expected, tolerance());
    EXPECT_EQ(a1.grad.abs().max().item<float>(), 0);
  }
}

TEST_P(Ops, add_norm_with_dropout_is_its_reference) {
  for (const double rate : {0.0, 0.1}) {
    for (const Sizes& sizes : odd_sizes()) {
      SCOPED_TRACE(testing::Message() << rate << " width " << sizes.width());
      const Layout layout = layout_of(sizes.lengths);
      const std::int64_t width = sizes.width();
      Parameter weight = parameter(numbers({width}, 1), at::kFloat, true);
      Parameter bias = parameter(numbers({width}, 2), at::kFloat, true);
      const NormModule module{&weight, &bias, 1e-5};
      const Dropout dropout = make_dropout(rate, kRun, 3);
      const at::Tensor mask = rate > 0 ? dropout_mask(dropout, *layout, width) : at::Tensor();
      const at::Tensor x = numbers({layout->tokens(), width}, 3).to(type());
      const at::Tensor residual = numbers({layout->tokens(), width}, 4).to(type());
      const PassResult mine = run_kernel(
          {x, residual}, {&weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) {
            return add_norm(tape, v[0], v[1], module, layout, dropout);
          },
          5);
      const PassResult expected = run_reference(
          {x, residual}, {&weight, &bias},
          [&](const std::vector<at::Tensor>& v) {
            return reference::norm(reference::add(v[0], v[1], mask), v[2], v[3], NormKind::layer, 1e-5, {});
          },
          5);
      // One token of one channel: the gradient is rounding noise around zero.
      if (width > 1) expect_same(mine, expected, 2 * tolerance());
    }
  }
}

TEST_P(Ops, embedding_with_norm_and_dropout_is_its_reference) {
  for (const Sizes& sizes : odd_sizes()) {
    if (sizes.width() == 1) continue;
    SCOPED_TRACE(sizes.width());
    const Layout layout = layout_of(sizes.lengths);
    const std::int64_t width = sizes.width(), tokens = layout->tokens();
    Parameter words = parameter(numbers({19, width}, 1), type(), true, true);
    Parameter positions = parameter(numbers({200, width}, 2), type(), true, true);
    Parameter types = parameter(numbers({2, width}, 3), type(), true, true);
    Parameter weight = parameter(numbers({width}, 4), at::kFloat, true);
    Parameter bias = parameter(numbers({width}, 5), at::kFloat, true);
    const EmbeddingModule module{&words, &positions, &types, {&weight, &bias, 1e-5}, 4};
    const at::Tensor ids = at::arange(tokens, at::kLong) * 7 % 19, type_ids = at::arange(tokens, at::kLong) % 2;
    const at::Tensor places = at::remainder(layout->padded_index, layout->longest + 3);
    const Dropout dropout = make_dropout(0.1, kRun, 5);
    const std::vector<Parameter*> parameters{&words, &positions, &types, &weight, &bias};
    const PassResult mine = run_kernel(
        {}, parameters,
        [&](Tape* tape, const std::vector<Var>&) {
          return embed(tape, module, ids, places, type_ids, layout, dropout, type());
        },
        6);
    PassResult expected = run_reference(
        {}, parameters,
        [&](const std::vector<at::Tensor>& v) {
          const at::Tensor sum =
              v[0].index_select(0, ids) + v[2].index_select(0, type_ids) + v[1].index_select(0, places);
          return reference::norm(sum, v[3], v[4], NormKind::layer, 1e-5, dropout_mask(dropout, *layout, width));
        },
        6);
    expected.gradients[0][4].zero_();  // the padding id
    expect_same(mine, expected, 2 * tolerance());
    for (const std::int64_t row : words.touched_rows) EXPECT_NE(row, 4);
    EXPECT_LE(words.touched_rows.size(), 18u);
    words.zero_grad();
    EXPECT_EQ(words.grad.abs().max().item<float>(), 0);
  }
}

TEST_P(Ops, pooling_and_dropout_are_their_reference) {
  for (const Sizes& sizes : odd_sizes()) {
    SCOPED_TRACE(sizes.width());
    const Layout layout = layout_of(sizes.lengths);
    const at::Tensor x = numbers({layout->tokens(), sizes.width()}, 1).to(type());
    const auto compare = [&](const auto& kernel, const auto& plain) {
      const PassResult mine = run_kernel(
          {x}, {}, [&](Tape* tape, const std::vector<Var>& v) { return kernel(tape, v[0]); }, 2);
      const PassResult expected = run_reference(
          {x}, {}, [&](const std::vector<at::Tensor>& v) { return plain(v[0]); }, 2);
      expect_same(mine, expected, tolerance());
    };
    compare([&](Tape* tape, const Var& v) { return mean_tokens(tape, v, layout); },
            [&](const at::Tensor& v) { return reference::mean_tokens(v, *layout); });
    const at::Tensor first =
        at::tensor(std::vector<std::int64_t>(layout->starts.begin(), layout->starts.end() - 1));
    compare([&](Tape* tape, const Var& v) { return first_tokens(tape, v, layout); },
            [&](const at::Tensor& v) { return v.index_select(0, first); });
    const Dropout rate = make_dropout(0.3, kRun, 6);
    compare([&](Tape* tape, const Var& v) { return dropout(tape, v, layout, rate); },
            [&](const at::Tensor& v) { return v * dropout_mask(rate, *layout, sizes.width()); });
  }
}

TEST(Losses, cross_entropy_and_squared_error_are_their_reference) {
  const at::Tensor logits = numbers({7, 5}, 1) * 3;
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{0, 4, -100, 2, 1, 1, 3});
  const PassResult mine = run_kernel(
      {logits}, {}, [&](Tape* tape, const std::vector<Var>& v) { return cross_entropy(tape, v[0], labels, 9); }, 2);
  const PassResult expected = run_reference(
      {logits}, {}, [&](const std::vector<at::Tensor>& v) { return reference::cross_entropy(v[0], labels, 9); }, 2);
  expect_same(mine, expected, 1e-6);

  const at::Tensor values = numbers({7, 1}, 3), targets = numbers({7}, 4);
  const PassResult error = run_kernel(
      {values}, {}, [&](Tape* tape, const std::vector<Var>& v) { return squared_error(tape, v[0], targets, 7); },
      5);
  const PassResult error_expected = run_reference(
      {values}, {}, [&](const std::vector<at::Tensor>& v) { return reference::squared_error(v[0], targets, 7); },
      5);
  expect_same(error, error_expected, 1e-6);
}

TEST(Ops, what_nothing_trained_went_into_is_not_recorded) {
  const Layout layout = layout_of({4, 2});
  Parameter weight = parameter(numbers({6, 6}, 1), at::kFloat, false),
            bias = parameter(numbers({6}, 2), at::kFloat, false);
  const LinearModule module{{"m"}, &weight, &bias, {}, {}};
  Tape tape;
  const Var y = linear(&tape, Var(numbers({6, 6}, 3)), module, layout, {}, Activation::gelu);
  EXPECT_FALSE(y.needs_grad());
  EXPECT_FALSE(dropout(&tape, y, layout, make_dropout(0.5, kRun, 1)).needs_grad());
}

TEST(Ops, a_nan_reaches_the_output_of_every_operation) {
  const Layout layout = layout_of({5, 3});
  at::Tensor x = numbers({8, 32}, 1);
  x[2][3] = NAN;
  Parameter weight = parameter(numbers({32, 32}, 1), at::kFloat, false),
            bias = parameter(numbers({32}, 2), at::kFloat, false);
  const LinearModule module{{"m"}, &weight, &bias, {}, {}};
  const NormModule norm{&bias, &bias, 1e-5};
  for (const Activation activation :
       {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::tanh, Activation::silu}) {
    EXPECT_TRUE(linear(nullptr, Var(x), module, layout, {}, activation).value[2].isnan().all().item<bool>());
  }
  EXPECT_TRUE(add_norm(nullptr, Var(x.clone()), Var(x), norm, layout, {}).value[2].isnan().all().item<bool>());
  const Var qkv(at::cat({x, x, x}, 1));
  AttentionOptions options;
  options.heads = 2;
  options.size = 16;
  const at::Tensor out = attention(nullptr, {qkv, 0, qkv, 32, 64}, layout, layout->spans(), options, {}).value;
  EXPECT_TRUE(out[2].isnan().any().item<bool>());
  EXPECT_FALSE(out[6].isnan().any().item<bool>()) << "another row";
}

}  // namespace
}  // namespace finesweep::worker
