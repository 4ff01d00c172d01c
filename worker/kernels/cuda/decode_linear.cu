// Products of few tokens with a matrix of weights. All are bound by reading the weights, so what matters is how
// many loads are under way, and that they are under way before the token's values are there: every thread asks for
// its first weights, waits for the kernel before, and only then reads x.
//
//   rows   one warp (or 2, 4, 8 where a row is long) computes one output for up to 8 tokens: any type. What batch 1
//          runs.
//   folded the same of one token whose norm is folded into the product.
//   tiles  a block computes 8 to 32 outputs for up to 64 tokens with the tensor cores, its eight warps each a part
//          of the sum: bf16 and fp16. (More than 16 tokens and tens of thousands of outputs: many_outputs.cu.)
//
// The norm before the product is computed by each block for itself, in shared memory: cheaper than a kernel of its
// own.

#include "worker/kernels/cuda/decode.cuh"
#include "worker/kernels/cuda/many_outputs.cuh"

namespace {

using namespace finesweep_decode;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTileRows = 8;  // outputs of a tile
constexpr int kFusedTokens = 8;
constexpr std::size_t kMostShared = 200 * 1024;

/// Four neighbours of a row.
__device__ inline float4 load_four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
template <typename T>
__device__ inline float4 load_four(const T* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const T* values = reinterpret_cast<const T*>(&bits);
  return make_float4(to_float(values[0]), to_float(values[1]), to_float(values[2]), to_float(values[3]));
}
__device__ inline void store_four(float* to, const float4& v) {
  *reinterpret_cast<float4*>(to) = v;
}
template <typename T>
__device__ inline void store_four(T* to, const float4& v) {
  uint2 bits;
  T* values = reinterpret_cast<T*>(&bits);
  values[0] = from_float<T>(v.x);
  values[1] = from_float<T>(v.y);
  values[2] = from_float<T>(v.z);
  values[3] = from_float<T>(v.w);
  *reinterpret_cast<uint2*>(to) = bits;
}

struct Factors {
  float4 weight, bias;
};
__device__ inline Factors factors_at(const float* weight, const float* bias, int place) {
  return {load_four(weight + 4 * place), bias == nullptr ? make_float4(0, 0, 0, 0) : load_four(bias + 4 * place)};
}

/// norm(x) of all tokens, rounded to T as the reference rounds, into shared memory, `stride` values a token. kTeam
/// warps work on a token at once, each thread on up to kHeld fours of a row that it keeps. factors(place, number)
/// are the norm's for four columns, of which `number` counts the thread's. All threads of the block; a barrier is
/// to follow.
template <typename T, int kTeam, int kHeld, typename FactorsOf>
__device__ inline void norm_tokens(const FinesweepNorm& norm, const T* x, int tokens, int in, T* to, int stride,
                                   FactorsOf factors) {
  __shared__ float sums[2][kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kMembers = 32 * kTeam;
  const int first = warp % kTeam * 32 + lane, fours = in / 4;
  const auto team_sum = [&](float v, int which) {
    v = warp_sum(v);
    if (kTeam == 1) return v;
    if (lane == 0) sums[which][warp] = v;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int i = 0; i < kTeam; ++i) total += sums[which][warp / kTeam * kTeam + i];
    return total;
  };
  for (int round = 0; round < tokens; round += kWarps / kTeam) {
    const int token = round + warp / kTeam;
    const T* from = x + static_cast<long>(token) * in;
    const int mine = token < tokens ? fours : 0;
    float4 held[kHeld];
    /// use(four, number of the thread's fours) for all of them; what is not kept is read again.
    const auto visit = [&](bool reads, auto use) {
      for (int base = 0; base * kMembers < mine; base += kHeld) {
        if (reads || mine > kHeld * kMembers) {
#pragma unroll
          for (int i = 0; i < kHeld; ++i) {
            const int place = first + (base + i) * kMembers;
            if (place < mine) held[i] = load_four(from + 4 * place);
          }
        }
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
          if (first + (base + i) * kMembers < mine) use(held[i], base + i);
        }
      }
    };
    float mean = 0;
    if (norm.centred != 0) {
      float sum = 0;
      visit(true, [&](const float4& v, int) { sum += v.x + v.y + (v.z + v.w); });
      mean = team_sum(sum, 0) / in;
    }
    float squares = 0;
    visit(norm.centred == 0, [&](const float4& v, int) {
      const float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
      squares += a * a + b * b + (c * c + d * d);
    });
    const float inverse = rsqrtf(team_sum(squares, 1) / in + norm.epsilon);
    visit(false, [&](const float4& v, int number) {
      const int place = first + number * kMembers;
      const Factors f = factors(place, number);
      const float4 y = make_float4(
          (v.x - mean) * inverse * f.weight.x + f.bias.x, (v.y - mean) * inverse * f.weight.y + f.bias.y,
          (v.z - mean) * inverse * f.weight.z + f.bias.z, (v.w - mean) * inverse * f.weight.w + f.bias.w);
      store_four(to + static_cast<long>(token) * stride + 4 * place, y);
    });
  }
}

/// Stores y[token][column].
template <typename T>
__device__ inline void store(const FinesweepDecodeLinear& p, int token, int column, float value) {
  const long place = static_cast<long>(token) * p.out + column;
  if (p.y_type == kFinesweepFloat32) {
    static_cast<float*>(p.y)[place] = value;
  } else {
    static_cast<T*>(p.y)[place] = from_float<T>(value);
  }
}

template <typename T>
__device__ inline float at_or_zero(const void* values, long place) {
  return values == nullptr ? 0.0f : to_float(static_cast<const T*>(values)[place]);
}

/// The compiler knows nothing of the value any more: so it does not unpack it ahead, into more registers than there
/// are.
__device__ inline void keep_packed(uint4& v) {
  asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w));
}

/// `split` warps share an output's sum; each lane of each of them takes kChunks vectors of the row (kGated: of both
/// rows). A block goes on to further outputs, whose weights it asks for before it finishes the last. A token alone
/// stands in registers, several in shared memory.
template <typename T, int kTokens, int kChunks, bool kGated, bool kNormed>
__global__ void __launch_bounds__(kThreads, kTokens > 1 || kGated || kChunks > 6 ? 2
                                            : kChunks > 3                        ? 3
                                                                                 : 4)
    rows(const FinesweepDecodeLinear p, const int split) {
  constexpr int kValues = kVector<T>, kSums = kGated ? 2 * kTokens : kTokens;
  constexpr int kTeam = kWarps / kTokens, kHeld = kTokens == 1 ? 2 : 8;
  extern __shared__ uint4 shared[];
  __shared__ float parts[kWarps][kSums];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), tokens = static_cast<int>(p.tokens);
  const int vectors = in / kValues, part = warp % split;
  const int outputs = kWarps / split;  // of a block at a time
  const int begin = part * kChunks * 32 + lane;

  let_successor_begin();
  uint4 w[kChunks], gate[kGated ? kChunks : 1];
  const auto fetch = [&](int column) {
    if (column >= out) return;
    const uint4* row = static_cast<const uint4*>(p.weight) + static_cast<long>(column) * vectors + begin;
    const uint4* second = row + static_cast<long>(out) * vectors;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (begin + c * 32 >= vectors) continue;
      if (kGated) {
        gate[kGated ? c : 0] = load_weight(row + c * 32);
        w[c] = load_weight(second + c * 32);
      } else {
        w[c] = load_weight(row + c * 32);
      }
    }
  };
  int column = blockIdx.x * outputs + warp / split;
  fetch(column);
  float bias = 0, gate_bias = 0;
  const auto fetch_bias = [&](int of) {
    if (of >= out) return;
    bias = at_or_zero<T>(p.bias, kGated ? out + of : of);
    if (kGated) gate_bias = at_or_zero<T>(p.bias, of);
  };
  fetch_bias(column);
  // A thread's first factors of the norm.
  constexpr int kFactors = 2;
  Factors factors[kFactors];
  const int member = warp % kTeam * 32 + lane;
#pragma unroll
  for (int i = 0; i < kFactors; ++i) {
    const int place = member + i * 32 * kTeam;
    if (kNormed && place < in / 4) factors[i] = factors_at(p.norm.weight, p.norm.bias, place);
  }

  wait_for_predecessor();
  // Lane t finishes token t.
  float residual = 0;
  const auto fetch_residual = [&](int of) {
    if (p.residual != nullptr && lane < tokens && of < out) {
      residual = at_or_zero<T>(p.residual, static_cast<long>(lane) * out + of);
    }
  };
  fetch_residual(column);
  const T* x = static_cast<const T*>(p.x);
  if (kNormed) {
    norm_tokens<T, kTeam, kHeld>(p.norm, x, tokens, in, reinterpret_cast<T*>(shared), in,
                                 [&](int place, int number) {
                                   if (number == 0) return factors[0];
                                   if (number == 1) return factors[1];
                                   return factors_at(p.norm.weight, p.norm.bias, place);
                                 });
    __syncthreads();
  } else if (kTokens > 1) {
    const uint4* source = reinterpret_cast<const uint4*>(x);
    for (int i = threadIdx.x; i < tokens * vectors; i += kThreads) shared[i] = source[i];
    __syncthreads();
  }
  uint4 alone[kTokens == 1 ? kChunks : 1];
  if (kTokens == 1) {
    const uint4* source = kNormed ? shared : reinterpret_cast<const uint4*>(x);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (begin + c * 32 < vectors) alone[kTokens == 1 ? c : 0] = source[begin + c * 32];
    }
  }

  for (int base = blockIdx.x * outputs; base < out; base += gridDim.x * outputs) {
    float sums[kSums] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (kTokens == 1) keep_packed(alone[kTokens == 1 ? c : 0]);
      const int v = begin + c * 32;
      if (v >= vectors) continue;
      float weights[kValues], gates[kValues];
      unpack<T>(w[c], weights);
      if (kGated) unpack<T>(gate[kGated ? c : 0], gates);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
        float values[kValues];
        unpack<T>(kTokens == 1 ? alone[kTokens == 1 ? c : 0] : shared[t * vectors + v], values);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          sums[t] += weights[i] * values[i];
          if (kGated) sums[kSums - kTokens + t] += gates[i] * values[i];
        }
      }
    }
    const int now = column;
    const float bias_now = bias, gate_bias_now = gate_bias, residual_now = residual;
    column += gridDim.x * outputs;
    fetch(column);
    fetch_bias(column);
    fetch_residual(column);
    float mine = 0, my_gate = 0;
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      sums[s] = warp_sum(sums[s]);
      if (s < kTokens) {
        if (lane == s) mine = sums[s];
      } else {
        if (lane == s - kTokens) my_gate = sums[s];
      }
    }
    if (split > 1) {
      if (lane < kTokens) {
        parts[warp][lane] = mine;
        if (kGated) parts[warp][kSums - kTokens + lane] = my_gate;
      }
      __syncthreads();
      if (part == 0 && lane < kTokens) {
        for (int i = 1; i < split; ++i) {
          mine += parts[warp + i][lane];
          if (kGated) my_gate += parts[warp + i][kSums - kTokens + lane];
        }
      }
      __syncthreads();
    }
    if (part != 0 || lane >= tokens || now >= out) continue;
    const float z = mine + bias_now;
    const float y = kGated ? activate(my_gate + gate_bias_now, p.activation) * z : activate(z, p.activation);
    store<T>(p, lane, now, y + residual_now);
  }
}

/// norm(x) Wᵀ + b of one token by as many warps as there are outputs, without a barrier. With g and h the norm's
/// weight and bias, an output is inverse · (sum of w·g·x - mean · sum of w·g) + sum of w·h: two of the sums are
/// there before x is, and each warp finds mean and inverse for itself while it multiplies.
template <typename T, int kChunks, bool kGated>
__global__ void __launch_bounds__(kThreads, kGated         ? 2
                                            : kChunks <= 3 ? 4
                                                           : 3) folded(const FinesweepDecodeLinear p) {
  constexpr int kValues = kVector<T>, kRows = kGated ? 2 : 1;  // gated: the gate's row first
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), vectors = in / kValues;
  const int column = blockIdx.x * kWarps + warp;
  let_successor_begin();
  float weights[kRows][kChunks][kValues] = {}, scale_sum[kRows] = {}, shift_sum[kRows] = {};
  if (column < out) {
    uint4 bits[kRows][kChunks];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const uint4* row =
          static_cast<const uint4*>(p.weight) + (static_cast<long>(column) + (r > 0 ? out : 0)) * vectors + lane;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (lane + c * 32 < vectors) bits[r][c] = load_weight(row + c * 32);
      }
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (lane + c * 32 >= vectors) continue;
      float scale[kValues], shift[kValues] = {};
#pragma unroll
      for (int i = 0; i < kValues; i += 4) {
        const int at = (lane + c * 32) * kValues + i;
        *reinterpret_cast<float4*>(scale + i) = load_four(p.norm.weight + at);
        if (p.norm.bias != nullptr) *reinterpret_cast<float4*>(shift + i) = load_four(p.norm.bias + at);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float values[kValues];
        unpack<T>(bits[r][c], values);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          shift_sum[r] += values[i] * shift[i];
          weights[r][c][i] = values[i] * scale[i];
          scale_sum[r] += weights[r][c][i];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      scale_sum[r] = warp_sum(scale_sum[r]);
      shift_sum[r] = warp_sum(shift_sum[r]) + at_or_zero<T>(p.bias, column + (r > 0 ? out : 0));
    }
  }

  wait_for_predecessor();
  if (column >= out) return;
  const uint4* x = static_cast<const uint4*>(p.x) + lane;
  uint4 bits[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (lane + c * 32 < vectors) bits[c] = x[c * 32];
  }
  float values[kChunks][kValues], sum = 0, products[kRows] = {};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (lane + c * 32 >= vectors) continue;
    unpack<T>(bits[c], values[c]);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      sum += values[c][i];
#pragma unroll
      for (int r = 0; r < kRows; ++r) products[r] += weights[r][c][i] * values[c][i];
    }
  }
  const float mean = p.norm.centred != 0 ? warp_sum(sum) / in : 0.0f;
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (lane + c * 32 >= vectors) continue;
#pragma unroll
    for (int i = 0; i < kValues; ++i) squares += (values[c][i] - mean) * (values[c][i] - mean);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    squares += __shfl_xor_sync(0xffffffffu, squares, step);
#pragma unroll
    for (int r = 0; r < kRows; ++r) products[r] += __shfl_xor_sync(0xffffffffu, products[r], step);
  }
  if (lane != 0) return;
  const float inverse = rsqrtf(squares / in + p.norm.epsilon);
  float z[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) z[r] = inverse * (products[r] - mean * scale_sum[r]) + shift_sum[r];
  const float y = kGated ? activate(z[0], p.activation) * z[kRows - 1] : activate(z[0], p.activation);
  store<T>(p, 0, column, y + at_or_zero<T>(p.residual, column));
}

/// Values from one token to the next where the sums of kTiles tiles lie: what a quarter of a warp writes at once
/// falls into different banks.
template <int kTiles>
constexpr int kSumsLine = kTiles == 1 ? kTileRows : (kTiles + 1) * kTileRows;

/// Tokens are the rows of a product of matrices of 16 × 16 and 16 × 8: kEights times eight of them, those beyond
/// the last zero. The sum over `in` goes in pieces of 32, dealt to the warps in turn; within a piece, a lane takes
/// eight neighbours of one row (16 bytes), for which the order of the sum is changed in x and W alike. kTiles tiles
/// of eight outputs a block (kGated: as many of gates).
template <typename T, int kEights, int kTiles, bool kGated>
__global__ void __launch_bounds__(kThreads, kEights <= 2 ? 2 : 1) tiles(const FinesweepDecodeLinear p) {
  constexpr int kMatrices = kGated ? 2 * kTiles : kTiles, kGroups = (kEights + 1) / 2;
  constexpr int kAhead = kEights <= 2 && kMatrices <= 2 ? 4 : 2;  // pieces whose loads are under way
  constexpr int kColumns = kTiles * kTileRows, kLine = kSumsLine<kTiles>, kOutputs = 16 * kGroups * kLine;
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), tokens = static_cast<int>(p.tokens);
  const int pieces = in / 32, mine = pieces > warp ? (pieces - warp + kWarps - 1) / kWarps : 0;
  const int stride = in + 32;  // of a normed token: 64 bytes more, against conflicts of banks
  const bool normed = p.norm.weight != nullptr;
  // Sums of the warps, then normed tokens, then the norm's weights.
  float* sums = reinterpret_cast<float*>(shared);
  T* normed_x = reinterpret_cast<T*>(sums + kWarps * kOutputs * (kGated ? 2 : 1));
  float* norm_weight = reinterpret_cast<float*>(normed_x + static_cast<long>(tokens) * stride);
  float* norm_bias = norm_weight + in;

  let_successor_begin();
  uint4 w[kAhead][kMatrices];
  const auto fetch = [&](uint4(&to)[kMatrices], int first, int piece) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      const int column = first + m % kTiles * kTileRows + row;
      const long line = (kGated && m < kTiles) || !kGated ? column : out + column;
      to[m] = column < out ? load_weight(static_cast<const T*>(p.weight) + line * in +
                                         (static_cast<long>(piece) * kWarps + warp) * 32 + quarter * 8)
                           : make_uint4(0, 0, 0, 0);
    }
  };
  int first = blockIdx.x * kColumns;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < mine) fetch(w[i], first, i);
  }
  if (normed) {
    for (int i = threadIdx.x; i < in / 4; i += kThreads) {
      copy_to_shared(norm_weight + 4 * i, p.norm.weight + 4 * i);
      if (p.norm.bias != nullptr) copy_to_shared(norm_bias + 4 * i, p.norm.bias + 4 * i);
    }
    finish_copies();
    __syncthreads();
  }

  wait_for_predecessor();
  const T* x = static_cast<const T*>(p.x);
  int x_stride = in;
  if (normed) {
    norm_tokens<T, 1, 8>(p.norm, x, tokens, in, normed_x, stride, [&](int place, int) {
      return factors_at(norm_weight, p.norm.bias == nullptr ? nullptr : norm_bias, place);
    });
    __syncthreads();
    x = normed_x;
    x_stride = stride;
  }

  struct Added {
    float bias, gate, residual;
  };
  for (; first < out; first += gridDim.x * kColumns) {
    // Of output number i of the block; the thread's first is asked for ahead.
    const auto added_at = [&](int i) {
      const int token = i / kColumns, column = first + i % kColumns;
      if (token >= tokens || column >= out) return Added{0, 0, 0};
      return Added{at_or_zero<T>(p.bias, kGated ? out + column : column),
                   kGated ? at_or_zero<T>(p.bias, column) : 0.0f,
                   at_or_zero<T>(p.residual, static_cast<long>(token) * out + column)};
    };
    const Added added = added_at(threadIdx.x);
    float c[kMatrices][kGroups][4] = {};
    uint4 a[kAhead][kEights];
    const auto fetch_x = [&](uint4(&to)[kEights], int piece) {
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        const int token = e * 8 + row;
        to[e] = token < tokens ? *reinterpret_cast<const uint4*>(x + static_cast<long>(token) * x_stride +
                                                                 (piece * kWarps + warp) * 32 + quarter * 8)
                               : make_uint4(0, 0, 0, 0);
      }
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < mine) fetch_x(a[i], i);
    }
    for (int base = 0; base < mine; base += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int piece = base + i;
        if (piece >= mine) break;
#pragma unroll
        for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
          for (int g = 0; g < kGroups; ++g) {
            const uint4 low = a[i][2 * g], high = 2 * g + 1 < kEights ? a[i][2 * g + 1] : make_uint4(0, 0, 0, 0);
            multiply(c[m][g], low.x, high.x, low.y, high.y, w[i][m].x, w[i][m].y, T());
            multiply(c[m][g], low.z, high.z, low.w, high.w, w[i][m].z, w[i][m].w, T());
          }
        }
        if (piece + kAhead < mine) {
          fetch(w[i], first, piece + kAhead);
          fetch_x(a[i], piece + kAhead);
        }
      }
    }
    // The weights of the block's next outputs.
    const int next = first + gridDim.x * kColumns;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < mine && next < out) fetch(w[i], next, i);
    }
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (2 * g + half >= kEights) continue;
          const int token = g * 16 + half * 8 + row, place = m % kTiles * kTileRows + quarter * 2;
          float* to = sums + ((warp * (kGated ? 2 : 1) + m / kTiles) * 16 * kGroups + token) * kLine + place;
          *reinterpret_cast<float2*>(to) = make_float2(c[m][g][2 * half], c[m][g][2 * half + 1]);
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * kColumns; i += kThreads) {
      const int token = i / kColumns, column = first + i % kColumns, place = token * kLine + i % kColumns;
      if (column >= out) continue;
      const Added its = i == static_cast<int>(threadIdx.x) ? added : added_at(i);
      float z = its.bias, gate = its.gate;
      const float residual = its.residual;
#pragma unroll
      for (int from = 0; from < kWarps; ++from) {
        if (kGated) {
          gate += sums[(2 * from) * kOutputs + place];
          z += sums[(2 * from + 1) * kOutputs + place];
        } else {
          z += sums[from * kOutputs + place];
        }
      }
      const float y = kGated ? activate(gate, p.activation) * z : activate(z, p.activation);
      store<T>(p, token, column, y + residual);
    }
    __syncthreads();
  }
}

/// Few enough blocks that all run at once, with as much work for the one as for the other.
unsigned blocks_for(std::int64_t wanted) {
  constexpr std::int64_t kEach = 4;  // of a processor
  const std::int64_t turns = divide_up(wanted, device_facts().processors * kEach);
  return static_cast<unsigned>(divide_up(wanted, turns));
}

template <typename T, int kTokens, int kChunks, bool kGated>
int launch_rows(const FinesweepDecodeLinear& p, int split, void* stream) {
  const bool staged = kTokens > 1 || p.norm.weight != nullptr;
  const std::size_t shared = staged ? static_cast<std::size_t>(p.in * p.tokens) * sizeof(T) : 0;
  if (shared > kMostShared) return cudaErrorInvalidValue;
  const unsigned blocks = blocks_for(divide_up(p.out, kWarps / split));
  const auto kernel =
      p.norm.weight != nullptr ? rows<T, kTokens, kChunks, kGated, true> : rows<T, kTokens, kChunks, kGated, false>;
  return launch(kernel, dim3(blocks), kThreads, shared, stream, true, p, split);
}

template <typename T, int kChunks, bool kGated>
int launch_folded(const FinesweepDecodeLinear& p, void* stream) {
  const dim3 blocks(static_cast<unsigned>(divide_up(p.out, kWarps)));
  return launch(folded<T, kChunks, kGated>, blocks, kThreads, 0, stream, true, p);
}

template <typename T, int kTokens>
int choose_chunks(const FinesweepDecodeLinear& p, void* stream) {
  const std::int64_t vectors = divide_up(p.in / kVector<T>, 32);
  // Where a warp has one output, of a short row, and the norm would take longer than the product.
  const bool folds = kTokens == 1 && p.norm.weight != nullptr && vectors <= 4 &&
                     p.out <= 4 * kWarps * static_cast<std::int64_t>(device_facts().processors);
  if (folds && p.gated != 0) {
    return vectors <= 3 ? launch_folded<T, 3, true>(p, stream) : launch_folded<T, 4, true>(p, stream);
  }
  if (folds) return vectors <= 3 ? launch_folded<T, 3, false>(p, stream) : launch_folded<T, 4, false>(p, stream);
  const int most = p.gated != 0 ? 4 : 8;
  int split = 1;
  while (split < kWarps && divide_up(vectors, split) > most) split *= 2;
  const std::int64_t chunks = divide_up(vectors, split);
  if (p.gated != 0) {
    if (chunks <= 3) return launch_rows<T, kTokens, 3, true>(p, split, stream);
    if (chunks <= 4) return launch_rows<T, kTokens, 4, true>(p, split, stream);
  } else {
    if (chunks <= 3) return launch_rows<T, kTokens, 3, false>(p, split, stream);
    if (chunks <= 6) return launch_rows<T, kTokens, 6, false>(p, split, stream);
    if (chunks <= 8) return launch_rows<T, kTokens, 8, false>(p, split, stream);
  }
  return cudaErrorInvalidValue;
}

template <typename T, int kEights, int kTiles, bool kGated>
int launch_tiles(const FinesweepDecodeLinear& p, void* stream) {
  std::size_t shared = sizeof(float) * kWarps * 16 * ((kEights + 1) / 2) * kSumsLine<kTiles> * (kGated ? 2 : 1);
  if (p.norm.weight != nullptr) {
    shared += static_cast<std::size_t>(p.tokens) * (p.in + 32) * sizeof(T) + 2 * sizeof(float) * p.in;
  }
  if (shared > kMostShared) return cudaErrorInvalidValue;
  const unsigned blocks = blocks_for(divide_up(p.out, kTiles * kTileRows));
  return launch(tiles<T, kEights, kTiles, kGated>, dim3(blocks), kThreads, shared, stream, true, p);
}

/// As many tiles a block as leave every processor one.
template <typename T, int kEights>
int choose_tiles(const FinesweepDecodeLinear& p, void* stream) {
  const std::int64_t all = divide_up(p.out, kTileRows), processors = device_facts().processors;
  if (p.gated != 0) {
    return all >= 2 * processors ? launch_tiles<T, kEights, 2, true>(p, stream)
                                 : launch_tiles<T, kEights, 1, true>(p, stream);
  }
  if (all >= 4 * processors) return launch_tiles<T, kEights, 4, false>(p, stream);
  if (all >= 2 * processors) return launch_tiles<T, kEights, 2, false>(p, stream);
  return launch_tiles<T, kEights, 1, false>(p, stream);
}

template <typename T>
int choose_linear(const FinesweepDecodeLinear& p, void* stream) {
  if (p.in % kVector<T> != 0 || p.tokens < 1 || p.in < 1 || p.out < 1) return cudaErrorInvalidValue;
  if (p.norm.weight != nullptr && p.tokens > kFusedTokens) return cudaErrorInvalidValue;
  if (p.tokens == 1) return choose_chunks<T, 1>(p, stream);
  if (has_many_outputs(p)) return linear_of_many_outputs(p, stream);
  if constexpr (sizeof(T) == 4) {
    if (p.tokens <= 2) return choose_chunks<T, 2>(p, stream);
    if (p.tokens <= 4) return choose_chunks<T, 4>(p, stream);
    if (p.tokens <= 8) return choose_chunks<T, 8>(p, stream);
    return cudaErrorInvalidValue;
  } else {
    if (p.in % 32 != 0 || p.tokens > 64) return cudaErrorInvalidValue;
    if (p.tokens <= 8) return choose_tiles<T, 1>(p, stream);
    return p.tokens <= 16 ? choose_tiles<T, 2>(p, stream) : choose_tiles<T, 8>(p, stream);
  }
}

}  // namespace

extern "C" int finesweep_decode_linear(const FinesweepDecodeLinear* problem, void* stream) {
  return with_type(problem->type, [&](auto type) { return choose_linear<decltype(type)>(*problem, stream); });
}
