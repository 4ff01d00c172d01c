// The operations of kernels/ops.h on the first GPU beside their references on the CPU. Skipped where libtorch sees
// no GPU.

#include <gmock/gmock.h>

#include <algorithm>
#include <optional>

#include "tests/gpu/gpu.h"
#include "tests/kernels/support.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/distillation.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/norm_dropout.h"
#include "worker/kernels/reference.h"
#include "worker/training/fused_lora.h"

namespace finesweep::worker {
namespace {

const DropoutRun kRun{true, 42, 7, nullptr};
class KernelsOnGpu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
  }
  at::ScalarType type() const { return GetParam(); }
  /// Products of libraries accumulate in another order.
  double tolerance() const { return type() == at::kFloat ? 1e-4 : 2 * worker::tolerance(type()); }

  /// Sizes with whole vectors too: rows of a warp and of a block.
  static std::vector<Sizes> sizes() {
    std::vector<Sizes> all = odd_sizes();
    all.push_back({{64, 64}, 12, 64});
    all.push_back({{37, 5, 64}, 4, 64});
    all.push_back({{9, 30}, 16, 80});
    return all;
  }

  /// As run_kernel, on the GPU: the parameters are copied there and back.
  PassResult run(const std::vector<at::Tensor>& inputs, const std::vector<Parameter*>& parameters,
                 const std::function<Var(Tape*, const std::vector<Var>&)>& operation, int salt) const {
    const at::NoGradGuard no_graph;
    for (Parameter* p : parameters) {
      p->value = there(p->value);
      if (!p->trained) continue;
      p->master = there(p->master);
      p->grad = at::zeros_like(p->master);
    }
    Tape tape;
    std::vector<Var> vars;
    for (const at::Tensor& input : inputs) vars.push_back(tape.track(there(input.clone())));
    const Var result = operation(&tape, vars);
    PassResult outcome{result.value.cpu(), {}};
    result.slot->add(there(numbers(result.value.sizes(), salt).to(result.value.scalar_type())));
    tape.backward();
    for (const Var& var : vars) outcome.gradients.push_back(var.slot->grad.cpu());
    for (Parameter* p : parameters) {
      if (p->trained) outcome.gradients.push_back(p->grad.cpu());
      p->value = p->value.cpu();
    }
    return outcome;
  }
};

INSTANTIATE_TEST_SUITE_P(Types, KernelsOnGpu, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(KernelsOnGpu, norms_with_dropout_are_their_reference) {
  for (const Sizes& sizes : sizes()) {
    for (const double rate : {0.0, 0.1}) {
      for (const NormKind kind : {NormKind::layer, NormKind::root_mean_square}) {
        for (const bool trained : {false, true}) {
          const std::int64_t width = sizes.width();
          if (width == 1) continue;  // the gradient is rounding noise around zero
          SCOPED_TRACE(::testing::Message() << width << " rate " << rate << " kind " << static_cast<int>(kind));
          const Layout layout = layout_of(sizes.lengths, 3, 5);
          Parameter weight = parameter(numbers({width}, 1), at::kFloat, trained);
          Parameter bias = parameter(numbers({width}, 2), at::kFloat, trained);
          NormModule module{&weight, kind == NormKind::layer ? &bias : nullptr, 1e-5, kind};
          std::vector<Parameter*> parameters{&weight};
          if (kind == NormKind::layer) parameters.push_back(&bias);
          const Dropout dropout = make_dropout(rate, kRun, 3);
          const at::Tensor mask = rate > 0 ? dropout_mask(dropout, *layout, width) : at::Tensor();
          const at::Tensor x = numbers({layout->tokens(), width}, 3).to(type());
          const at::Tensor residual = numbers({layout->tokens(), width}, 4).to(type());
          const auto bias_of = [&](const std::vector<at::Tensor>& v, std::size_t at) {
            return kind == NormKind::layer ? v[at] : at::Tensor();
          };
          PassResult expected = run_reference(
              {x}, parameters,
              [&](const std::vector<at::Tensor>& v) {
                return reference::norm(v[0], v[1], bias_of(v, 2), kind, 1e-5, mask);
              },
              5);
          if (!trained) expected.gradients.resize(1);
          const PassResult mine = run(
              {x}, parameters,
              [&](Tape* tape, const std::vector<Var>& v) {
                return norm_dropout(tape, v[0], module, layout, dropout);
              },
              5);
          expect_same(mine, expected, 2 * tolerance());

          PassResult both = run_reference(
              {x, residual}, parameters,
              [&](const std::vector<at::Tensor>& v) {
                return reference::norm(reference::add(v[0], v[1], mask), v[2], bias_of(v, 3), kind, 1e-5, {});
              },
              6);
          if (!trained) both.gradients.resize(2);
          const PassResult sum = run(
              {x, residual}, parameters,
              [&](Tape* tape, const std::vector<Var>& v) {
                return add_norm(tape, v[0], v[1], module, layout, dropout);
              },
              6);
          expect_same(sum, both, 2 * tolerance());
        }
      }
    }
  }
}

TEST_P(KernelsOnGpu, a_norm_adds_to_the_gradient_that_is_there) {
  const std::int64_t width = 64, tokens = 9;
  Parameter weight = parameter(numbers({width}, 1), at::kFloat, false);
  const NormModule module{&weight, nullptr, 1e-5, NormKind::root_mean_square};
  const at::Tensor x = numbers({tokens, width}, 3).to(type());
  const PassResult mine = run(
      {x}, {&weight},
      [&](Tape* tape, const std::vector<Var>& v) {
        const Var y = norm(tape, v[0], module);
        v[0].slot->add(there(numbers({tokens, width}, 8).to(type())));
        return y;
      },
      5);
  const PassResult expected = run_reference(
      {x}, {},
      [&](const std::vector<at::Tensor>& v) {
        return reference::norm(v[0], weight.value, {}, NormKind::root_mean_square, 1e-5, {});
      },
      5);
  EXPECT_LE(relative_difference(mine.gradients[0], expected.gradients[0] + numbers({tokens, width}, 8).to(type())),
            2 * tolerance());
}

TEST_P(KernelsOnGpu, linear_with_every_activation_is_its_reference) {
  for (const Activation activation : {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu,
                                      Activation::tanh, Activation::silu}) {
    for (const Sizes& sizes : sizes()) {
      SCOPED_TRACE(::testing::Message() << static_cast<int>(activation) << " width " << sizes.width());
      const Layout layout = layout_of(sizes.lengths);
      const std::int64_t in = sizes.width(), out = in % 8 == 0 ? 2 * in : 2 * in + 1;
      Parameter weight = parameter(numbers({out, in}, 1) / std::sqrt(double(in)), type(), true);
      Parameter bias = parameter(numbers({out}, 2), type(), true);
      const LinearModule module{{"m"}, &weight, &bias, {}, {}};
      const at::Tensor x = numbers({layout->tokens(), in}, 3).to(type());
      const PassResult expected = run_reference(
          {x}, {&weight, &bias},
          [&](const std::vector<at::Tensor>& v) { return reference::linear(v[0], v[1], v[2], {}, activation); }, 4);
      const PassResult mine = run(
          {x}, {&weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) { return linear(tape, v[0], module, layout, {}, activation); },
          4);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(KernelsOnGpu, adapters_on_parts_of_a_stacked_linear_are_their_reference) {
  for (const double rate : {0.0, 0.2}) {
    for (const Sizes& sizes : sizes()) {
      SCOPED_TRACE(::testing::Message() << sizes.width() << " rate " << rate);
      const Layout layout = layout_of(sizes.lengths, 3, 5);
      const std::int64_t width = sizes.width();
      Parameter weight = parameter(numbers({3 * width, width}, 1) / std::sqrt(double(width)), type(), false);
      Parameter bias = parameter(numbers({3 * width}, 2), type(), false);
      Parameter a1 = parameter(numbers({3, width}, 3) / std::sqrt(double(width)), type(), true);
      Parameter b1 = parameter(numbers({width, 3}, 4), type(), true);
      Parameter a2 = parameter(numbers({8, width}, 5) / std::sqrt(double(width)), type(), true);
      Parameter b2 = parameter(numbers({width, 8}, 6), type(), true);
      const LinearModule module{
          {"q", "k", "v"}, &weight, &bias, {{&a1, &b1, 0.5, rate, 11, 0}, {&a2, &b2, 2.0, 0.0, 12, 2 * width}}, {}};
      const at::Tensor mask = rate > 0 ? dropout_mask(make_dropout(rate, kRun, 11), *layout, width) : at::Tensor();
      const at::Tensor x = numbers({layout->tokens(), width}, 7).to(type());
      const at::Tensor w = weight.value.to(at::kFloat), b = bias.value.to(at::kFloat);
      const std::vector<Parameter*> parameters{&a1, &b1, &a2, &b2};
      const PassResult expected = run_reference(
          {x}, parameters,
          [&](const std::vector<at::Tensor>& v) {
            return reference::linear(v[0], w, b, {{v[1], v[2], 0.5, mask, 0}, {v[3], v[4], 2.0, {}, 2 * width}},
                                     Activation::none);
          },
          8);
      const PassResult mine = run(
          {x}, {&a1, &b1, &a2, &b2, &weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) { return linear(tape, v[0], module, layout, kRun); }, 8);
      expect_same(mine, expected, 2 * tolerance());
    }
  }
}

TEST_P(KernelsOnGpu, adapters_in_one_matrix_with_their_base_are_their_reference) {
  if (type() == at::kFloat) GTEST_SKIP() << "only where values are narrow";
  for (const auto& [gradient_has_room, moves] :
       {std::pair(true, true), {true, false}, {false, true}, {false, false}}) {
    for (const Sizes& sizes : sizes()) {
      SCOPED_TRACE(::testing::Message() << sizes.width() << " room " << gradient_has_room << " moves " << moves);
      const Layout layout = layout_of(sizes.lengths, 3, 5);
      const std::int64_t width = sizes.width(), tokens = layout->tokens();
      Parameter weight = parameter(numbers({3 * width, width}, 1) / std::sqrt(double(width)), type(), false);
      Parameter bias = parameter(numbers({3 * width}, 2), type(), false);
      Parameter a1 = parameter(numbers({3, width}, 3) / std::sqrt(double(width)), type(), true);
      Parameter b1 = parameter(numbers({width, 3}, 4), type(), true);
      Parameter a2 = parameter(numbers({8, width}, 5) / std::sqrt(double(width)), type(), true);
      Parameter b2 = parameter(numbers({width, 8}, 6), type(), true);
      LinearModule module{
          {"q", "k", "v"}, &weight, &bias, {{&a1, &b1, 0.5, 0, 11, 0}, {&a2, &b2, 0.5, 0, 12, 2 * width}}, {}};
      const at::Tensor x = numbers({tokens, width}, 7).to(type());
      const at::Tensor w = weight.value.to(at::kFloat), b = bias.value.to(at::kFloat);
      const PassResult expected = run_reference(
          {x}, {&a1, &b1, &a2, &b2},
          [&](const std::vector<at::Tensor>& v) {
            return reference::linear(v[0], w, b, {{v[1], v[2], 0.5, {}, 0}, {v[3], v[4], 0.5, {}, 2 * width}},
                                     Activation::none);
          },
          8);
      std::optional<FusedLora> fused;
      const PassResult mine = run(
          {x}, {&a1, &b1, &a2, &b2, &weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) {
            fused.emplace(std::vector<LinearModule*>{&module},
                          moves ? FusedLora::Gradients::may_move : FusedLora::Gradients::stay);
            EXPECT_EQ(module.room(), 16) << "3 and 8 ranks, each up to a multiple of eight";
            Var input = v[0];
            input.value = empty_with_room(tokens, width, module.room(), v[0].value.options());
            input.value.copy_(v[0].value);
            const Var result = linear(tape, input, module, layout, kRun);
            EXPECT_EQ(result.slot->room, module.room());
            if (gradient_has_room) {
              result.slot->grad = empty_with_room(tokens, 3 * width, module.room(), result.value.options());
              result.slot->grad.zero_();
            }
            return result;
          },
          8);
      expect_same(mine, expected, 2 * tolerance());
      fused.reset();
      EXPECT_EQ(module.room(), 0);
      EXPECT_TRUE(a2.value.is_contiguous() && b1.value.is_contiguous() && b1.grad.is_contiguous());
    }
  }
}

TEST_P(KernelsOnGpu, linear_add_with_dropout_is_its_reference) {
  for (const double rate : {0.0, 0.3}) {
    for (const Sizes& sizes : sizes()) {
      SCOPED_TRACE(sizes.width());
      const Layout layout = layout_of(sizes.lengths, 3, 2);
      const std::int64_t width = sizes.width();
      Parameter weight = parameter(numbers({width, width}, 1) / std::sqrt(double(width)), type(), true);
      Parameter bias = parameter(numbers({width}, 2), type(), true);
      const LinearModule module{{"m"}, &weight, &bias, {}, {}};
      const Dropout dropout = make_dropout(rate, kRun, 9);
      const at::Tensor mask = rate > 0 ? dropout_mask(dropout, *layout, width) : at::Tensor();
      const at::Tensor x = numbers({layout->tokens(), width}, 3).to(type());
      const at::Tensor residual = numbers({layout->tokens(), width}, 4).to(type());
      const PassResult expected = run_reference(
          {x, residual}, {&weight, &bias},
          [&](const std::vector<at::Tensor>& v) {
            return reference::add(reference::linear(v[0], v[2], v[3], {}, Activation::none), v[1], mask);
          },
          4);
      const PassResult mine = run(
          {x, residual}, {&weight, &bias},
          [&](Tape* tape, const std::vector<Var>& v) {
            return linear_add(tape, v[0], module, v[1], layout, kRun, dropout);
          },
          4);
      expect_same(mine, expected, tolerance());
    }
  }
}

TEST_P(KernelsOnGpu, gates_and_rotations_are_their_reference) {
  for (const Sizes& sizes : sizes()) {
    SCOPED_TRACE(sizes.width());
    const Layout layout = layout_of(sizes.lengths);
    const std::int64_t width = sizes.width(), tokens = layout->tokens();
    const at::Tensor z = numbers({tokens, 2 * width}, 3).to(type());
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
      const PassResult expected = run_reference(
          {z}, {}, [&](const std::vector<at::Tensor>& v) { return reference::gated(v[0], activation); }, 4);
      const PassResult mine = run(
          {z}, {}, [&](Tape* tape, const std::vector<Var>& v) { return gated(tape, v[0], activation); }, 4);
      expect_same(mine, expected, tolerance());
    }
    if (sizes.head_size % 2 != 0) continue;
    const RotaryTable table{numbers({200, sizes.head_size / 2}, 5), numbers({200, sizes.head_size / 2}, 6)};
    const RotaryTable copied{there(table.cosine), there(table.sine)};
    const at::Tensor positions = layout->positions(), x = numbers({tokens, width + 6}, 7).to(type());
    const PassResult expected = run_reference(
        {x}, {},
        [&](const std::vector<at::Tensor>& v) {
          return reference::rotate(v[0], table, positions, sizes.heads, sizes.head_size);
        },
        4);
    const PassResult mine = run(
        {x}, {},
        [&](Tape* tape, const std::vector<Var>& v) {
          return rotate(tape, v[0], copied, there(positions), sizes.heads, sizes.head_size);
        },
        4);
    expect_same(mine, expected, tolerance());
  }
}

TEST_P(KernelsOnGpu, an_embedding_is_its_reference) {
  for (const Sizes& sizes : sizes()) {
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
    const at::Tensor places = layout->positions();
    const Dropout dropout = make_dropout(0.1, kRun, 5);
    const at::Tensor mask = dropout_mask(dropout, *layout, width);
    const std::vector<Parameter*> parameters{&words, &positions, &types, &weight, &bias};
    PassResult expected = run_reference(
        {}, parameters,
        [&](const std::vector<at::Tensor>& v) {
          const at::Tensor sum =
              v[0].index_select(0, ids) + v[2].index_select(0, type_ids) + v[1].index_select(0, places);
          return reference::norm(sum, v[3], v[4], NormKind::layer, 1e-5, mask);
        },
        6);
    expected.gradients[0].select(0, 4).zero_();
    const PassResult mine = run(
        {}, parameters,
        [&](Tape* tape, const std::vector<Var>&) {
          return embed(tape, module, there(ids), there(places), there(type_ids), layout, dropout, type());
        },
        6);
    expect_same(mine, expected, 3 * tolerance());
  }
}

TEST_P(KernelsOnGpu, pooling_is_its_reference) {
  for (const Sizes& sizes : sizes()) {
    SCOPED_TRACE(sizes.width());
    const Layout layout = layout_of(sizes.lengths);
    const at::Tensor x = numbers({layout->tokens(), sizes.width()}, 3).to(type());
    const PassResult mean = run_reference(
        {x}, {}, [&](const std::vector<at::Tensor>& v) { return reference::mean_tokens(v[0], *layout); }, 4);
    expect_same(
        run(
            {x}, {}, [&](Tape* tape, const std::vector<Var>& v) { return mean_tokens(tape, v[0], layout); }, 4),
        mean, tolerance());
    std::vector<std::int64_t> last(layout->starts.begin() + 1, layout->starts.end());
    for (std::int64_t& token : last) --token;
    const PassResult chosen = run_reference(
        {x}, {},
        [&](const std::vector<at::Tensor>& v) { return v[0].index_select(0, at::tensor(last, at::kLong)); }, 4);
    expect_same(
        run(
            {x}, {}, [&](Tape* tape, const std::vector<Var>& v) { return last_tokens(tape, v[0], layout); }, 4),
        chosen, tolerance());
  }
}

TEST_P(KernelsOnGpu, linear_cross_entropy_is_its_reference) {
  for (const std::int64_t vocabulary : {3, 37, 1000, 50257, 60001}) {
    for (const bool indexed : {false, true}) {
      for (const bool trained : {false, true}) {
        SCOPED_TRACE(::testing::Message() << vocabulary << " indexed " << indexed);
        const std::int64_t width = 24, tokens = vocabulary > 1000 ? 19 : 2100;
        const Layout layout = layout_of({tokens});
        Parameter weight = parameter(numbers({vocabulary, width}, 1) / 4, type(), trained);
        Parameter bias = parameter(numbers({vocabulary}, 2), type(), trained);
        const bool has_bias = vocabulary == 37;
        const LinearModule head{{"head"}, &weight, has_bias ? &bias : nullptr, {}, {}};
        at::Tensor labels = at::arange(tokens, at::kLong) * 13 % vocabulary;
        labels.masked_fill_((at::arange(tokens, at::kLong) % 3).eq(1), -100);
        const at::Tensor hidden = numbers({tokens, width}, 3).to(type());
        std::vector<Parameter*> parameters{&weight};
        if (has_bias) parameters.push_back(&bias);
        PassResult expected = run_reference(
            {hidden}, parameters,
            [&](const std::vector<at::Tensor>& v) {
              return reference::linear_cross_entropy(v[0], v[1], has_bias ? v[2] : at::Tensor(), labels, 11, 0.7);
            },
            4);
        if (!trained) expected.gradients.resize(1);
        const at::Tensor denominator = at::full({1}, 11.0, at::TensorOptions(at::kDouble).device(kGpu));
        TokenLabels given(there(labels));
        if (indexed) {
          const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
          given.index = there(at::cat({index, at::full({3}, -1, at::kLong)}));
          given.labels = there(at::cat({labels.index_select(0, index), at::full({3}, -100, at::kLong)}));
        }
        const PassResult mine = run(
            {hidden}, parameters,
            [&](Tape* tape, const std::vector<Var>& v) {
              return linear_cross_entropy(tape, v[0], head, given, Denominator(denominator), 0.7, layout, {});
            },
            4);
        expect_same(mine, expected, 2 * tolerance());
      }
    }
  }
}

TEST_P(KernelsOnGpu, distillation_is_its_reference) {
  for (const std::int64_t vocabulary : {3, 37, 1000, 50257, 60001}) {
    for (const double alpha : {0.3, 1.0}) {
      for (const bool trained : {false, true}) {
        SCOPED_TRACE(::testing::Message() << vocabulary << " alpha " << alpha);
        const std::int64_t width = 24, tokens = vocabulary > 1000 ? 19 : 2100;
        const Distillation how{2.5, alpha};
        Parameter weight = parameter(numbers({vocabulary, width}, 1) / 4, type(), trained);
        Parameter other = parameter(numbers({vocabulary, width}, 2) / 4, type(), false);
        const LinearModule head{{"head"}, &weight, nullptr, {}, {}},
            teacher_head{{"head"}, &other, nullptr, {}, {}};
        at::Tensor labels = at::arange(tokens, at::kLong) * 13 % vocabulary;
        labels.masked_fill_((at::arange(tokens, at::kLong) % 3).eq(1), -100);
        const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
        const at::Tensor hidden = numbers({tokens, width}, 3).to(type());
        const at::Tensor states = numbers({index.size(0), width}, 5).to(type());
        // What both heads give, in fp32, is differentiated by the operation for a CPU.
        PassResult expected;
        {
          const at::NoGradGuard no_graph;
          Parameter wide = parameter(weight.value.to(at::kFloat), at::kFloat, trained);
          Parameter wide_other = parameter(other.value.to(at::kFloat), at::kFloat, false);
          const LinearModule mine{{"head"}, &wide, nullptr, {}, {}}, its{{"head"}, &wide_other, nullptr, {}, {}};
          Tape tape;
          const Var x = tape.track(hidden.to(at::kFloat));
          const Var loss =
              linear_distillation(&tape, x, mine, {states.to(at::kFloat), &its, 0.9}, labels, how, 11.0, 0.7);
          loss.slot->add(numbers({}, 4));
          tape.backward();
          expected = {loss.value, {x.slot->grad}};
          if (trained) expected.gradients.push_back(wide.grad);
        }
        const at::Tensor denominator = at::full({1}, 11.0, at::TensorOptions(at::kDouble).device(kGpu));
        for (const bool indexed : {false, true}) {
          TokenLabels given(there(labels));
          at::Tensor of_teacher = there(states);
          if (indexed) {
            given.index = there(at::cat({index, at::full({3}, -1, at::kLong)}));
            given.labels = there(at::cat({labels.index_select(0, index), at::full({3}, -100, at::kLong)}));
            of_teacher = at::cat({of_teacher, at::zeros({3, width}, of_teacher.options())});
          }
          other.value = there(other.value);
          const PassResult mine = run(
              {hidden}, {&weight},
              [&](Tape* tape, const std::vector<Var>& v) {
                return linear_distillation(tape, v[0], head, {of_teacher, &teacher_head, 0.9}, given, how,
                                           Denominator(denominator), 0.7);
              },
              4);
          other.value = other.value.cpu();
          expect_same(mine, expected, 4 * tolerance());
        }
      }
    }
  }
}

TEST_P(KernelsOnGpu, a_product_is_the_same_whenever_its_kernel_is_chosen) {
  if (type() == at::kFloat) GTEST_SKIP() << "the library's products are of bf16 and fp16";
  const at::Tensor x = numbers({96, 168}, 1).to(type()), weight = numbers({56, 168}, 2).to(type());
  const at::Tensor expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
  const at::Tensor on_gpu = x.to(kGpu), its_weight = weight.to(kGpu);
  // Seldom at first, then often enough for all kernels to be tried.
  for (const std::int64_t times : {1, 1, 90, 90, 90, 0, 1}) {
    const gpu::RepeatedProducts repeats(times);
    const at::Tensor y = gpu::Matmul{on_gpu, its_weight.t(), {}, {}, {}, {}}.run();
    ASSERT_TRUE(y.defined());
    EXPECT_LE(relative_difference(y.cpu().to(at::kDouble), expected), tolerance());
  }
}

TEST_P(KernelsOnGpu, the_last_product_of_a_head_is_its_reference) {
  const at::NoGradGuard no_graph;
  for (const auto& [rows, in, out] : {std::tuple{1, 312, 2}, {32, 312, 2}, {5, 33, 7}, {3, 1, 64}, {70, 768, 1}}) {
    for (const bool has_bias : {true, false}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << in << " -> " << out << (has_bias ? "" : " without bias"));
      const at::Tensor x = numbers({rows, in}, 1).to(type());
      Parameter weight, bias;
      weight.value = numbers({out, in}, 2);
      bias.value = numbers({out}, 3);
      LinearModule module;
      module.weight = &weight;
      if (has_bias) module.bias = &bias;
      const Layout layout = TokenLayout::of_mask(at::ones({rows, 1}, at::kLong), 0);
      const at::Tensor expected = head_linear(nullptr, Var(x), module, layout, {}, {}).value;
      weight.value = weight.value.to(kGpu);
      bias.value = bias.value.to(kGpu);
      ASSERT_TRUE(gpu::few_outputs(x.to(kGpu), module).defined());
      const at::Tensor mine = head_linear(nullptr, Var(x.to(kGpu)), module, layout, {}, {}).value;
      EXPECT_EQ(mine.scalar_type(), at::kFloat);
      EXPECT_LE(relative_difference(mine.cpu(), expected), 1e-5);
    }
  }
}

TEST_P(KernelsOnGpu, distillation_of_classes_is_its_reference) {
  if (type() != at::kFloat) GTEST_SKIP() << "logits of classes are fp32";
  const at::NoGradGuard no_graph;
  for (const std::int64_t classes : {2, 5, 8, 77}) {
    const at::Tensor student = numbers({9, classes}, 1), teacher = numbers({9, classes}, 2);
    at::Tensor labels = at::arange(9, at::kLong) % classes;
    labels[4] = -100;
    const Distillation how{3, 0.6};
    const auto run_on = [&](c10::Device device) {
      Tape tape;
      const Var x = tape.track(student.to(device));
      const Var loss = distillation_loss(&tape, x, teacher.to(device), labels.to(device), how, 8.0);
      loss.slot->add(at::ones({}, loss.value.options()));
      tape.backward();
      return PassResult{loss.value.cpu(), {x.slot->grad.cpu()}};
    };
    expect_same(run_on(kGpu), run_on(at::kCPU), 1e-5);
  }
}

struct AttentionCase {
  const char* name;
  std::vector<std::int64_t> queries, keys;  // no keys: packed with the queries
  std::int64_t heads, key_heads, size;
  bool causal;
  std::int64_t window = 0;
  double dropout = 0;
  std::int64_t buckets = 0;
  AttentionKind kind = AttentionKind::flash;
};

TEST_P(KernelsOnGpu, attention_is_its_reference) {
  const AttentionCase cases[] = {
      {"even", {64, 64, 64}, {}, 4, 4, 64, true},
      {"even, both ways", {128, 128}, {}, 3, 3, 32, false},
      {"uneven", {70, 2, 41, 64}, {}, 4, 4, 64, true},
      {"uneven, both ways", {131, 7, 64}, {}, 2, 2, 64, false},
      {"odd heads", {17, 33, 16}, {}, 2, 2, 26, true},
      {"grouped", {40, 65}, {}, 8, 2, 32, true},
      {"grouped, odd", {40, 65}, {}, 6, 2, 10, true},
      {"window", {70, 33}, {}, 2, 2, 64, true, 16},
      {"window, odd", {70, 33}, {}, 2, 2, 12, true, 16},
      {"dropout", {70, 2, 41}, {}, 3, 3, 64, true, 0, 0.2},
      {"dropout, odd heads", {70, 2, 41}, {}, 3, 3, 26, true, 0, 0.2},
      {"dropout, grouped heads of 48", {70, 2, 41}, {}, 4, 2, 48, true, 20, 0.2},
      {"dropout, both ways", {64, 64}, {}, 3, 3, 64, false, 0, 0.1},
      {"bias", {70, 2, 41}, {}, 3, 3, 64, false, 0, 0, 12},
      {"bias, causal", {33, 20}, {}, 3, 3, 16, true, 0, 0.1, 12},
      {"math", {70, 2, 41}, {}, 3, 3, 64, true, 0, 0, 0, AttentionKind::math},
      {"across", {5, 9, 1}, {30, 2, 64}, 4, 4, 32, false},
      {"across with dropout", {5, 9, 1}, {30, 2, 64}, 4, 4, 32, false, 0, 0.1},
      {"the first of each row", {1, 1, 1}, {30, 2, 64}, 4, 4, 64, false},
  };
  for (const AttentionCase& what : cases) {
    SCOPED_TRACE(what.name);
    const AttentionChoice choice(what.kind);
    const bool packed = what.keys.empty();
    const Layout queries = layout_of(what.queries, 2, 9), keys = packed ? queries : layout_of(what.keys, 1, 0);
    AttentionOptions options;
    options.heads = what.heads;
    options.key_heads = what.key_heads;
    options.size = what.size;
    options.scale = 0.3;
    options.causal = what.causal;
    options.window = what.window;
    const std::int64_t width = what.heads * what.size, key_width = what.key_heads * what.size;
    Parameter table = parameter(numbers({std::max<std::int64_t>(what.buckets, 1), what.heads}, 3), type(), true);
    const RelativeBias bias{&table, !what.causal, 20};
    std::vector<Parameter*> parameters;
    if (what.buckets > 0) {
      options.bias = &bias;
      parameters.push_back(&table);
    }
    const Dropout dropout = make_dropout(what.dropout, kRun, 4);
    std::vector<at::Tensor> masks;
    for (std::int64_t r = 0; what.dropout > 0 && r < queries->rows; ++r) {
      masks.push_back(
          attention_dropout_mask(dropout, *queries, r, what.heads, queries->tokens_of(r), keys->tokens_of(r)));
    }
    std::vector<at::Tensor> inputs;
    if (packed) {
      inputs = {numbers({queries->tokens(), width + 2 * key_width}, 1).to(type())};
    } else {
      inputs = {numbers({queries->tokens(), width}, 1).to(type()),
                numbers({keys->tokens(), 2 * key_width}, 2).to(type())};
    }
    const std::int64_t key_column = packed ? width : 0;
    const PassResult expected = run_reference(
        inputs, parameters,
        [&](const std::vector<at::Tensor>& v) {
          const at::Tensor& kv = packed ? v[0] : v[1];
          return reference::attention(v[0].narrow(1, 0, width), kv.narrow(1, key_column, key_width),
                                      kv.narrow(1, key_column + key_width, key_width),
                                      what.buckets > 0 ? v.back() : at::Tensor(), *queries, keys->spans(), options,
                                      masks);
        },
        5);
    const PassResult mine = run(
        inputs, parameters,
        [&](Tape* tape, const std::vector<Var>& v) {
          return attention(tape, {v[0], 0, v.back(), key_column, key_column + key_width}, queries, keys->spans(),
                           options, dropout);
        },
        5);
    expect_same(mine, expected, 3 * tolerance());
  }
}

}  // namespace
}  // namespace finesweep::worker
