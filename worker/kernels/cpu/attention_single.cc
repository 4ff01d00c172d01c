#include <ATen/Parallel.h>

#include "worker/kernels/cpu/attention.h"
#include "worker/kernels/cpu/attention_blocks.h"

namespace finesweep::worker::cpu {
namespace {

/// Keys that are worked on together: as many sums are under way at once.
constexpr std::int64_t kTogether = 4;

/// Some key heads of one row with its one query. Vectors of one head are padded to `wide` floats, scores of one
/// head to `columns`; query heads count from the first of the task.
struct SingleScratch {
  Buffer query, d_out, sums, scores, gradients;
  std::vector<std::uint16_t> bits;
  std::int64_t wide = 0, columns = 0;

  void prepare(std::int64_t heads, std::int64_t size, std::int64_t keys, bool backward) {
    wide = padded(size);
    columns = padded(keys);
    query.grow(heads * wide);
    sums.grow(heads * wide);
    scores.grow(heads * columns);
    if (!backward) return;
    d_out.grow(heads * wide);
    gradients.grow(heads * columns);
  }
};

struct Task {
  std::int64_t row = 0;
  std::int64_t key_head = 0, key_heads = 0;  // from … on, so many
  std::int64_t head = 0, heads = 0;          // the query heads that read them
  std::int64_t query = 0;                    // the token of the query
  std::int64_t first = 0;                    // the token of the first key that it sees
  std::int64_t keys = 0;                     // how many it sees
  std::int64_t position = 0;                 // of the query, counted from `first`
};

template <typename T>
Task task_of(const AttentionProblem<T>& problem, std::int64_t row, std::int64_t key_head, std::int64_t key_heads) {
  const std::int64_t keys = problem.keys->count[row];
  const Range seen = visible_keys(problem, 0, 1, keys);
  Task task;
  task.row = row;
  task.key_head = key_head;
  task.key_heads = key_heads;
  task.head = key_head * problem.group();
  task.heads = key_heads * problem.group();
  task.query = problem.queries->starts[row];
  task.first = problem.keys->begin[row] + seen.begin;
  task.keys = seen.end - seen.begin;
  task.position = keys - 1 - seen.begin;
  return task;
}

/// The heads of a token to fp32, each padded with zeros.
template <typename F, typename T>
FINESWEEP_INLINE void widen(const T* from, std::int64_t heads, std::int64_t size, std::int64_t wide, float* to) {
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < wide; i += kLanes<F>) {
      store<F>(to + h * wide + i, i < size ? load<F>(from + h * size + i, size - i) : F{});
    }
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void narrow(const float* from, std::int64_t heads, std::int64_t size, std::int64_t wide, T* to) {
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < size; i += kLanes<F>) {
      store<F>(to + h * size + i, load<F>(from + h * wide + i), size - i);
    }
  }
}

/// The sums of four vectors.
template <typename F>
FINESWEEP_INLINE Floats4 sum_four(const F (&v)[4]) {
  if constexpr (kLanes < F >> 4) {
    typename Companions<F>::Half halves[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      typename Companions<F>::Half low, high;
      std::memcpy(&low, &v[k], sizeof(low));
      std::memcpy(&high, reinterpret_cast<const char*>(&v[k]) + sizeof(low), sizeof(high));
      halves[k] = low + high;
    }
    return sum_four(halves);
  } else {
    // Each is summed in the order of `sum`, so that a key's score does not depend on its place.
    const Floats4 a =
        __builtin_shuffle(v[0], v[1], Ints<F>{0, 4, 1, 5}) + __builtin_shuffle(v[0], v[1], Ints<F>{2, 6, 3, 7});
    const Floats4 b =
        __builtin_shuffle(v[2], v[3], Ints<F>{0, 4, 1, 5}) + __builtin_shuffle(v[2], v[3], Ints<F>{2, 6, 3, 7});
    return __builtin_shuffle(a, b, Ints<F>{0, 1, 4, 5}) + __builtin_shuffle(a, b, Ints<F>{2, 3, 6, 7});
  }
}

/// out[h × out_stride + k] = head h of `left` · one head of token k of `right`.
template <typename F, int kHeads, int kCount, typename T>
FINESWEEP_INLINE void dot(const float* left, std::int64_t left_stride, const T* right, std::int64_t stride,
                          std::int64_t size, float* out, std::int64_t out_stride) {
  F sums[kHeads][kCount]{};
  for (std::int64_t i = 0; i < size; i += kLanes<F>) {
    F keys[kCount];
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) keys[k] = load<F>(right + k * stride + i, size - i);
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const F l = load<F>(left + h * left_stride + i);
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) sums[h][k] += l * keys[k];
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
    if constexpr (kCount == 4) {
      store<Floats4>(out + h * out_stride, sum_four(sums[h]));
    } else {
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) out[h * out_stride + k] = sum(sums[h][k]);
    }
  }
}

/// out[h × out_stride …] += Σ factors[h × factors_stride + k] · one head of token k of `right`.
template <typename F, int kHeads, int kCount, typename T>
FINESWEEP_INLINE void add(const float* factors, std::int64_t factors_stride, const T* right, std::int64_t stride,
                          std::int64_t size, float* out, std::int64_t out_stride) {
  for (std::int64_t i = 0; i < size; i += kLanes<F>) {
    F values[kCount];
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) values[k] = load<F>(right + k * stride + i, size - i);
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      F total = load<F>(out + h * out_stride + i);
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) total += factors[h * factors_stride + k] * values[k];
      store<F>(out + h * out_stride + i, total);
    }
  }
}

/// Calls work.operator()<count>(key) for the keys of the task, several at a time.
template <typename Work>
FINESWEEP_INLINE void over_keys(const Task& task, const Work& work) {
  std::int64_t t = 0;
  for (; t + kTogether <= task.keys; t += kTogether) work.template operator()<kTogether>(t);
  for (; t < task.keys; ++t) work.template operator()<1>(t);
}

/// Calls work.operator()<count>(head, key head) for the query heads of the task, two that share a key head at once.
template <typename Work>
FINESWEEP_INLINE void over_heads(const Task& task, std::int64_t group, const Work& work) {
  for (std::int64_t k = 0; k < task.key_heads; ++k) {
    std::int64_t h = k * group;
    for (; h + 2 <= (k + 1) * group; h += 2) work.template operator()<2>(h, k);
    if (h < (k + 1) * group) work.template operator()<1>(h, k);
  }
}

/// products [heads, columns]: every query head of `left` · every key of its key head in `right`.
template <typename F, typename T>
FINESWEEP_INLINE void products(const AttentionProblem<T>& problem, const Task& task, const float* left,
                               Heads<const T> right, const SingleScratch& s, float* products) {
  over_keys(task, [&]<int kCount>(std::int64_t t) {
    const T* token = right.at(task.first + t, task.key_head, problem.size);
    over_heads(task, problem.group(), [&]<int kHeads>(std::int64_t h, std::int64_t k) {
      dot<F, kHeads, kCount>(left + h * s.wide, s.wide, token + k * problem.size, right.stride, problem.size,
                             products + h * s.columns + t, s.columns);
    });
  });
}

/// sums [heads, wide] = Σ over keys of factors [heads, columns] · the key head's values in `right`.
template <typename F, typename T>
FINESWEEP_INLINE void mix(const AttentionProblem<T>& problem, const Task& task, const float* factors,
                          Heads<const T> right, const SingleScratch& s, float* sums) {
  clear<F>(sums, 0, task.heads * s.wide);
  over_keys(task, [&]<int kCount>(std::int64_t t) {
    const T* token = right.at(task.first + t, task.key_head, problem.size);
    over_heads(task, problem.group(), [&]<int kHeads>(std::int64_t h, std::int64_t k) {
      add<F, kHeads, kCount>(factors + h * s.columns + t, s.columns, token + k * problem.size, right.stride,
                             problem.size, sums + h * s.wide, s.wide);
    });
  });
}

/// The gradient of key or value: each token's is Σ over the query heads of a key head of factor · vector.
template <typename F, typename T>
FINESWEEP_INLINE void spread(const AttentionProblem<T>& problem, const Task& task, const float* factors,
                             const float* vectors, const SingleScratch& s, Heads<T> to) {
  const std::int64_t group = problem.group(), size = problem.size;
  for (std::int64_t t = 0; t < task.keys; ++t) {
    for (std::int64_t k = 0; k < task.key_heads; ++k) {
      T* out = to.at(task.first + t, task.key_head + k, size);
      for (std::int64_t i = 0; i < size; i += kLanes<F>) {
        F total{};
        for (std::int64_t h = k * group; h < (k + 1) * group; ++h) {
          total += factors[h * s.columns + t] * load<F>(vectors + h * s.wide + i);
        }
        store<F>(out + i, total, size - i);
      }
    }
  }
}

/// bias[j]: what head gets for key first + j.
const float* bias_of(const DistanceBias& bias, std::int64_t head, const Task& task) {
  return bias.values == nullptr ? nullptr : bias.values + head * bias.stride + bias.zero - task.position;
}

/// Calls work(task, masks, scratch) so that every key head of every row has its turn, over all threads. Heads of
/// one token lie side by side, so a row is cut no further than the threads need.
template <typename T, typename Work>
void over_tasks(const AttentionProblem<T>& problem, bool backward, const Work& work) {
  const std::int64_t rows = problem.queries->rows, wanted = 4 * at::get_num_threads();
  const std::int64_t parts = std::clamp<std::int64_t>((wanted + rows - 1) / rows, 1, problem.key_heads);
  const std::int64_t heads = (problem.key_heads + parts - 1) / parts;
  at::parallel_for(0, rows * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    SingleScratch scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t first = i % parts * heads, count = std::min(heads, problem.key_heads - first);
      if (count <= 0) continue;
      const Task task = task_of(problem, i / parts, first, count);
      scratch.prepare(task.heads, problem.size, task.keys, backward);
      KeyMasks masks(problem.dropout, *problem.queries, task.row);
      work(task, masks, scratch);
    }
  });
}

/// The numbers are made for keys of the row, of which the task's begin at `skipped`.
template <typename T>
KeyMask mask_of(const AttentionProblem<T>& problem, const Task& task, std::int64_t head, KeyMasks& masks,
                SingleScratch& s) {
  const std::int64_t skipped = task.first - problem.keys->begin[task.row];
  masks.fill(head, 0, 1, {skipped, skipped + padded(task.keys)}, s.bits);
  return masks.of(0, skipped);
}

}  // namespace

template <typename T>
void SingleQueryKernels<T>::forward(const AttentionProblem<T>& problem, Heads<T> out, float* log_sum) {
  over_tasks(problem, false, [&](const Task& task, KeyMasks& masks, SingleScratch& s) {
    const std::int64_t size = problem.size;
    with_widest_vectors([&]<typename F>() {
      widen<F>(problem.query.at(task.query, task.head, size), task.heads, size, s.wide, s.query.data());
      products<F>(problem, task, s.query.data(), problem.key, s, s.scores.data());
    });
    for (std::int64_t h = 0; h < task.heads; ++h) {
      const KeyMask mask = mask_of(problem, task, task.head + h, masks, s);
      with_widest_vectors([&]<typename F>() {
        float top = 0, total = 0;
        float* scores = s.scores.data() + h * s.columns;
        softmax_row<F>(scores, {0, task.keys}, s.columns, problem.scale, bias_of(problem.bias, task.head + h, task),
                       mask, top, total);
        const float inverse = 1.0f / total;
        for (std::int64_t j = 0; j < s.columns; j += kLanes<F>) store<F>(scores + j, load<F>(scores + j) * inverse);
        log_sum[task.query * problem.heads + task.head + h] = top + __builtin_logf(total);
      });
    }
    with_widest_vectors([&]<typename F>() {
      mix<F>(problem, task, s.scores.data(), problem.value, s, s.sums.data());
      narrow<F>(s.sums.data(), task.heads, size, s.wide, out.at(task.query, task.head, size));
    });
  });
}

template <typename T>
void SingleQueryKernels<T>::backward(const AttentionProblem<T>& problem, Heads<const T> out, Heads<const T> d_out,
                                     const float* log_sum, Heads<T> d_query, Heads<T> d_key, Heads<T> d_value,
                                     float* row_bias) {
  over_tasks(problem, true, [&](const Task& task, KeyMasks& masks, SingleScratch& s) {
    const std::int64_t size = problem.size;
    with_widest_vectors([&]<typename F>() {
      widen<F>(problem.query.at(task.query, task.head, size), task.heads, size, s.wide, s.query.data());
      widen<F>(d_out.at(task.query, task.head, size), task.heads, size, s.wide, s.d_out.data());
      widen<F>(out.at(task.query, task.head, size), task.heads, size, s.wide, s.sums.data());
      products<F>(problem, task, s.query.data(), problem.key, s, s.scores.data());
      products<F>(problem, task, s.d_out.data(), problem.value, s, s.gradients.data());
    });
    for (std::int64_t h = 0; h < task.heads; ++h) {
      const std::int64_t head = task.head + h;
      const KeyMask mask = mask_of(problem, task, head, masks, s);
      const float* bias = bias_of(problem.bias, head, task);
      float* d_bias = row_bias == nullptr ? nullptr
                                          : row_bias + (task.row * problem.heads + head) * problem.bias.stride +
                                                problem.bias.zero - task.position;
      with_widest_vectors([&]<typename F>() {
        float total = 0;
        dot<F, 1, 1>(s.d_out.data() + h * s.wide, 0, s.sums.data() + h * s.wide, 0, size, &total, 0);
        softmax_row_backward<F>(s.scores.data() + h * s.columns, s.gradients.data() + h * s.columns, {0, task.keys},
                                s.columns, problem.scale, bias, d_bias, log_sum[task.query * problem.heads + head],
                                total, mask);
      });
    }
    with_widest_vectors([&]<typename F>() {
      mix<F>(problem, task, s.gradients.data(), problem.key, s, s.sums.data());
      narrow<F>(s.sums.data(), task.heads, size, s.wide, d_query.at(task.query, task.head, size));
      spread<F>(problem, task, s.gradients.data(), s.query.data(), s, d_key);
      spread<F>(problem, task, s.scores.data(), s.d_out.data(), s, d_value);
      // Keys before the window have no part in it.
      const std::int64_t row_first = problem.keys->begin[task.row];
      for (std::int64_t t = row_first; t < task.first; ++t) {
        for (Heads<T> gradient : {d_key, d_value}) {
          T* to = gradient.at(t, task.key_head, size);
          for (std::int64_t i = 0; i < task.key_heads * size; ++i) to[i] = T(0);
        }
      }
    });
  });
}

template struct SingleQueryKernels<float>;
template struct SingleQueryKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
