#include <ATen/Parallel.h>

#include "tests/kernels/support.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

/// One attention over rows of these numbers of queries and keys.
struct Case {
  std::string name;
  std::vector<std::int64_t> queries, keys;
  AttentionOptions options;
  double dropout = 0;
  /// Buckets of a relative bias; 0: none.
  std::int64_t buckets = 0;
  bool bidirectional = true;
  /// Query, key and value in one matrix.
  bool packed = false;
};

/// Query, key and value in matrices with columns to spare; rows of keys with `gap` tokens between them.
struct Problem {
  Layout queries;
  RowSpans keys;
  at::Tensor query, key_value;
  std::int64_t width = 0, key_width = 0;
  Parameter table;
  RelativeBias bias;
  AttentionOptions options;
  Dropout dropout;
  std::vector<at::Tensor> masks;
  bool packed = false;

  std::int64_t query_column() const { return packed ? 0 : 3; }
  std::int64_t key_column() const { return packed ? width : 2; }
  std::int64_t value_column() const { return packed ? width + key_width : 2 + key_width + 1; }
};

void build(const Case& what, at::ScalarType type, Problem& problem) {
  problem.options = what.options;
  problem.packed = what.packed;
  problem.queries = layout_of(what.queries, 2, 9);
  const std::int64_t heads = what.options.heads;
  const std::int64_t key_heads = what.options.key_heads == 0 ? heads : what.options.key_heads;
  problem.width = heads * what.options.size;
  problem.key_width = key_heads * what.options.size;
  std::int64_t tokens = 0;
  if (what.packed) {
    problem.keys = problem.queries->spans();
    tokens = problem.queries->tokens();
  } else {
    for (const std::int64_t count : what.keys) {
      tokens += 2;
      problem.keys.begin.push_back(tokens);
      problem.keys.count.push_back(count);
      tokens += count;
    }
  }
  if (what.packed) {
    problem.query = numbers({tokens, problem.width + 2 * problem.key_width}, 1).to(type);
  } else {
    problem.query = numbers({problem.queries->tokens(), problem.width + 5}, 1).to(type);
    problem.key_value = numbers({tokens, 2 * problem.key_width + 4}, 2).to(type);
  }
  if (what.buckets > 0) {
    problem.table = parameter(numbers({what.buckets, heads}, 3), type, true);
    problem.bias = {&problem.table, what.bidirectional, 20};
    problem.options.bias = &problem.bias;
  }
  problem.dropout = make_dropout(what.dropout, kRun, 4);
  for (std::int64_t r = 0; what.dropout > 0 && r < problem.queries->rows; ++r) {
    problem.masks.push_back(attention_dropout_mask(problem.dropout, *problem.queries, r, heads,
                                                   problem.queries->tokens_of(r), problem.keys.count[r]));
  }
}

PassResult by_operation(const Problem& p) {
  std::vector<at::Tensor> inputs{p.query};
  if (!p.packed) inputs.push_back(p.key_value);
  std::vector<Parameter*> parameters;
  if (p.options.bias != nullptr) {
    p.options.bias->table->zero_grad();
    parameters.push_back(p.options.bias->table);
  }
  return run_kernel(
      inputs, parameters,
      [&](Tape* tape, const std::vector<Var>& v) {
        const AttentionInputs in{v.front(), p.query_column(), v.back(), p.key_column(), p.value_column()};
        return attention(tape, in, p.queries, p.keys, p.options, p.dropout);
      },
      5);
}

PassResult by_reference(const Problem& p) {
  std::vector<at::Tensor> inputs{p.query};
  if (!p.packed) inputs.push_back(p.key_value);
  std::vector<Parameter*> parameters;
  if (p.options.bias != nullptr) parameters.push_back(p.options.bias->table);
  return run_reference(
      inputs, parameters,
      [&](const std::vector<at::Tensor>& v) {
        const at::Tensor& key_value = p.packed ? v[0] : v[1];
        return reference::attention(
            v[0].narrow(1, p.query_column(), p.width), key_value.narrow(1, p.key_column(), p.key_width),
            key_value.narrow(1, p.value_column(), p.key_width), p.options.bias == nullptr ? at::Tensor() : v.back(),
            *p.queries, p.keys, p.options, p.masks);
      },
      5);
}

AttentionOptions options_of(std::int64_t heads, std::int64_t key_heads, std::int64_t size, double scale,
                            bool causal, std::int64_t window) {
  AttentionOptions options;
  options.heads = heads;
  options.key_heads = key_heads;
  options.size = size;
  options.scale = scale;
  options.causal = causal;
  options.window = window;
  return options;
}

std::vector<Case> cases() {
  const std::vector<std::int64_t> uneven{5, 70, 1, 33, 16}, other{17, 2, 41, 64, 9}, longer{40, 70, 9, 64, 90};
  std::vector<Case> all = {
      {"one_token", {1}, {1}, options_of(1, 0, 1, 0, false, 0)},
      {"self", uneven, {}, options_of(3, 0, 26, 0, false, 0), 0, 0, true, true},
      {"self_dropout", uneven, {}, options_of(2, 0, 64, 0, false, 0), 0.1, 0, true, true},
      {"cross", uneven, other, options_of(3, 0, 12, 1, false, 0)},
      {"cross_dropout", uneven, other, options_of(4, 0, 8, 1, false, 0), 0.2},
      {"first_tokens", {1, 1, 1, 1, 1}, uneven, options_of(3, 0, 26, 0, false, 0), 0.1},
      {"causal", uneven, {}, options_of(4, 0, 12, 0, true, 0), 0, 0, true, true},
      {"causal_dropout", uneven, {}, options_of(2, 0, 80, 0, true, 0), 0.1, 0, true, true},
      {"causal_offset", uneven, longer, options_of(2, 0, 36, 0, true, 0), 0.1},
      {"window", uneven, {}, options_of(4, 0, 10, 1, true, 5), 0.1, 0, true, true},
      {"window_of_one", uneven, {}, options_of(1, 0, 128, 0, true, 1), 0, 0, true, true},
      {"window_offset", {131, 3}, {150, 120}, options_of(2, 0, 16, 1, true, 40)},
      {"grouped", uneven, {}, options_of(6, 2, 8, 0, true, 0), 0, 0, true, true},
      {"grouped_cross_dropout", uneven, other, options_of(6, 1, 36, 0, false, 0), 0.1},
      {"bias", uneven, {}, options_of(3, 0, 12, 1, false, 0), 0.1, 32, true, true},
      {"bias_causal", uneven, longer, options_of(4, 0, 8, 1, true, 0), 0, 8, false},
      {"bias_grouped_window", uneven, longer, options_of(4, 2, 20, 1, true, 7), 0.1, 8, true},
      {"decode", {1, 1, 1}, {70, 1, 300}, options_of(4, 0, 64, 0, true, 0)},
      {"decode_grouped", {1, 1, 1}, {70, 1, 300}, options_of(6, 2, 26, 0, true, 0)},
      {"decode_window_bias", {1, 1, 1}, {70, 1, 300}, options_of(3, 0, 12, 1, true, 33), 0, 16, false},
  };
  return all;
}

class Attention : public testing::TestWithParam<at::ScalarType> {};

INSTANTIATE_TEST_SUITE_P(EveryType, Attention, testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(Attention, is_its_reference) {
  for (const Case& what : cases()) {
    SCOPED_TRACE(what.name);
    Problem problem;
    build(what, GetParam(), problem);
    expect_same(by_operation(problem), by_reference(problem), tolerance(GetParam()));
  }
}

TEST_P(Attention, does_not_depend_on_the_number_of_threads) {
  if (GetParam() == at::kHalf) GTEST_SKIP() << "fp16 is libtorch's products on a CPU, which do on some processors";
  const int threads = at::get_num_threads();
  for (const Case& what : cases()) {
    SCOPED_TRACE(what.name);
    Problem problem;
    build(what, GetParam(), problem);
    at::set_num_threads(1);
    const PassResult one = by_operation(problem);
    at::set_num_threads(2);
    const PassResult two = by_operation(problem);
    EXPECT_TRUE(at::equal(one.value, two.value));
    for (std::size_t i = 0; i < one.gradients.size(); ++i)
      EXPECT_TRUE(at::equal(one.gradients[i], two.gradients[i]));
  }
  at::set_num_threads(threads);
}

TEST(AttentionRows, beams_may_share_keys) {
  const Layout queries = layout_of({1, 1, 1, 1});
  const RowSpans shared{{0, 0, 5, 5}, {5, 5, 9, 9}};
  const at::Tensor key_value = numbers({14, 48}, 1), query = numbers({4, 24}, 2);
  const AttentionOptions options = options_of(2, 0, 12, 0, false, 0);
  const auto run = [&](const at::Tensor& some_keys, const RowSpans& spans) {
    return run_kernel(
        {query, some_keys}, {},
        [&](Tape* tape, const std::vector<Var>& v) {
          return attention(tape, {v[0], 0, v[1], 0, 24}, queries, spans, options, {});
        },
        3);
  };
  const at::Tensor first = key_value.narrow(0, 0, 5), second = key_value.narrow(0, 5, 9);
  const PassResult mine = run(key_value, shared);
  const PassResult copies = run(at::cat({first, first, second, second}), {{0, 5, 10, 19}, {5, 5, 9, 9}});
  EXPECT_LE(relative_difference(mine.value, copies.value), 1e-6);
  const at::Tensor d = copies.gradients[1];
  const at::Tensor sums = at::cat({d.narrow(0, 0, 5) + d.narrow(0, 5, 5), d.narrow(0, 10, 9) + d.narrow(0, 19, 9)});
  EXPECT_LE(relative_difference(mine.gradients[0], copies.gradients[0]), 1e-5);
  EXPECT_LE(relative_difference(mine.gradients[1], sums), 1e-5);
}

TEST(RelativeBucket, is_what_transformers_computes_in_fp32) {
  for (const bool bidirectional : {true, false}) {
    for (const auto& [buckets, most] : {std::pair<std::int64_t, std::int64_t>{32, 128}, {16, 20}, {8, 200}}) {
      const at::Tensor distance = at::arange(-300, 300, at::kLong);
      // T5Attention._relative_position_bucket
      const std::int64_t half = bidirectional ? buckets / 2 : buckets, exact = half / 2;
      const at::Tensor first = bidirectional ? distance.gt(0).to(at::kLong) * half : at::zeros_like(distance);
      const at::Tensor away = bidirectional ? distance.abs() : distance.neg().clamp_min(0);
      const at::Tensor grown =
          (at::log(away.to(at::kFloat) / exact) / std::log(double(most) / double(exact)) * (half - exact))
              .to(at::kLong) +
          exact;
      const at::Tensor expected = first + at::where(away.lt(exact), away, grown.clamp_max(half - 1));
      for (std::int64_t i = 0; i < distance.size(0); ++i) {
        EXPECT_EQ(relative_bucket(i - 300, bidirectional, buckets, most), expected[i].item<std::int64_t>())
            << i - 300 << " of " << buckets;
      }
    }
  }
}

}  // namespace
}  // namespace finesweep::worker
