#include "worker/kernels/cpu/attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

using c10::BFloat16;

/// Queries whose scores are held at once.
constexpr std::int64_t kQueries = 32;

std::int64_t padded(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

/// C [rows, 16 × columns] (+)= A B, a few rows at a time, all accumulators in registers. A(i, k) = a[i × a_row +
/// k × a_step], so a transposed A costs nothing.
template <int kRows, int kColumns>
FINESWEEP_INLINE void tile(const float* a, std::int64_t a_row, std::int64_t a_step, const float* b,
                           std::int64_t b_stride, std::int64_t depth, float* c, std::int64_t c_stride,
                           bool accumulate) {
  Floats sums[kRows][kColumns];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = accumulate ? load(c + i * c_stride + j * kLanes) : Floats{};
    }
  }
  for (std::int64_t k = 0; k < depth; ++k, a += a_step, b += b_stride) {
    Floats right[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Floats left = splat(a[i * a_row]);
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) sums[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) store(c + i * c_stride + j * kLanes, sums[i][j]);
  }
}

template <int kRows, int kColumns>
FINESWEEP_INLINE void panel(std::int64_t rows, const float* a, std::int64_t a_row, std::int64_t a_step,
                            const float* b, std::int64_t b_stride, std::int64_t depth, float* c,
                            std::int64_t c_stride, bool accumulate) {
  std::int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    tile<kRows, kColumns>(a + i * a_row, a_row, a_step, b, b_stride, depth, c + i * c_stride, c_stride, accumulate);
  }
  if constexpr (kRows > 1) {
    panel<kRows / 2, kColumns>(rows - i, a + i * a_row, a_row, a_step, b, b_stride, depth, c + i * c_stride,
                               c_stride, accumulate);
  }
}

/// C [rows, columns] (+)= A B; `columns` is a multiple of 16. A clone of its own: inlined seven times over it would
/// not fit the instruction cache.
FINESWEEP_CLONES void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
                               std::int64_t a_row, std::int64_t a_step, const float* b, std::int64_t b_stride,
                               float* c, std::int64_t c_stride, bool accumulate) {
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    panel<8, 2>(rows, a, a_row, a_step, b + j, b_stride, depth, c + j, c_stride, accumulate);
  }
  if (j < columns) panel<8, 1>(rows, a, a_row, a_step, b + j, b_stride, depth, c + j, c_stride, accumulate);
}

/// Rows of a head to [rows, wide], zeros behind. A head's values lie in pieces of two cache lines, too far apart
/// for the processor to foresee, so those of the next head are asked for on the way.
template <typename T>
FINESWEEP_INLINE void gather(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t size,
                             std::int64_t wide, float* to) {
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < wide; i += kLanes) {
      __builtin_prefetch(from + t * stride + size + i, 0, 2);
      store(to + t * wide + i, i < size ? load(from + t * stride + i, size - i) : Floats{});
    }
  }
}

template <typename T>
FINESWEEP_INLINE void scatter(const float* from, std::int64_t wide, std::int64_t rows, std::int64_t size, T* to,
                              std::int64_t stride) {
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < size; i += kLanes) store(to + t * stride + i, load(from + t * wide + i), size - i);
  }
}

/// Exchanges the off-diagonal blocks of side kStep in a 16 × 16 matrix held as rows.
template <int kStep>
FINESWEEP_INLINE void exchange(Floats (&rows)[kLanes]) {
  Ints upper, lower;  // lanes of the pair (a, b): 0 … 15 of a, 16 … 31 of b
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) {
    upper[lane] = (lane & kStep) != 0 ? 16 + lane - kStep : lane;
    lower[lane] = (lane & kStep) != 0 ? 16 + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const Floats a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i + kStep] = __builtin_shuffle(a, b, lower);
  }
}

/// [rows, wide] to [wide, columns], where columns is rows rounded up to 16; what stands behind `rows` is 0.
FINESWEEP_INLINE void transpose(const float* from, std::int64_t wide, std::int64_t rows, float* to,
                                std::int64_t columns) {
  for (std::int64_t t = 0; t < columns; t += kLanes) {
    for (std::int64_t i = 0; i < wide; i += kLanes) {
      Floats block[kLanes];
#pragma GCC unroll 16
      for (std::int64_t k = 0; k < kLanes; ++k) {
        block[k] = t + k < rows ? load(from + (t + k) * wide + i) : Floats{};
      }
      exchange<1>(block);
      exchange<2>(block);
      exchange<4>(block);
      exchange<8>(block);
#pragma GCC unroll 16
      for (std::int64_t k = 0; k < kLanes; ++k) store(to + (i + k) * columns + t, block[k]);
    }
  }
}

/// One head of one row, as fp32 in a thread's own memory.
struct Scratch {
  std::vector<float> query, key, value, key_t, value_t, scores, probabilities, d_out, d_query, d_key, d_value;
  std::vector<std::uint16_t> bits;

  void prepare(std::int64_t keys, std::int64_t size, bool backward) {
    const std::int64_t wide = padded(size), columns = padded(keys);
    const auto grow = [](std::vector<float>& v, std::int64_t n) {
      if (static_cast<std::int64_t>(v.size()) < n) v.assign(n, 0.0f);
    };
    grow(query, kQueries * wide);
    grow(value, keys * wide);
    grow(key, keys * wide);
    grow(key_t, wide * columns);
    grow(scores, kQueries * columns);
    if (static_cast<std::int64_t>(bits.size()) < (columns + 63) / 64 * 64) bits.resize((columns + 63) / 64 * 64);
    if (!backward) return;
    grow(value_t, wide * columns);
    grow(probabilities, kQueries * columns);
    grow(d_out, kQueries * wide);
    grow(d_query, kQueries * wide);
    grow(d_key, keys * wide);
    grow(d_value, keys * wide);
  }
};

/// The mask of one query's probabilities; nothing where dropout is off.
FINESWEEP_INLINE Floats keep_at(const std::uint16_t* bits, std::int64_t j, std::uint32_t threshold, float scale) {
  return bits == nullptr ? splat(1.0f) : keep(bits + j, threshold, scale);
}

/// Scores to exponentials under the mask; returns the sum (without the mask) and the maximum. Columns behind `keys`
/// become 0.
FINESWEEP_INLINE void softmax_row(float* scores, std::int64_t keys, float scale, const std::uint16_t* bits,
                                  std::uint32_t threshold, float keep_scale, float& top, float& total) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Floats best = splat(-INFINITY);
  for (std::int64_t j = 0; j < keys; j += kLanes) {
    const Floats s = if_less(lane, static_cast<std::int32_t>(keys - j), load(scores + j) * scale, splat(-INFINITY));
    store(scores + j, s);
    best = max(best, s);
  }
  top = largest(best);
  Floats sums{};
  for (std::int64_t j = 0; j < keys; j += kLanes) {
    const Floats e = exponential(load(scores + j) - top);
    sums += e;
    store(scores + j, e * keep_at(bits, j, threshold, keep_scale));
  }
  total = sum(sums);
}

/// Scores and the gradient of the masked probabilities to masked probabilities (in `scores`) and the gradient of
/// the scores (in `gradients`).
FINESWEEP_INLINE void softmax_row_backward(float* scores, float* gradients, std::int64_t keys, float scale,
                                           float log_sum, float dot, const std::uint16_t* bits,
                                           std::uint32_t threshold, float keep_scale) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::int64_t j = 0; j < keys; j += kLanes) {
    const std::int32_t inside = static_cast<std::int32_t>(keys - j);
    const Floats p = if_less(lane, inside, exponential(load(scores + j) * scale - log_sum), Floats{});
    const Floats mask = keep_at(bits, j, threshold, keep_scale);
    const Floats d = load(gradients + j) * mask - dot;
    store(gradients + j, if_less(lane, inside, p * d * scale, Floats{}));
    store(scores + j, p * mask);
  }
}

template <typename T>
FINESWEEP_INLINE void forward_block(const T* query, std::int64_t query_stride, std::int64_t queries, T* out,
                                    std::int64_t out_stride, float* log_sum, std::int64_t log_stride,
                                    std::int64_t keys, std::int64_t columns, std::int64_t size, std::int64_t wide,
                                    float scale, Scratch& s, const std::uint16_t* bits, std::int64_t bits_stride,
                                    const Dropout& dropout) {
  gather(query, query_stride, queries, size, wide, s.query.data());
  multiply(queries, columns, size, s.query.data(), wide, 1, s.key_t.data(), columns, s.scores.data(), columns,
           false);
  float totals[kQueries];
  for (std::int64_t i = 0; i < queries; ++i) {
    float top = 0;
    softmax_row(s.scores.data() + i * columns, keys, scale, bits == nullptr ? bits : bits + i * bits_stride,
                dropout.threshold, dropout.scale(), top, totals[i]);
    log_sum[i * log_stride] = top + __builtin_logf(totals[i]);
  }
  multiply(queries, wide, keys, s.scores.data(), columns, 1, s.value.data(), wide, s.query.data(), wide, false);
  for (std::int64_t i = 0; i < queries; ++i) {
    const float inverse = 1.0f / totals[i];
    for (std::int64_t k = 0; k < wide; k += kLanes) {
      store(s.query.data() + i * wide + k, load(s.query.data() + i * wide + k) * inverse);
    }
  }
  scatter(s.query.data(), wide, queries, size, out, out_stride);
}

template <typename T>
FINESWEEP_INLINE void load_keys(const T* key, std::int64_t key_stride, const T* value, std::int64_t value_stride,
                                std::int64_t keys, std::int64_t columns, std::int64_t size, std::int64_t wide,
                                Scratch& s, bool backward) {
  gather(key, key_stride, keys, size, wide, s.key.data());
  gather(value, value_stride, keys, size, wide, s.value.data());
  transpose(s.key.data(), wide, keys, s.key_t.data(), columns);
  if (!backward) return;
  transpose(s.value.data(), wide, keys, s.value_t.data(), columns);
  for (std::int64_t i = 0; i < keys * wide; i += kLanes) {
    store(s.d_key.data() + i, Floats{});
    store(s.d_value.data() + i, Floats{});
  }
}

template <typename T>
FINESWEEP_INLINE void backward_block(const T* query, std::int64_t query_stride, std::int64_t queries, const T* out,
                                     std::int64_t out_stride, const T* d_out, std::int64_t d_out_stride,
                                     const float* log_sum, std::int64_t log_stride, T* d_query,
                                     std::int64_t d_query_stride, std::int64_t keys, std::int64_t columns,
                                     std::int64_t size, std::int64_t wide, float scale, Scratch& s,
                                     const std::uint16_t* bits, std::int64_t bits_stride, const Dropout& dropout) {
  gather(query, query_stride, queries, size, wide, s.query.data());
  gather(d_out, d_out_stride, queries, size, wide, s.d_out.data());
  multiply(queries, columns, size, s.query.data(), wide, 1, s.key_t.data(), columns, s.scores.data(), columns,
           false);
  multiply(queries, columns, size, s.d_out.data(), wide, 1, s.value_t.data(), columns, s.probabilities.data(),
           columns, false);
  for (std::int64_t i = 0; i < queries; ++i) {
    Floats dots{};
    for (std::int64_t k = 0; k < size; k += kLanes) {
      __builtin_prefetch(out + i * out_stride + size + k, 0, 2);
      dots += load(s.d_out.data() + i * wide + k) * load(out + i * out_stride + k, size - k);
    }
    softmax_row_backward(s.scores.data() + i * columns, s.probabilities.data() + i * columns, keys, scale,
                         log_sum[i * log_stride], sum(dots), bits == nullptr ? bits : bits + i * bits_stride,
                         dropout.threshold, dropout.scale());
  }
  multiply(queries, wide, keys, s.probabilities.data(), columns, 1, s.key.data(), wide, s.d_query.data(), wide,
           false);
  scatter(s.d_query.data(), wide, queries, size, d_query, d_query_stride);
  multiply(keys, wide, queries, s.probabilities.data(), 1, columns, s.query.data(), wide, s.d_key.data(), wide,
           true);
  multiply(keys, wide, queries, s.scores.data(), 1, columns, s.d_out.data(), wide, s.d_value.data(), wide, true);
}

#define FINESWEEP_ATTENTION_CLONES(T)                                                                             \
  FINESWEEP_CLONES void load_keys_clone(const T* key, std::int64_t key_stride, const T* value,                    \
                                        std::int64_t value_stride, std::int64_t keys, std::int64_t columns,       \
                                        std::int64_t size, std::int64_t wide, Scratch& s, bool backward) {        \
    load_keys(key, key_stride, value, value_stride, keys, columns, size, wide, s, backward);                      \
  }                                                                                                               \
  FINESWEEP_CLONES void forward_clone(const T* query, std::int64_t query_stride, std::int64_t queries, T* out,    \
                                      std::int64_t out_stride, float* log_sum, std::int64_t log_stride,           \
                                      std::int64_t keys, std::int64_t columns, std::int64_t size,                 \
                                      std::int64_t wide, float scale, Scratch& s, const std::uint16_t* bits,      \
                                      std::int64_t bits_stride, const Dropout& dropout) {                         \
    forward_block(query, query_stride, queries, out, out_stride, log_sum, log_stride, keys, columns, size, wide,  \
                  scale, s, bits, bits_stride, dropout);                                                          \
  }                                                                                                               \
  FINESWEEP_CLONES void backward_clone(                                                                           \
      const T* query, std::int64_t query_stride, std::int64_t queries, const T* out, std::int64_t out_stride,     \
      const T* d_out, std::int64_t d_out_stride, const float* log_sum, std::int64_t log_stride, T* d_query,       \
      std::int64_t d_query_stride, std::int64_t keys, std::int64_t columns, std::int64_t size, std::int64_t wide, \
      float scale, Scratch& s, const std::uint16_t* bits, std::int64_t bits_stride, const Dropout& dropout) {     \
    backward_block(query, query_stride, queries, out, out_stride, d_out, d_out_stride, log_sum, log_stride,       \
                   d_query, d_query_stride, keys, columns, size, wide, scale, s, bits, bits_stride, dropout);     \
  }                                                                                                               \
  FINESWEEP_CLONES void scatter_clone(const float* from, std::int64_t wide, std::int64_t rows, std::int64_t size, \
                                      T* to, std::int64_t stride) {                                               \
    scatter(from, wide, rows, size, to, stride);                                                                  \
  }
FINESWEEP_ATTENTION_CLONES(float)
FINESWEEP_ATTENTION_CLONES(BFloat16)
#undef FINESWEEP_ATTENTION_CLONES

/// The masks of a block of queries, one row of numbers for each.
void fill_bits(const Dropout& dropout, const RandomStream& stream, std::int64_t head, std::int64_t first_query,
               std::int64_t queries, std::int64_t stride, std::vector<std::uint16_t>& bits) {
  if (static_cast<std::int64_t>(bits.size()) < queries * stride) bits.resize(queries * stride);
  for (std::int64_t i = 0; i < queries; ++i) {
    dropout_bits(stream,
                 (static_cast<std::uint64_t>(head) << 48) + (static_cast<std::uint64_t>(first_query + i) << 24),
                 stride / 8, bits.data() + i * stride);
  }
}

/// Calls work(row, head, scratch) for every head of every row, over all threads.
template <typename Work>
void over_heads(const AttentionShape& shape, const TokenLayout& layout, const Work& work) {
  at::parallel_for(0, layout.rows * shape.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch;
    for (std::int64_t task = begin; task < end; ++task) work(task / shape.heads, task % shape.heads, scratch);
  });
}

template <typename T>
T* at_head(Heads<T> heads, std::int64_t token, std::int64_t head, std::int64_t size) {
  return heads.data + token * heads.stride + head * size;
}

}  // namespace

template <typename T>
void AttentionKernels<T>::forward(Heads<const T> query, Heads<const T> key, Heads<const T> value, Heads<T> out,
                                  float* log_sum, const AttentionShape& shape, const TokenLayout& query_rows,
                                  const RowSpans& key_rows, const Dropout& dropout) {
  over_heads(shape, query_rows, [&](std::int64_t row, std::int64_t head, Scratch& s) {
    const std::int64_t first = key_rows.begin[row], keys = key_rows.count[row];
    const std::int64_t columns = padded(keys), wide = padded(shape.size), stride = (keys + 63) / 64 * 64;
    s.prepare(keys, shape.size, false);
    load_keys_clone(at_head(key, first, head, shape.size), key.stride, at_head(value, first, head, shape.size),
                    value.stride, keys, columns, shape.size, wide, s, false);
    const RandomStream stream = dropout.stream(query_rows.first_row + row);
    const std::int64_t queries = query_rows.tokens_of(row), first_query = query_rows.starts[row];
    for (std::int64_t q = 0; q < queries; q += kQueries) {
      const std::int64_t count = std::min(kQueries, queries - q);
      if (dropout.active()) fill_bits(dropout, stream, head, q, count, stride, s.bits);
      forward_clone(at_head(query, first_query + q, head, shape.size), query.stride, count,
                    at_head(out, first_query + q, head, shape.size), out.stride,
                    log_sum + (first_query + q) * shape.heads + head, shape.heads, keys, columns, shape.size, wide,
                    shape.scale, s, dropout.active() ? s.bits.data() : nullptr, stride, dropout);
    }
  });
}

template <typename T>
void AttentionKernels<T>::backward(Heads<const T> query, Heads<const T> key, Heads<const T> value,
                                   Heads<const T> out, Heads<const T> d_out, const float* log_sum, Heads<T> d_query,
                                   Heads<T> d_key, Heads<T> d_value, const AttentionShape& shape,
                                   const TokenLayout& query_rows, const RowSpans& key_rows,
                                   const Dropout& dropout) {
  over_heads(shape, query_rows, [&](std::int64_t row, std::int64_t head, Scratch& s) {
    const std::int64_t first = key_rows.begin[row], keys = key_rows.count[row];
    const std::int64_t columns = padded(keys), wide = padded(shape.size), stride = (keys + 63) / 64 * 64;
    s.prepare(keys, shape.size, true);
    load_keys_clone(at_head(key, first, head, shape.size), key.stride, at_head(value, first, head, shape.size),
                    value.stride, keys, columns, shape.size, wide, s, true);
    const RandomStream stream = dropout.stream(query_rows.first_row + row);
    const std::int64_t queries = query_rows.tokens_of(row), first_query = query_rows.starts[row];
    for (std::int64_t q = 0; q < queries; q += kQueries) {
      const std::int64_t count = std::min(kQueries, queries - q);
      if (dropout.active()) fill_bits(dropout, stream, head, q, count, stride, s.bits);
      const std::int64_t at = first_query + q;
      backward_clone(at_head(query, at, head, shape.size), query.stride, count, at_head(out, at, head, shape.size),
                     out.stride, at_head(d_out, at, head, shape.size), d_out.stride,
                     log_sum + at * shape.heads + head, shape.heads, at_head(d_query, at, head, shape.size),
                     d_query.stride, keys, columns, shape.size, wide, shape.scale, s,
                     dropout.active() ? s.bits.data() : nullptr, stride, dropout);
    }
    scatter_clone(s.d_key.data(), wide, keys, shape.size, at_head(d_key, first, head, shape.size), d_key.stride);
    scatter_clone(s.d_value.data(), wide, keys, shape.size, at_head(d_value, first, head, shape.size),
                  d_value.stride);
  });
}

template struct AttentionKernels<float>;
template struct AttentionKernels<BFloat16>;

}  // namespace finesweep::worker::cpu
