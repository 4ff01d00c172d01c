#include "worker/kernels/cpu/attention.h"

#include <ATen/Parallel.h>

#include "worker/kernels/cpu/attention_blocks.h"
#include "worker/kernels/cpu/matrix.h"

namespace finesweep::worker::cpu {
namespace {

/// Queries whose scores are held at once.
constexpr std::int64_t kQueries = 32;

/// Rows of a head to [rows, wide], zeros behind. A head's values lie in pieces of two cache lines, too far apart
/// for the processor to foresee, so those of the next head are asked for on the way.
template <typename F, typename T>
FINESWEEP_INLINE void gather(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t size,
                             std::int64_t wide, float* to) {
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < wide; i += kWidest) __builtin_prefetch(from + t * stride + size + i, 0, 2);
    for (std::int64_t i = 0; i < wide; i += kLanes<F>) {
      store<F>(to + t * wide + i, i < size ? load<F>(from + t * stride + i, size - i) : F{});
    }
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void scatter(const float* from, std::int64_t wide, std::int64_t rows, std::int64_t size, T* to,
                              std::int64_t stride) {
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < size; i += kLanes<F>) {
      store<F>(to + t * stride + i, load<F>(from + t * wide + i), size - i);
    }
  }
}

/// Exchanges the off-diagonal blocks of side kStep in a square matrix held as rows.
template <typename F, int kStep>
FINESWEEP_INLINE void exchange(F (&rows)[kLanes<F>]) {
  constexpr int kSide = kLanes<F>;
  Ints<F> upper, lower;  // lanes of the pair (a, b): those of a, then those of b
#pragma GCC unroll 16
  for (int lane = 0; lane < kSide; ++lane) {
    upper[lane] = (lane & kStep) != 0 ? kSide + lane - kStep : lane;
    lower[lane] = (lane & kStep) != 0 ? kSide + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) {
    if ((i & kStep) != 0) continue;
    const F a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i + kStep] = __builtin_shuffle(a, b, lower);
  }
}

/// [rows, wide] to [wide, columns], where columns is rows padded; what stands behind `rows` is 0.
template <typename F>
FINESWEEP_INLINE void transpose(const float* from, std::int64_t wide, std::int64_t rows, float* to,
                                std::int64_t columns) {
  for (std::int64_t t = 0; t < columns; t += kLanes<F>) {
    for (std::int64_t i = 0; i < wide; i += kLanes<F>) {
      F block[kLanes<F>];
#pragma GCC unroll 16
      for (std::int64_t k = 0; k < kLanes<F>; ++k) {
        block[k] = t + k < rows ? load<F>(from + (t + k) * wide + i) : F{};
      }
      exchange<F, 1>(block);
      exchange<F, 2>(block);
      if constexpr (kLanes < F >> 4) exchange<F, 4>(block);
      if constexpr (kLanes < F >> 8) exchange<F, 8>(block);
#pragma GCC unroll 16
      for (std::int64_t k = 0; k < kLanes<F>; ++k) store<F>(to + (i + k) * columns + t, block[k]);
    }
  }
}

/// One head of one row as fp32, in a thread's own memory. Heads are padded to `wide`, keys to `columns`.
struct Scratch {
  Buffer query, key, value, key_t, value_t, scores, gradients, d_out, d_query, d_key, d_value;
  std::vector<std::uint16_t> bits;
  std::int64_t keys = 0, columns = 0, size = 0, wide = 0;

  void prepare(std::int64_t row_keys, std::int64_t head_size, bool backward) {
    keys = row_keys;
    size = head_size;
    columns = padded(keys);
    wide = padded(size);
    query.grow(kQueries * wide);
    for (Buffer* buffer : {&key, &value}) buffer->grow(keys * wide);
    key_t.grow(wide * columns);
    scores.grow(kQueries * columns);
    if (!backward) return;
    value_t.grow(wide * columns);
    gradients.grow(kQueries * columns);
    for (Buffer* buffer : {&d_out, &d_query}) buffer->grow(kQueries * wide);
    for (Buffer* buffer : {&d_key, &d_value}) buffer->grow(keys * wide);
  }
};

/// Some queries of one head, and the keys from `first_key` on that one of them sees.
struct Block {
  std::int64_t first_query = 0, count = 0;  // within the row
  std::int64_t first_key = 0;               // a multiple of kWidest
  std::int64_t keys = 0, columns = 0;       // columns: keys padded
  Range seen[kQueries];                     // of each query, from first_key on
};

template <typename T>
Block block_of(const AttentionProblem<T>& problem, std::int64_t first_query, std::int64_t queries,
               std::int64_t keys) {
  Block block;
  block.first_query = first_query;
  block.count = std::min(kQueries, queries - first_query);
  block.first_key = visible_keys(problem, first_query, queries, keys).begin / kWidest * kWidest;
  for (std::int64_t i = 0; i < block.count; ++i) {
    const Range seen = visible_keys(problem, first_query + i, queries, keys);
    block.seen[i] = {seen.begin - block.first_key, seen.end - block.first_key};
  }
  block.keys = block.seen[block.count - 1].end;
  block.columns = padded(block.keys);
  return block;
}

/// bias[j]: what query i of the block gets for key first_key + j.
const float* bias_of(const DistanceBias& bias, std::int64_t head, const Block& block, std::int64_t i,
                     std::int64_t queries, std::int64_t keys) {
  if (bias.values == nullptr) return nullptr;
  const std::int64_t position = block.first_query + i + keys - queries;
  return bias.values + head * bias.stride + bias.zero + block.first_key - position;
}

template <typename T>
void load_keys(const T* key, std::int64_t key_stride, const T* value, std::int64_t value_stride, Scratch& s,
               bool backward) {
  with_widest_vectors([&]<typename F>() {
    gather<F>(key, key_stride, s.keys, s.size, s.wide, s.key.data());
    gather<F>(value, value_stride, s.keys, s.size, s.wide, s.value.data());
    transpose<F>(s.key.data(), s.wide, s.keys, s.key_t.data(), s.columns);
    if (!backward) return;
    transpose<F>(s.value.data(), s.wide, s.keys, s.value_t.data(), s.columns);
    clear<F>(s.d_key.data(), 0, s.keys * s.wide);
    clear<F>(s.d_value.data(), 0, s.keys * s.wide);
  });
}

template <typename T>
void forward_block(const AttentionProblem<T>& problem, std::int64_t row, std::int64_t head, const Block& block,
                   const KeyMasks& masks, Scratch& s, Heads<T> out, float* log_sum) {
  const std::int64_t queries = problem.queries->tokens_of(row),
                     first = problem.queries->starts[row] + block.first_query;
  float totals[kQueries];
  with_widest_vectors([&]<typename F>() {
    gather<F>(problem.query.at(first, head, s.size), problem.query.stride, block.count, s.size, s.wide,
              s.query.data());
  });
  multiply(block.count, block.columns, s.size, s.query.data(), s.wide, 1, s.key_t.data() + block.first_key,
           s.columns, s.scores.data(), block.columns, false);
  with_widest_vectors([&]<typename F>() {
    for (std::int64_t i = 0; i < block.count; ++i) {
      float top = 0;
      softmax_row<F>(s.scores.data() + i * block.columns, block.seen[i], block.columns, problem.scale,
                     bias_of(problem.bias, head, block, i, queries, s.keys), masks.of(i, block.first_key), top,
                     totals[i]);
      log_sum[(first + i) * problem.heads + head] = top + __builtin_logf(totals[i]);
    }
  });
  multiply(block.count, s.wide, block.keys, s.scores.data(), block.columns, 1,
           s.value.data() + block.first_key * s.wide, s.wide, s.query.data(), s.wide, false);
  with_widest_vectors([&]<typename F>() {
    for (std::int64_t i = 0; i < block.count; ++i) {
      const float inverse = 1.0f / totals[i];
      float* values = s.query.data() + i * s.wide;
      for (std::int64_t k = 0; k < s.wide; k += kLanes<F>) store<F>(values + k, load<F>(values + k) * inverse);
    }
    scatter<F>(s.query.data(), s.wide, block.count, s.size, out.at(first, head, s.size), out.stride);
  });
}

/// What the way back of a row reads and writes beside the problem.
template <typename T>
struct WayBack {
  Heads<const T> out, d_out;
  const float* log_sum = nullptr;
  Heads<T> d_query, d_key, d_value;
  float* row_bias = nullptr;  // [rows, heads, bias.stride], or null
};

template <typename T>
void backward_block(const AttentionProblem<T>& problem, const WayBack<T>& back, std::int64_t row, std::int64_t head,
                    const Block& block, const KeyMasks& masks, Scratch& s) {
  const std::int64_t queries = problem.queries->tokens_of(row),
                     first = problem.queries->starts[row] + block.first_query;
  with_widest_vectors([&]<typename F>() {
    gather<F>(problem.query.at(first, head, s.size), problem.query.stride, block.count, s.size, s.wide,
              s.query.data());
    gather<F>(back.d_out.at(first, head, s.size), back.d_out.stride, block.count, s.size, s.wide, s.d_out.data());
  });
  multiply(block.count, block.columns, s.size, s.query.data(), s.wide, 1, s.key_t.data() + block.first_key,
           s.columns, s.scores.data(), block.columns, false);
  multiply(block.count, block.columns, s.size, s.d_out.data(), s.wide, 1, s.value_t.data() + block.first_key,
           s.columns, s.gradients.data(), block.columns, false);
  float* d_bias =
      back.row_bias == nullptr ? nullptr : back.row_bias + (row * problem.heads + head) * problem.bias.stride;
  with_widest_vectors([&]<typename F>() {
    for (std::int64_t i = 0; i < block.count; ++i) {
      const T* out = back.out.at(first + i, head, s.size);
      F dots{};
      for (std::int64_t k = 0; k < s.size; k += kLanes<F>) {
        __builtin_prefetch(out + s.size + k, 0, 2);
        dots += load<F>(s.d_out.data() + i * s.wide + k) * load<F>(out + k, s.size - k);
      }
      const float* bias = bias_of(problem.bias, head, block, i, queries, s.keys);
      float* bias_gradient =
          d_bias == nullptr ? nullptr : d_bias + (bias - (problem.bias.values + head * problem.bias.stride));
      softmax_row_backward<F>(s.scores.data() + i * block.columns, s.gradients.data() + i * block.columns,
                              block.seen[i], block.columns, problem.scale, bias, bias_gradient,
                              back.log_sum[(first + i) * problem.heads + head], sum(dots),
                              masks.of(i, block.first_key));
    }
  });
  const std::int64_t at = block.first_key * s.wide;
  multiply(block.count, s.wide, block.keys, s.gradients.data(), block.columns, 1, s.key.data() + at, s.wide,
           s.d_query.data(), s.wide, false);
  with_widest_vectors([&]<typename F>() {
    scatter<F>(s.d_query.data(), s.wide, block.count, s.size, back.d_query.at(first, head, s.size),
               back.d_query.stride);
  });
  multiply(block.keys, s.wide, block.count, s.gradients.data(), 1, block.columns, s.query.data(), s.wide,
           s.d_key.data() + at, s.wide, true);
  multiply(block.keys, s.wide, block.count, s.scores.data(), 1, block.columns, s.d_out.data(), s.wide,
           s.d_value.data() + at, s.wide, true);
}

/// Calls work(row, key head, scratch) for every key head of every row, over all threads.
template <typename T, typename Work>
void over_key_heads(const AttentionProblem<T>& problem, const Work& work) {
  const std::int64_t heads = problem.key_heads;
  at::parallel_for(0, problem.queries->rows * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch;
    for (std::int64_t task = begin; task < end; ++task) work(task / heads, task % heads, scratch);
  });
}

/// Calls work(head, block, masks) for every block of queries of every query head that reads a key head of a row.
template <typename T, typename Work>
void over_blocks(const AttentionProblem<T>& problem, std::int64_t row, std::int64_t key_head, Scratch& s,
                 const Work& work) {
  const std::int64_t queries = problem.queries->tokens_of(row), group = problem.group();
  KeyMasks masks(problem.dropout, *problem.queries, row);
  for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    for (std::int64_t q = 0; q < queries; q += kQueries) {
      const Block block = block_of(problem, q, queries, s.keys);
      masks.fill(head, q, block.count, {block.first_key, block.first_key + block.keys}, s.bits);
      work(head, block, masks);
    }
  }
}

/// d_bias += the rows' parts, row after row, so that the sum does not depend on who computed them.
void add_rows(const std::vector<float>& row_bias, std::int64_t rows, std::int64_t count, float* d_bias) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < count; ++i) d_bias[i] += row_bias[r * count + i];
  }
}

}  // namespace

template <typename T>
void AttentionKernels<T>::forward(const AttentionProblem<T>& problem, Heads<T> out, float* log_sum) {
  if (problem.queries->longest == 1) return SingleQueryKernels<T>::forward(problem, out, log_sum);
  over_key_heads(problem, [&](std::int64_t row, std::int64_t key_head, Scratch& s) {
    const std::int64_t first = problem.keys->begin[row];
    s.prepare(problem.keys->count[row], problem.size, false);
    load_keys(problem.key.at(first, key_head, s.size), problem.key.stride,
              problem.value.at(first, key_head, s.size), problem.value.stride, s, false);
    over_blocks(problem, row, key_head, s, [&](std::int64_t head, const Block& block, const KeyMasks& masks) {
      forward_block(problem, row, head, block, masks, s, out, log_sum);
    });
  });
}

template <typename T>
void AttentionKernels<T>::backward(const AttentionProblem<T>& problem, Heads<const T> out, Heads<const T> d_out,
                                   const float* log_sum, Heads<T> d_query, Heads<T> d_key, Heads<T> d_value,
                                   float* d_bias) {
  const std::int64_t rows = problem.queries->rows, count = problem.heads * problem.bias.stride;
  std::vector<float> row_bias(d_bias == nullptr ? 0 : rows * count);
  const WayBack<T> back{
      out, d_out, log_sum, d_query, d_key, d_value, d_bias == nullptr ? nullptr : row_bias.data()};
  if (problem.queries->longest == 1) {
    SingleQueryKernels<T>::backward(problem, out, d_out, log_sum, d_query, d_key, d_value, back.row_bias);
  } else {
    over_key_heads(problem, [&](std::int64_t row, std::int64_t key_head, Scratch& s) {
      const std::int64_t first = problem.keys->begin[row];
      s.prepare(problem.keys->count[row], problem.size, true);
      load_keys(problem.key.at(first, key_head, s.size), problem.key.stride,
                problem.value.at(first, key_head, s.size), problem.value.stride, s, true);
      over_blocks(problem, row, key_head, s, [&](std::int64_t head, const Block& block, const KeyMasks& masks) {
        backward_block(problem, back, row, head, block, masks, s);
      });
      with_widest_vectors([&]<typename F>() {
        scatter<F>(s.d_key.data(), s.wide, s.keys, s.size, d_key.at(first, key_head, s.size), d_key.stride);
        scatter<F>(s.d_value.data(), s.wide, s.keys, s.size, d_value.at(first, key_head, s.size), d_value.stride);
      });
    });
  }
  if (d_bias != nullptr) add_rows(row_bias, rows, count, d_bias);
}

template struct AttentionKernels<float>;
template struct AttentionKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
