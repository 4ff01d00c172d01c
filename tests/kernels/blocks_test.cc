// Operations of pre-norm and gated blocks: norm, linear_add, gated, rotate; IA3; weights in few bits.

#include <algorithm>

#include "tests/kernels/support.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

class Blocks : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::ScalarType type() const { return GetParam(); }
  double tolerance() const { return worker::tolerance(type()); }
};

INSTANTIATE_TEST_SUITE_P(EveryType, Blocks, testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(Blocks, norms_of_both_kinds_trained_or_not_are_their_reference) {
  for (const NormKind kind : {NormKind::layer, NormKind::root_mean_square}) {
    for (const bool trained : {true, false}) {
      for (const Sizes& sizes : odd_sizes()) {
        const std::int64_t width = sizes.width(), tokens = layout_of(sizes.lengths)->tokens();
        if (width == 1 && kind == NormKind::layer) continue;  // the gradient is rounding noise around zero
        SCOPED_TRACE(testing::Message() << static_cast<int>(kind) << trained << " width " << width);
        Parameter weight = parameter(numbers({width}, 1), at::kFloat, trained);
        Parameter bias = parameter(numbers({width}, 2), at::kFloat, trained);
        const bool has_bias = kind == NormKind::layer;
        const NormModule module{&weight, has_bias ? &bias : nullptr, 1e-5, kind};
        std::vector<Parameter*> parameters;
        if (trained) parameters.push_back(&weight);
        if (trained && has_bias) parameters.push_back(&bias);
        const PassResult mine = run_kernel(
            {numbers({tokens, width}, 3).to(type())}, parameters,
            [&](Tape* tape, const std::vector<Var>& v) { return norm(tape, v[0], module); }, 4);
        const PassResult expected = run_reference(
            {numbers({tokens, width}, 3).to(type())}, parameters,
            [&](const std::vector<at::Tensor>& v) {
              const at::Tensor b = has_bias ? (trained ? v[2] : bias.value) : at::Tensor();
              return reference::norm(v[0], trained ? v[1] : weight.value, b, kind, 1e-5, {});
            },
            4);
        expect_same(mine, expected, 2 * tolerance());
      }
    }
  }
}

TEST_P(Blocks, linear_add_with_adapters_and_dropout_is_its_reference) {
  for (const double rate : {0.0, 0.2}) {
    for (const Sizes& sizes : odd_sizes()) {
      SCOPED_TRACE(testing::Message() << rate << " width " << sizes.width());
      const Layout layout = layout_of(sizes.lengths, 3, 5);
      const std::int64_t in = 2 * sizes.width() + 1, out = sizes.width(), tokens = layout->tokens();
      Parameter weight = parameter(numbers({out, in}, 1) / std::sqrt(double(in)), type(), true);
      Parameter bias = parameter(numbers({out}, 2), type(), true);
      Parameter a = parameter(numbers({3, in}, 3) / std::sqrt(double(in)), type(), true);
      Parameter b = parameter(numbers({out, 3}, 4), type(), true);
      const LinearModule module{{"m"}, &weight, &bias, {{&a, &b, 0.5, 0.2, 11, 0}}, {}};
      const Dropout dropout = make_dropout(rate, kRun, 3);
      const at::Tensor mask = rate > 0 ? dropout_mask(dropout, *layout, out) : at::Tensor();
      const at::Tensor input_mask = dropout_mask(make_dropout(0.2, kRun, 11), *layout, in);
      const std::vector<at::Tensor> inputs{numbers({tokens, in}, 5).to(type()),
                                           numbers({tokens, out}, 6).to(type())};
      const PassResult mine = run_kernel(
          inputs, {&weight, &bias, &a, &b},
          [&](Tape* tape, const std::vector<Var>& v) {
            return linear_add(tape, v[0], module, v[1], layout, kRun, dropout);
          },
          7);
      const PassResult expected = run_reference(
          inputs, {&weight, &bias, &a, &b},
          [&](const std::vector<at::Tensor>& v) {
            const at::Tensor y =
                reference::linear(v[0], v[2], v[3], {{v[4], v[5], 0.5, input_mask, 0}}, Activation::none);
            return reference::add(y, v[1], mask);
          },
          7);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(Blocks, a_frozen_linear_still_passes_the_gradient_of_the_residual) {
  const Layout layout = layout_of({3, 2});
  Parameter weight = parameter(numbers({6, 4}, 1), type(), false);
  const LinearModule module{{"m"}, &weight, nullptr, {}, {}};
  const PassResult mine = run_kernel(
      {numbers({5, 6}, 2).to(type())}, {},
      [&](Tape* tape, const std::vector<Var>& v) {
        return linear_add(tape, Var(numbers({5, 4}, 3).to(type())), module, v[0], layout, {}, {});
      },
      4);
  EXPECT_LE(relative_difference(mine.gradients[0], numbers({5, 6}, 4)), tolerance());
}

TEST_P(Blocks, gated_with_every_activation_is_its_reference) {
  for (const Activation activation :
       {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
    for (const Sizes& sizes : odd_sizes()) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(activation) << " width " << sizes.width());
      const at::Tensor z = numbers({layout_of(sizes.lengths)->tokens(), 2 * sizes.width()}, 1).to(type());
      const PassResult mine = run_kernel(
          {z}, {}, [&](Tape* tape, const std::vector<Var>& v) { return gated(tape, v[0], activation); }, 2);
      const PassResult expected = run_reference(
          {z}, {}, [&](const std::vector<at::Tensor>& v) { return reference::gated(v[0], activation); }, 2);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(Blocks, rotate_turns_the_first_heads_as_its_reference) {
  for (const auto& [heads, size] :
       {std::pair<std::int64_t, std::int64_t>{1, 2}, {3, 8}, {2, 26}, {5, 64}, {1, 80}}) {
    SCOPED_TRACE(size);
    const Layout layout = layout_of({17, 1, 40});
    const at::Tensor positions = layout->positions({3, 90, 0});
    const at::Tensor angle =
        at::outer(at::arange(100, at::kFloat), at::pow(100.0, -at::arange(size / 2, at::kFloat)));
    const RotaryTable table{at::cos(angle), at::sin(angle)};
    const at::Tensor x = numbers({layout->tokens(), heads * size + 7}, 1).to(type());
    const PassResult mine = run_kernel(
        {x}, {},
        [&, heads = heads, size = size](Tape* tape, const std::vector<Var>& v) {
          return rotate(tape, v[0], table, positions, heads, size);
        },
        2);
    const PassResult expected = run_reference(
        {x}, {},
        [&, heads = heads, size = size](const std::vector<at::Tensor>& v) {
          return reference::rotate(v[0], table, positions, heads, size);
        },
        2);
    expect_same(mine, expected, tolerance());
  }
}

TEST_P(Blocks, output_and_input_scales_are_their_reference) {
  for (const Activation activation : {Activation::none, Activation::gelu}) {
    for (const Sizes& sizes : odd_sizes()) {
      SCOPED_TRACE(sizes.width());
      const Layout layout = layout_of(sizes.lengths);
      const std::int64_t width = sizes.width(), tokens = layout->tokens();
      Parameter weight = parameter(numbers({3 * width, width}, 1) / std::sqrt(double(width)), type(), true);
      Parameter bias = parameter(numbers({3 * width}, 2), type(), true);
      Parameter key = parameter(numbers({width, 1}, 3), type(), true);
      Parameter value = parameter(numbers({width, 1}, 4), type(), true);
      Parameter input = parameter(numbers({1, width}, 5), type(), true);
      const LinearModule module{{"q", "k", "v"},
                                &weight,
                                &bias,
                                {},
                                {{&key, false, width}, {&value, false, 2 * width}, {&input, true, 0}}};
      const at::Tensor x = numbers({tokens, width}, 6).to(type());
      // All columns, and a range that cuts the key's scale in two.
      for (const std::int64_t begin : {std::int64_t{0}, width + width / 2}) {
        std::vector<Parameter*> parameters{&weight, &bias, &key, &value, &input};
        for (Parameter* p : parameters) p->zero_grad();
        const PassResult mine = run_kernel(
            {x}, parameters,
            [&](Tape* tape, const std::vector<Var>& v) {
              return linear(tape, v[0], module, layout, {}, activation, begin);
            },
            7);
        const PassResult expected = run_reference(
            {x}, parameters,
            [&](const std::vector<at::Tensor>& v) {
              at::Tensor y =
                  reference::linear(reference::scale_columns(v[0], v[5], 0), v[1], v[2], {}, Activation::none);
              y = reference::scale_columns(reference::scale_columns(y, v[3], width), v[4], 2 * width);
              return reference::activate(y.narrow(1, begin, 3 * width - begin), activation);
            },
            7);
        expect_same(mine, expected, tolerance());
      }
    }
  }
}

TEST_P(Blocks, linear_add_multiplies_before_it_adds) {
  const Layout layout = layout_of({7, 4});
  Parameter weight = parameter(numbers({9, 5}, 1), type(), false);
  Parameter scale = parameter(numbers({9, 1}, 2), type(), true),
            input = parameter(numbers({1, 5}, 3), type(), true);
  const LinearModule module{{"m"}, &weight, nullptr, {}, {{&scale, false, 0}, {&input, true, 0}}};
  const std::vector<at::Tensor> inputs{numbers({11, 5}, 4).to(type()), numbers({11, 9}, 5).to(type())};
  const PassResult mine = run_kernel(
      inputs, {&scale, &input},
      [&](Tape* tape, const std::vector<Var>& v) { return linear_add(tape, v[0], module, v[1], layout, {}, {}); },
      6);
  const PassResult expected = run_reference(
      inputs, {&scale, &input},
      [&](const std::vector<at::Tensor>& v) {
        const at::Tensor y = reference::linear(reference::scale_columns(v[0], v[3], 0), weight.value.to(at::kFloat),
                                               {}, {}, Activation::none);
        return reference::scale_columns(y, v[2], 0) + v[1];
      },
      6);
  expect_same(mine, expected, tolerance());
}

/// Keeps the whole weight; counts what is asked for.
class WholeWeight final : public QuantizedWeight {
 public:
  explicit WholeWeight(at::Tensor weight) : weight_(std::move(weight)) {}
  at::Tensor dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const override {
    return weight_.narrow(0, begin, count).to(type);
  }
  std::int64_t rows() const override { return weight_.size(0); }
  std::int64_t columns() const override { return weight_.size(1); }
  std::int64_t bytes() const override { return weight_.numel(); }

 private:
  at::Tensor weight_;
};

TEST_P(Blocks, a_weight_in_few_bits_multiplies_like_the_whole_one) {
  const Layout layout = layout_of({7, 4});
  Parameter whole = parameter(numbers({12, 5}, 1).to(type()).to(at::kFloat), type(), false), few;
  few.quantized = std::make_shared<WholeWeight>(numbers({12, 5}, 1));
  const auto run = [&](Parameter& weight) {
    const LinearModule module{{"m"}, &weight, nullptr, {}, {}};
    return run_kernel(
        {numbers({11, 5}, 2).to(type())}, {},
        [&](Tape* tape, const std::vector<Var>& v) {
          return linear(tape, v[0], module, layout, {}, Activation::relu, 3, 8);
        },
        3);
  };
  expect_same(run(few), run(whole), 1e-6);
}

TEST_P(Blocks, an_embedding_without_norm_types_or_positions_is_a_row_of_its_table) {
  const Layout layout = layout_of({5, 2});
  Parameter words = parameter(numbers({19, 26}, 1), type(), true, true);
  Parameter positions = parameter(numbers({9, 26}, 2), type(), true, true);
  const at::Tensor ids = at::tensor(std::vector<std::int64_t>{3, 18, 3, 0, 7, 7, 1}), places = layout->positions();
  const Dropout dropout = make_dropout(0.1, kRun, 5);
  const at::Tensor mask = dropout_mask(dropout, *layout, 26);
  for (const bool has_positions : {false, true}) {
    EmbeddingModule module;
    module.words = &words;
    if (has_positions) module.positions = &positions;
    std::vector<Parameter*> parameters{&words};
    if (has_positions) parameters.push_back(&positions);
    words.zero_grad();
    const PassResult mine = run_kernel(
        {}, parameters,
        [&](Tape* tape, const std::vector<Var>&) {
          return embed(tape, module, ids, has_positions ? places : at::Tensor(), {}, layout, dropout, type());
        },
        6);
    const PassResult expected = run_reference(
        {}, parameters,
        [&](const std::vector<at::Tensor>& v) {
          at::Tensor sum = v[0].index_select(0, ids);
          if (has_positions) sum = sum + v[1].index_select(0, places);
          return sum * mask;
        },
        6);
    expect_same(mine, expected, tolerance());
    EXPECT_EQ(words.touched_rows, (std::vector<std::int64_t>{0, 1, 3, 7, 18}));
  }
}

TEST_P(Blocks, linear_cross_entropy_in_chunks_is_its_reference) {
  // The last vocabulary is so large that a chunk holds fewer tokens than there are.
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{3, 1}, {70, 37}, {2300, 50}, {150, 300007}};
  for (const auto& [tokens, vocabulary] : shapes) {
    if (vocabulary > 1000 && type() != at::kFloat) continue;
    SCOPED_TRACE(vocabulary);
    const std::int64_t width = 6;
    const Layout layout = layout_of({tokens}, 0);
    Parameter weight = parameter(numbers({vocabulary, width}, 1), type(), true);
    Parameter bias = parameter(numbers({vocabulary}, 2), type(), true);
    at::Tensor labels = at::remainder(at::arange(tokens, at::kLong) * 7919, vocabulary);
    labels = labels.masked_fill(at::remainder(at::arange(tokens, at::kLong), 3).eq(1), -100);
    const at::Tensor hidden = numbers({tokens, width}, 3).to(type());
    for (const bool has_bias : {true, false}) {
      const LinearModule head{{"head"}, &weight, has_bias ? &bias : nullptr, {}, {}};
      std::vector<Parameter*> parameters{&weight};
      if (has_bias) parameters.push_back(&bias);
      for (Parameter* p : parameters) p->zero_grad();
      const PassResult mine = run_kernel(
          {hidden}, parameters,
          [&](Tape* tape, const std::vector<Var>& v) {
            return linear_cross_entropy(tape, v[0], head, labels, 11, 0.7, layout, {});
          },
          4);
      const PassResult expected = run_reference(
          {hidden}, parameters,
          [&](const std::vector<at::Tensor>& v) {
            return reference::linear_cross_entropy(v[0], v[1], has_bias ? v[2] : at::Tensor(), labels, 11, 0.7);
          },
          4, at::kDouble);  // sums over the vocabulary are long
      EXPECT_EQ(mine.value.scalar_type(), at::kFloat);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(Blocks, linear_cross_entropy_of_a_head_with_adapters_is_its_reference) {
  const Layout layout = layout_of({9, 4}, 2);
  Parameter weight = parameter(numbers({17, 6}, 1), type(), false);
  Parameter a = parameter(numbers({2, 6}, 2), type(), true), b = parameter(numbers({17, 2}, 3), type(), true);
  const LinearModule head{{"head"}, &weight, nullptr, {{&a, &b, 0.5, 0, 1, 0}}, {}};
  const at::Tensor labels = at::remainder(at::arange(13, at::kLong), 17).masked_fill(at::arange(13).lt(3), -100);
  const at::Tensor hidden = numbers({13, 6}, 4).to(type());
  const PassResult mine = run_kernel(
      {hidden}, {&a, &b},
      [&](Tape* tape, const std::vector<Var>& v) {
        return linear_cross_entropy(tape, v[0], head, labels, 10, 0.5, layout, {});
      },
      5);
  const PassResult expected = run_reference(
      {hidden}, {&a, &b},
      [&](const std::vector<at::Tensor>& v) {
        const at::Tensor logits = reference::linear(v[0] * 0.5, weight.value.to(at::kFloat), {},
                                                    {{v[1], v[2], 0.5, {}, 0}}, Activation::none);
        return reference::cross_entropy(logits, labels, 10);
      },
      5);
  expect_same(mine, expected, 2 * tolerance());
}

TEST(LinearCrossEntropy, no_counted_token_is_a_loss_of_zero) {
  Parameter weight = parameter(numbers({17, 6}, 1), at::kFloat, true);
  const LinearModule head{{"head"}, &weight, nullptr, {}, {}};
  const PassResult mine = run_kernel(
      {numbers({5, 6}, 2)}, {&weight},
      [&](Tape* tape, const std::vector<Var>& v) {
        return linear_cross_entropy(tape, v[0], head, at::full({5}, -100, at::kLong), 3, 1, layout_of({5}), {});
      },
      3);
  EXPECT_EQ(mine.value.item<float>(), 0);
  EXPECT_EQ(mine.gradients[0].abs().max().item<float>(), 0);
  EXPECT_EQ(mine.gradients[1].abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace finesweep::worker
