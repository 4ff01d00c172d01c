// How the next tokens are chosen: the device's form of worker/generation/sampling.cc, to the same tokens.
//
//   greedy  blocks share a row; the one that ends last joins what they found
//   draws   a block a row. Where few tokens are left after top_k, they are sorted; else nothing is: a value of the
//           order (the k-th, the one where the tail ends, the one that is drawn) is found by its bits, eight at a time,
//           from the counts or the masses of the 256 values that they can have. Masses are exp() in fixed point, so
//           their sums do not depend on the order.

#include <math_constants.h>

#include "worker/kernels/cuda/decode.cuh"

namespace {

using namespace finesweep_decode;

using Word = unsigned long long;

constexpr int kShares = 16;  // blocks of a row, greedy
constexpr int kGreedyThreads = 256, kDrawThreads = 1024;
constexpr int kListed = 2048;  // tokens that are sorted
constexpr std::int64_t kMostVocabulary = 1 << 18;  // whose masses fit a word
constexpr double kMassOne = 17592186044416.0;  // 2^44

/// Counts the token of a row. One thread.
__device__ void take(const FinesweepDecodeState& s, int row, std::int64_t token, double log_probability, int held) {
  const FinesweepDecodeRules& rules = *s.rules;
  if (s.done[row] != 0) return;
  const std::int64_t number = s.produced[row];
  s.tokens[row * s.token_capacity + number] = token;
  s.produced[row] = number + 1;
  s.scores[row] += log_probability;
  s.ids[row] = token;
  const std::int64_t length = s.lengths[row] + held;
  s.lengths[row] = length;
  bool ends = number + 1 >= rules.max_new_tokens || length + 1 >= rules.positions;
  for (std::int64_t i = 0; i < rules.end_count; ++i) ends |= token == rules.end_ids[i];
  if (!ends) return;
  s.done[row] = 1;
  atomicSub(s.remaining, 1);
}

/// The greatest of some logits, the lowest token that has it, and the sum of exp(logit - greatest).
struct Best {
  float logit = -INFINITY, sum = 0;
  int token = 0x7fffffff;

  __device__ void add(float value, int at) {
    if (value > logit) {
      sum = logit == -INFINITY ? 1.0f : sum * expf(logit - value) + 1.0f;
      logit = value;
      token = at;
    } else if (value > -INFINITY) {
      sum += expf(value - logit);
    }
  }
  __device__ void join(const Best& other) {
    if (other.logit == -INFINITY) return;
    if (logit == -INFINITY) {
      *this = other;
      return;
    }
    const bool better = other.logit > logit || (other.logit == logit && other.token < token);
    const float most = fmaxf(logit, other.logit);
    sum = sum * expf(logit - most) + other.sum * expf(other.logit - most);
    logit = most;
    if (better) token = other.token;
  }
  __device__ Best across(int step) const {
    Best other;
    other.logit = __shfl_xor_sync(0xffffffffu, logit, step);
    other.sum = __shfl_xor_sync(0xffffffffu, sum, step);
    other.token = __shfl_xor_sync(0xffffffffu, token, step);
    return other;
  }
};

/// Of the whole block: thread 0 has it.
template <int kThreads>
__device__ Best block_best(Best mine) {
  __shared__ Best of_warps[kThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) mine.join(mine.across(step));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / 32; ++w) mine.join(of_warps[w]);
  }
  return mine;
}

__global__ void __launch_bounds__(kGreedyThreads)
    greedy(const FinesweepDecodeState s, const float* logits, int vocabulary, int held) {
  const int row = blockIdx.y;
  let_successor_begin();
  wait_for_predecessor();
  const float* mine = logits + static_cast<long>(row) * vocabulary;
  Best best;
  for (int i = blockIdx.x * kGreedyThreads + threadIdx.x; i < vocabulary; i += kShares * kGreedyThreads) {
    best.add(mine[i], i);
  }
  best = block_best<kGreedyThreads>(best);
  if (threadIdx.x != 0) return;
  double* partial = s.partial + static_cast<long>(row) * kShares * 4;
  partial[blockIdx.x * 4] = best.logit;
  partial[blockIdx.x * 4 + 1] = best.token;
  partial[blockIdx.x * 4 + 2] = best.sum;
  __threadfence();
  if (atomicAdd(s.arrived + row, 1) != kShares - 1) return;
  __threadfence();
  s.arrived[row] = 0;
  float found[kShares][3];
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
#pragma unroll
    for (int k = 0; k < 3; ++k) found[i][k] = static_cast<float>(__ldcg(partial + i * 4 + k));
  }
  Best all;
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    Best one;
    one.logit = found[i][0];
    one.token = static_cast<int>(found[i][1]);
    one.sum = found[i][2];
    all.join(one);
  }
  if (all.token >= vocabulary) all.token = 0;  // no logit is a number
  take(s, row, all.token, -log(static_cast<double>(all.sum)), held);
}

/// The order of logits as an order of words.
__device__ inline unsigned order_of(float logit) {
  const unsigned bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float logit_of(unsigned order) {
  return __uint_as_float((order & 0x80000000u) != 0 ? order & 0x7fffffffu : ~order);
}

/// 53 random bits of the row for its token number `index`: as uniform_of in generate.cc, with Philox4x32-10 as in
/// worker/random.h.
__device__ double uniform_of(Word key, Word lane, Word index) {
  unsigned c0 = static_cast<unsigned>(index), c1 = static_cast<unsigned>(index >> 32);
  unsigned c2 = static_cast<unsigned>(lane), c3 = static_cast<unsigned>(lane >> 32);
  unsigned k0 = static_cast<unsigned>(key), k1 = static_cast<unsigned>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<double>((static_cast<Word>(c0) << 21) ^ (c1 >> 11)) * 0x1.0p-53;
}

/// Sorts words, greatest first. `count` is a power of two; all threads of the block.
__device__ void sort_descending(Word* words, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < count / 2; i += kDrawThreads) {
        const int low = i / stride * 2 * stride + i % stride, high = low + stride;
        const bool descending = (low & size) == 0;
        const Word a = words[low], b = words[high];
        if ((a < b) == descending) {
          words[low] = b;
          words[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

/// values[i] becomes the sum of values[0 … i]. kListed of them; all threads.
__device__ void add_up(double* values) {
  for (int step = 1; step < kListed; step *= 2) {
    double more[kListed / kDrawThreads];
#pragma unroll
    for (int k = 0; k < kListed / kDrawThreads; ++k) {
      const int i = threadIdx.x + k * kDrawThreads;
      more[k] = i >= step ? values[i - step] : 0.0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kListed / kDrawThreads; ++k) values[threadIdx.x + k * kDrawThreads] += more[k];
    __syncthreads();
  }
}

/// Memory of a drawing block.
struct Workspace {
  Word list[kListed];
  union {
    double sums[kListed];
    Word bins[256];
    unsigned greatest[kDrawThreads];
  };
  Best best;
  unsigned threshold;
  int listed, kept;
  // Of a search by bits.
  unsigned prefix;
  Word left;
};

/// What a search by bits found: the value, and how much of what was asked for is left for its equals.
struct Found {
  unsigned value;
  Word left;
};

/// Goes through the values that `members` have, the greatest first (`rising`: the least first), summing up `weight`,
/// and stops at the value where the sum exceeds `target`; left = target - the sum before it. The sum of all exceeds the
/// target. value_of(i), is_member(i), weight_of(i) of token i. All threads.
template <typename Value, typename Member, typename Weight>
__device__ Found search(Workspace& w, int vocabulary, Word target, bool rising, Value value_of, Member is_member,
                        Weight weight_of) {
  if (threadIdx.x == 0) {
    w.prefix = 0;
    w.left = target;
  }
  unsigned known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    const unsigned prefix = w.prefix;
    if (threadIdx.x < 256) w.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) {
      const unsigned value = value_of(i);
      if ((value & known) != prefix || !is_member(i)) continue;
      const Word weight = weight_of(i);
      if (weight != 0) atomicAdd(&w.bins[value >> shift & 255u], weight);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Word left = w.left;
      int bin = rising ? 0 : 255, last = bin;
      for (int n = 0; n < 256; ++n, bin += rising ? 1 : -1) {
        if (w.bins[bin] == 0) continue;
        last = bin;
        if (w.bins[bin] > left) break;
        left -= w.bins[bin];
      }
      w.prefix = prefix | static_cast<unsigned>(last) << shift;
      w.left = left;
    }
    known |= 255u << shift;
  }
  __syncthreads();
  const Found found{w.prefix, w.left};
  __syncthreads();
  return found;
}

__device__ Word block_total(Workspace& w, Word mine) {
  __syncthreads();
  if (threadIdx.x == 0) w.left = 0;
  __syncthreads();
#pragma unroll
  for (int step = 16; step > 0; step /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, step);
  if (threadIdx.x % 32 == 0) atomicAdd(&w.left, mine);
  __syncthreads();
  const Word total = w.left;
  __syncthreads();
  return total;
}

/// Where w.listed tokens stand in w.list, sorted: top_k, top_p and the draw as sampling.cc has them.
__device__ int draw_from_list(Workspace& w, const FinesweepDecodeRules& rules, double uniform) {
  const int listed = w.listed;
  // What equals the k-th is kept.
  if (threadIdx.x == 0) w.kept = 0;
  __syncthreads();
  const int k = rules.top_k > 0 && rules.top_k < listed ? static_cast<int>(rules.top_k) : listed;
  const unsigned least = static_cast<unsigned>(w.list[k - 1] >> 32);
  const double greatest = logit_of(static_cast<unsigned>(w.list[0] >> 32)) / rules.temperature;
  int mine = 0;
  for (int i = threadIdx.x; i < kListed; i += kDrawThreads) {
    const unsigned order = static_cast<unsigned>(w.list[i] >> 32);
    const bool kept = i < listed && order >= least;
    mine += kept ? 1 : 0;
    w.sums[i] = kept ? exp(logit_of(order) / rules.temperature - greatest) : 0.0;
  }
  if (mine > 0) atomicAdd(&w.kept, mine);
  __syncthreads();
  add_up(w.sums);
  int kept = w.kept;
  double total = w.sums[kept - 1];
  __syncthreads();
  if (rules.top_p < 1) {
    // Number i goes where it and all behind it stay within 1 - top_p.
    if (threadIdx.x == 0) w.kept = 1;
    __syncthreads();
    for (int i = threadIdx.x; i < kept; i += kDrawThreads) {
      if (i > 0 && (total - w.sums[i - 1]) / total > 1 - rules.top_p) atomicMax(&w.kept, i + 1);
    }
    __syncthreads();
    kept = w.kept;
    total = w.sums[kept - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) w.listed = kept - 1;
  __syncthreads();
  const double target = uniform * total;
  for (int i = threadIdx.x; i < kept; i += kDrawThreads) {
    if (w.sums[i] > target) atomicMin(&w.listed, i);
  }
  __syncthreads();
  return static_cast<int>(~static_cast<unsigned>(w.list[w.listed]));
}

/// The same without a list, over the whole vocabulary.
__device__ int draw_from_all(Workspace& w, const FinesweepDecodeRules& rules, const float* logits, int vocabulary,
                             Word* masses, double uniform) {
  const auto order = [&](int i) { return order_of(logits[i]); };
  const auto number = [](int i) { return static_cast<unsigned>(i); };
  const auto one = [](int) { return Word{1}; };
  const auto all = [](int) { return true; };
  unsigned least = 0;
  if (rules.top_k > 0 && rules.top_k < vocabulary) {
    least = search(w, vocabulary, static_cast<Word>(rules.top_k) - 1, false, order, all, one).value;
  }
  const double greatest = w.best.logit / rules.temperature;
  const auto mass_of = [&](unsigned value) {
    return static_cast<Word>(exp(logit_of(value) / rules.temperature - greatest) * kMassOne);
  };
  Word mine = 0;
  for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) {
    const bool kept = order(i) >= least;
    masses[i] = kept ? mass_of(order(i)) : 0;
    mine += masses[i];
  }
  const Word total = block_total(w, mine);
  const auto mass = [&](int i) { return masses[i]; };
  /// The token that is number n among those whose order is `value`.
  const auto equal = [&](unsigned value, Word n) {
    const auto has = [&](int i) { return order(i) == value && masses[i] != 0; };
    return search(w, vocabulary, n, true, number, has, one).value;
  };
  Word kept_total = total;
  unsigned last_order = 0, end_among_equals = 0xffffffffu;  // what the tail leaves
  if (rules.top_p < 1) {
    const Word tail = static_cast<Word>((1 - rules.top_p) * static_cast<double>(total));
    if (tail >= total) {  // all but the likeliest
      last_order = order_of(w.best.logit);
      end_among_equals = static_cast<unsigned>(w.best.token) + 1;
    } else {
      const Found cut = search(w, vocabulary, tail, true, order, all, mass);
      last_order = cut.value;
      // Of equals those with the highest numbers go.
      Word equals = 0;
      for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) {
        equals += order(i) == cut.value && masses[i] != 0 ? 1 : 0;
      }
      equals = block_total(w, equals);
      const Word its = mass_of(cut.value);
      const Word gone = its == 0 ? 0 : cut.left / its;
      if (gone > 0 && gone < equals) end_among_equals = equal(cut.value, equals - gone);
    }
    Word here = 0;
    for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) {
      const unsigned mine_is = order(i);
      const bool kept =
          mine_is > last_order || (mine_is == last_order && static_cast<unsigned>(i) < end_among_equals);
      if (!kept) masses[i] = 0;
      here += masses[i];
    }
    kept_total = block_total(w, here);
  }
  Word target = static_cast<Word>(uniform * static_cast<double>(kept_total));
  if (target >= kept_total) target = kept_total - 1;
  const Found drawn = search(w, vocabulary, target, false, order, all, mass);
  const Word its = mass_of(drawn.value);
  return static_cast<int>(equal(drawn.value, its == 0 ? 0 : drawn.left / its));
}

__global__ void __launch_bounds__(kDrawThreads)
    draw(const FinesweepDecodeState s, const float* logits, int vocabulary, int held) {
  extern __shared__ uint4 shared[];
  Workspace& w = *reinterpret_cast<Workspace*>(shared);
  const int row = blockIdx.x;
  let_successor_begin();
  wait_for_predecessor();
  if (s.done[row] != 0) return;
  const FinesweepDecodeRules& rules = *s.rules;
  const float* mine = logits + static_cast<long>(row) * vocabulary;
  const double uniform = uniform_of(rules.key, s.lanes[row], static_cast<Word>(s.produced[row]));
  Best best;
  for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) best.add(mine[i], i);
  w.greatest[threadIdx.x] = order_of(best.logit);
  best = block_best<kDrawThreads>(best);
  if (threadIdx.x == 0) {
    w.best = best;
    w.threshold = 0;
    w.listed = 0;
  }
  __syncthreads();
  const bool few = vocabulary <= kListed;
  const bool sorts = few || (rules.top_k > 0 && rules.top_k <= kDrawThreads);
  if (sorts && !few) {
    // At least k tokens are no less than the k-th of the threads' greatest.
    Word* candidates = w.list;
    candidates[threadIdx.x] = w.greatest[threadIdx.x];
    sort_descending(candidates, kDrawThreads);
    if (threadIdx.x == 0) w.threshold = static_cast<unsigned>(candidates[rules.top_k - 1]);
    __syncthreads();
  }
  bool fits = false;
  if (sorts) {
    const unsigned threshold = w.threshold;
    for (int i = threadIdx.x; i < kListed; i += kDrawThreads) w.list[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocabulary; i += kDrawThreads) {
      const unsigned order = order_of(mine[i]);
      if (order < threshold) continue;
      const int place = atomicAdd(&w.listed, 1);
      // Of equals the lower number comes first.
      if (place < kListed) w.list[place] = static_cast<Word>(order) << 32 | ~static_cast<unsigned>(i);
    }
    __syncthreads();
    fits = w.listed <= kListed;
    __syncthreads();
    if (fits) sort_descending(w.list, kListed);
  }
  const int token = fits ? draw_from_list(w, rules, uniform)
                         : draw_from_all(w, rules, mine, vocabulary,
                                         reinterpret_cast<Word*>(s.masses) + static_cast<long>(row) * vocabulary,
                                         uniform);
  if (threadIdx.x != 0) return;
  const int valid = token >= 0 && token < vocabulary ? token : 0;
  const double log_probability =
      static_cast<double>(mine[valid]) - w.best.logit - log(static_cast<double>(w.best.sum));
  take(s, row, valid, log_probability, held);
}

}  // namespace

extern "C" int finesweep_decode_choose(const FinesweepDecodeState* state, const float* logits,
                                       std::int64_t vocabulary, int draws, int held, void* stream) {
  if (vocabulary < 1 || state->rows < 1) return cudaErrorInvalidValue;
  const int count = static_cast<int>(vocabulary);
  if (draws == 0) {
    const dim3 grid(kShares, static_cast<unsigned>(state->rows));
    return launch(greedy, grid, kGreedyThreads, 0, stream, true, *state, logits, count, held);
  }
  if (vocabulary > kMostVocabulary) return cudaErrorInvalidValue;
  return launch(draw, dim3(static_cast<unsigned>(state->rows)), kDrawThreads, sizeof(Workspace), stream, true, *state,
                logits, count, held);
}
