#include "tests/kernels/support.h"

namespace finesweep::worker {
namespace {

TEST(Precision, a_change_of_type_and_a_factor_carry_gradients_back_in_the_type_of_the_input) {
  const at::Tensor x = numbers({7, 13}, 1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    SCOPED_TRACE(type_name(type));
    const PassResult mine = run_kernel(
        {x.to(type)}, {},
        [](Tape* tape, const std::vector<Var>& in) { return to_type(tape, scale(tape, in[0], 0.3), at::kFloat); },
        2);
    const PassResult expected = run_reference(
        {x.to(type)}, {}, [](const std::vector<at::Tensor>& in) { return in[0] * 0.3; }, 2);
    EXPECT_EQ(mine.value.scalar_type(), at::kFloat);
    EXPECT_EQ(mine.gradients[0].scalar_type(), type);
    expect_same(mine, expected, tolerance(type));
  }
}

TEST(Precision, a_residual_that_is_wider_than_the_product_is_summed_wide) {
  const Layout layout = layout_of({5, 1, 3});
  const at::Tensor x = numbers({9, 6}, 1).to(at::kHalf), residual = numbers({9, 10}, 2);
  residual.select(1, 0).mul_(1e5);  // beyond the range of fp16
  for (const double rate : {0.0, 0.25}) {
    SCOPED_TRACE(rate);
    const Dropout dropout = make_dropout(rate, {true, 3, 1}, 5);
    Parameter weight = parameter(numbers({10, 6}, 3), at::kHalf, true);
    LinearModule module;
    module.weight = &weight;
    const PassResult mine = run_kernel(
        {x, residual}, {&weight},
        [&](Tape* tape, const std::vector<Var>& in) {
          return linear_add(tape, in[0], module, in[1], layout, {}, dropout);
        },
        4);
    const at::Tensor mask = dropout.active() ? dropout_mask(dropout, *layout, 10) : at::ones({9, 10});
    const PassResult expected = run_reference(
        {x, residual}, {&weight},
        [&](const std::vector<at::Tensor>& in) { return in[1] + mask * at::matmul(in[0], in[2].t()); }, 4);
    EXPECT_EQ(mine.value.scalar_type(), at::kFloat);
    EXPECT_EQ(mine.gradients[0].scalar_type(), at::kHalf);
    expect_same(mine, expected, tolerance(at::kHalf));
    EXPECT_LE(relative_difference(mine.value.narrow(1, 1, 9), expected.value.narrow(1, 1, 9)),
              tolerance(at::kHalf));
  }
}

TEST(Precision, padding_learns_neither_its_word_nor_its_position) {
  const Layout layout = layout_of({4, 2});
  Parameter words = parameter(numbers({7, 3}, 1), at::kFloat, true, true);
  Parameter positions = parameter(numbers({6, 3}, 2), at::kFloat, true, true);
  EmbeddingModule module;
  module.words = &words;
  module.positions = &positions;
  module.padding_id = module.padding_position = 1;
  const at::Tensor ids = at::tensor(std::vector<std::int64_t>{4, 1, 5, 4, 1, 6}, at::kLong);
  const at::Tensor places = at::tensor(std::vector<std::int64_t>{2, 1, 3, 4, 1, 2}, at::kLong);
  Tape tape;
  const Var x = embed(&tape, module, ids, places, {}, layout, {}, at::kFloat);
  x.slot->add(at::ones_like(x.value));
  tape.backward();
  EXPECT_EQ(words.touched_rows, (std::vector<std::int64_t>{4, 5, 6}));
  EXPECT_EQ(positions.touched_rows, (std::vector<std::int64_t>{2, 3, 4}));
  EXPECT_EQ(words.grad[1].abs().sum().item<float>(), 0);
  EXPECT_EQ(positions.grad[1].abs().sum().item<float>(), 0);
  EXPECT_EQ(positions.grad[2].sum().item<float>(), 6);
}

}  // namespace
}  // namespace finesweep::worker
