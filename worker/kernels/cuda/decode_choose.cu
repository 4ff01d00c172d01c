// How the next tokens are chosen: the device's form of worker/generation/sampling.cc, to the same tokens.
//
//   greedy  blocks share a row; the one that ends last joins what they found
//   draws   a block a row. Where few tokens are left after top_k, they are sorted, and so are the likeliest of all,
//           which nearly always suffice. Else nothing is: a value of the order (the k-th, the one where the tail
//           ends, the one that is drawn) is found by its bits, eight at a time, from the counts or the masses of
//           the 256 values that they can have. Masses are exp() in fixed point, so their sums do not depend on the
//           order.

#include <math_constants.h>

#include "worker/kernels/cuda/decode.cuh"

namespace {

using namespace finesweep_decode;

using Word = unsigned long long;

constexpr int kShares = 32;  // blocks of a row, greedy: a lane for each
constexpr int kGreedyThreads = 256, kDrawThreads = 1024;
constexpr int kListed = 2048;                      // tokens that are sorted
constexpr std::int64_t kMostVocabulary = 1 << 18;  // whose masses fit a word
constexpr double kMassOne = 17592186044416.0;      // 2^44

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

/// Calls use(token, logit, mass) for the tokens first, first + stride, … of a row, several read at once; masses may
/// be null. Not through the first cache, where older values of the same memory may stand.
template <typename Use>
__device__ inline void for_tokens(const float* logits, const Word* masses, int vocabulary, int first, int stride,
                                  Use use) {
  constexpr int kAtOnce = 8;
  for (int base = first; base < vocabulary; base += kAtOnce * stride) {
    float values[kAtOnce];
    Word mass[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = base + k * stride;
      values[k] = i < vocabulary ? __ldcg(logits + i) : 0.0f;
      mass[k] = masses != nullptr && i < vocabulary ? masses[i] : 0;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (base + k * stride < vocabulary) use(base + k * stride, values[k], mass[k]);
    }
  }
}

/// The greatest of some logits, the lowest token that has it, and the sum of exp(logit - greatest).
struct Best {
  float logit = -INFINITY, sum = 0;
  int token = 0x7fffffff;

  /// Of the tokens of for_tokens.
  __device__ void add(const float* logits, int vocabulary, int first, int stride) {
    constexpr int kAtOnce = 8;
    for (int base = first; base < vocabulary; base += kAtOnce * stride) {
      float values[kAtOnce], most = logit;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = base + k * stride;
        values[k] = i < vocabulary ? __ldcg(logits + i) : -INFINITY;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (!(values[k] > most)) continue;
        most = values[k];
        token = base + k * stride;
      }
      if (most == -INFINITY) continue;
      sum *= expf(logit - most);
      logit = most;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) sum += expf(values[k] - most);
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
  __device__ void join_warp() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) join(across(step));
  }
};

/// Of the whole block: the first warp has it.
template <int kThreads>
__device__ Best block_best(Best mine) {
  __shared__ float logits[kThreads / 32], sums[kThreads / 32];
  __shared__ int tokens[kThreads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  mine.join_warp();
  if (lane == 0) {
    logits[warp] = mine.logit;
    sums[warp] = mine.sum;
    tokens[warp] = mine.token;
  }
  __syncthreads();
  if (warp != 0) return mine;
  Best of_lane;
  if (lane < kThreads / 32) {
    of_lane.logit = logits[lane];
    of_lane.sum = sums[lane];
    of_lane.token = tokens[lane];
  }
  of_lane.join_warp();
  return of_lane;
}

__global__ void __launch_bounds__(kGreedyThreads)
    greedy(const FinesweepDecodeState s, const float* logits, int vocabulary, int held) {
  const int row = blockIdx.y, lane = threadIdx.x;
  let_successor_begin();
  wait_for_predecessor();
  Best best;
  best.add(logits + static_cast<long>(row) * vocabulary, vocabulary, blockIdx.x * kGreedyThreads + threadIdx.x,
           kShares * kGreedyThreads);
  best = block_best<kGreedyThreads>(best);
  if (threadIdx.x >= 32) return;
  double* partial = s.partial + static_cast<long>(row) * kShares * 4;
  int before = 0;
  if (lane == 0) {
    partial[blockIdx.x * 4] = best.logit;
    partial[blockIdx.x * 4 + 1] = best.token;
    partial[blockIdx.x * 4 + 2] = best.sum;
    __threadfence();
    before = atomicAdd(s.arrived + row, 1);
  }
  if (__shfl_sync(0xffffffffu, before, 0) != kShares - 1) return;
  __threadfence();
  Best all;
  all.logit = static_cast<float>(__ldcg(partial + lane * 4));
  all.token = static_cast<int>(__ldcg(partial + lane * 4 + 1));
  all.sum = static_cast<float>(__ldcg(partial + lane * 4 + 2));
  all.join_warp();
  if (lane != 0) return;
  s.arrived[row] = 0;
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
        const int low = 2 * (i & ~(stride - 1)) + (i & (stride - 1)), high = low + stride;
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
  };
  Best best;
  double uniform, rest;
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

/// Goes through the values of tokens, the greatest first (`rising`: the least first), summing up their weights, and
/// stops at the value where the sum exceeds `target`; left = target - the sum before it. The sum of all exceeds the
/// target. value_of(token, logit) and weight_of(token, logit, mass), 0 where a token does not count. All threads.
template <typename Value, typename Weight>
__device__ Found search(Workspace& w, const float* logits, const Word* masses, int vocabulary, Word target,
                        bool rising, Value value_of, Weight weight_of) {
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
    for_tokens(logits, masses, vocabulary, threadIdx.x, kDrawThreads, [&](int token, float logit, Word mass) {
      const unsigned value = value_of(token, logit);
      if ((value & known) != prefix) return;
      const Word weight = weight_of(token, logit, mass);
      if (weight != 0) atomicAdd(&w.bins[value >> shift & 255u], weight);
    });
    __syncthreads();
    if (threadIdx.x < 32) {
      // Eight bins a lane, in the order of the walk.
      const int lane = threadIdx.x;
      const auto bin_of = [&](int number) { return rising ? number : 255 - number; };
      Word own = 0;
      for (int k = 0; k < 8; ++k) own += w.bins[bin_of(lane * 8 + k)];
      Word upto = own;
      for (int step = 1; step < 32; step *= 2) {
        const Word lower = __shfl_up_sync(0xffffffffu, upto, step);
        if (lane >= step) upto += lower;
      }
      const Word wanted = w.left;
      const unsigned exceeds = __ballot_sync(0xffffffffu, upto > wanted);
      const int mine = exceeds == 0 ? 31 : __ffs(static_cast<int>(exceeds)) - 1;
      if (lane == mine) {
        Word left = wanted - (upto - own);
        int number = lane * 8;
        for (; number < lane * 8 + 7 && w.bins[bin_of(number)] <= left; ++number) left -= w.bins[bin_of(number)];
        w.prefix = prefix | static_cast<unsigned>(bin_of(number)) << shift;
        w.left = left;
      }
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

/// Where w.listed tokens stand in w.list, sorted: top_k, top_p and the draw as sampling.cc has them. `rest` is the
/// mass of those that are not listed, all of them less likely; -1 where they would have a say.
__device__ int draw_from_list(Workspace& w, const FinesweepDecodeRules& rules, double uniform, double rest) {
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
  double total = w.sums[kept - 1] + rest;
  __syncthreads();
  if (rules.top_p < 1) {
    if (rest / total > 1 - rules.top_p) return -1;
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
  if (rest > 0 && target >= w.sums[kept - 1]) return -1;
  for (int i = threadIdx.x; i < kept; i += kDrawThreads) {
    if (w.sums[i] > target) atomicMin(&w.listed, i);
  }
  __syncthreads();
  return static_cast<int>(~static_cast<unsigned>(w.list[w.listed]));
}

/// The same without a list, over the whole vocabulary.
__device__ int draw_from_all(Workspace& w, const FinesweepDecodeRules& rules, const float* logits, int vocabulary,
                             Word* masses, double uniform) {
  const auto order = [](int, float logit) { return order_of(logit); };
  const auto one = [](int, float, Word) { return Word{1}; };
  const auto its_mass = [](int, float, Word mass) { return mass; };
  unsigned least = 0;
  if (rules.top_k > 0 && rules.top_k < vocabulary) {
    least = search(w, logits, nullptr, vocabulary, static_cast<Word>(rules.top_k) - 1, /*rising=*/false, order, one)
                .value;
  }
  const double greatest = w.best.logit / rules.temperature;
  const auto mass_of = [&](float logit) {
    return static_cast<Word>(exp(logit / rules.temperature - greatest) * kMassOne);
  };
  Word mine = 0;
  for_tokens(logits, nullptr, vocabulary, threadIdx.x, kDrawThreads, [&](int token, float logit, Word) {
    const Word mass = order_of(logit) >= least ? mass_of(logit) : 0;
    masses[token] = mass;
    mine += mass;
  });
  const Word total = block_total(w, mine);
  /// The token that is number n among those whose order is `value`.
  const auto equal = [&](unsigned value, Word n) {
    return search(
               w, logits, masses, vocabulary, n, /*rising=*/true,
               [](int token, float) { return static_cast<unsigned>(token); },
               [&](int, float logit, Word mass) { return Word{order_of(logit) == value && mass != 0 ? 1u : 0u}; })
        .value;
  };
  Word kept_total = total;
  if (rules.top_p < 1) {
    unsigned last_order = 0, end_among_equals = 0xffffffffu;  // what the tail leaves
    const Word tail = static_cast<Word>((1 - rules.top_p) * static_cast<double>(total));
    if (tail >= total) {  // all but the likeliest
      last_order = order_of(w.best.logit);
      end_among_equals = static_cast<unsigned>(w.best.token) + 1;
    } else {
      const Found cut = search(w, logits, masses, vocabulary, tail, /*rising=*/true, order, its_mass);
      last_order = cut.value;
      // Of equals those with the highest numbers go.
      Word equals = 0;
      for_tokens(logits, masses, vocabulary, threadIdx.x, kDrawThreads,
                 [&](int, float logit, Word mass) { equals += order_of(logit) == cut.value && mass != 0 ? 1 : 0; });
      equals = block_total(w, equals);
      const Word each = mass_of(logit_of(cut.value)), gone = each == 0 ? 0 : cut.left / each;
      if (gone > 0 && gone < equals) end_among_equals = equal(cut.value, equals - gone);
    }
    Word here = 0;
    for_tokens(logits, masses, vocabulary, threadIdx.x, kDrawThreads, [&](int token, float logit, Word mass) {
      const unsigned its = order_of(logit);
      const bool kept = its > last_order || (its == last_order && static_cast<unsigned>(token) < end_among_equals);
      if (!kept) masses[token] = 0;
      here += kept ? mass : 0;
    });
    kept_total = block_total(w, here);
  }
  Word target = static_cast<Word>(uniform * static_cast<double>(kept_total));
  if (target >= kept_total) target = kept_total - 1;
  const Found drawn = search(w, logits, masses, vocabulary, target, /*rising=*/false, order, its_mass);
  const Word each = mass_of(logit_of(drawn.value));
  return static_cast<int>(equal(drawn.value, each == 0 ? 0 : drawn.left / each));
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
  Best best;
  best.add(mine, vocabulary, threadIdx.x, kDrawThreads);
  w.list[threadIdx.x] = order_of(best.logit);
  best = block_best<kDrawThreads>(best);
  if (threadIdx.x == 0) {
    w.best = best;
    w.rest = 0;
    w.threshold = 0;
    w.listed = 0;
    w.uniform = uniform_of(rules.key, s.lanes[row], static_cast<Word>(s.produced[row]));
  }
  __syncthreads();
  // What is listed: all; or what top_k leaves; or, where it leaves more, the likeliest, and the mass of the rest.
  const bool few = vocabulary <= kListed, cuts = rules.top_k > 0 && rules.top_k < vocabulary;
  const bool leaves_few = cuts && rules.top_k <= kDrawThreads;
  if (!few && (leaves_few || !cuts)) {
    // At least k tokens are no less than the k-th of the threads' greatest; or of every four threads'.
    constexpr int kLikeliest = 800, kFew = 200;
    const int wanted = leaves_few ? static_cast<int>(rules.top_k) : kLikeliest;
    int count = kDrawThreads;
    if (wanted <= kFew) {
      Word most = w.list[threadIdx.x];
      for (int step = 1; step < 4; step *= 2) {
        const Word other = __shfl_xor_sync(0xffffffffu, most, step);
        most = other > most ? other : most;
      }
      __syncthreads();
      if (threadIdx.x % 4 == 0) w.list[threadIdx.x / 4] = most;
      count = kDrawThreads / 4;
    }
    sort_descending(w.list, count);
    if (threadIdx.x == 0) w.threshold = static_cast<unsigned>(w.list[wanted - 1]);
    __syncthreads();
  }
  int token = -1;
  if (few || leaves_few || !cuts) {
    const unsigned threshold = w.threshold;
    for (int i = threadIdx.x; i < kListed; i += kDrawThreads) w.list[i] = 0;
    __syncthreads();
    const float greatest = w.best.logit, inverse = static_cast<float>(1 / rules.temperature);
    float not_listed = 0;
    for_tokens(mine, nullptr, vocabulary, threadIdx.x, kDrawThreads, [&](int i, float logit, Word) {
      const unsigned order = order_of(logit);
      if (order < threshold) {
        if (!cuts) not_listed += expf((logit - greatest) * inverse);
        return;
      }
      const int place = atomicAdd(&w.listed, 1);
      // Of equals the lower number comes first.
      if (place < kListed) w.list[place] = static_cast<Word>(order) << 32 | ~static_cast<unsigned>(i);
    });
    not_listed = warp_sum(not_listed);
    if (not_listed > 0 && threadIdx.x % 32 == 0) atomicAdd(&w.rest, static_cast<double>(not_listed));
    __syncthreads();
    const int listed = w.listed;
    int length = 2;
    while (length < listed && length < kListed) length *= 2;
    if (listed <= kListed) {
      sort_descending(w.list, length);
      token = draw_from_list(w, rules, w.uniform, w.rest);
      __syncthreads();
    }
  }
  if (token < 0) {
    Word* masses = reinterpret_cast<Word*>(s.masses) + static_cast<long>(row) * vocabulary;
    token = draw_from_all(w, rules, mine, vocabulary, masses, w.uniform);
  }
  if (threadIdx.x != 0) return;
  const int valid = token >= 0 && token < vocabulary ? token : 0;
  const double log_probability =
      static_cast<double>(__ldcg(mine + valid)) - w.best.logit - log(static_cast<double>(w.best.sum));
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
  return launch(draw, dim3(static_cast<unsigned>(state->rows)), kDrawThreads, sizeof(Workspace), stream, true,
                *state, logits, count, held);
}
