// Products of few tokens with a matrix of weights. All are bound by reading the weights, so what matters is how many
// loads are under way, and that they are under way before the token's values are there: every thread asks for its first
// weights, waits for the kernel before, and only then reads x.
//
//   rows   one warp (or 2, 4, 8 where a row is long) computes one output for up to 8 tokens: any type. What batch 1
//          runs.
//   tiles  a block computes 8 to 32 outputs for up to 64 tokens with the tensor cores, its eight warps each a part of
//          the sum: bf16 and fp16.
//
// The norm before the product is computed by each block for itself, in shared memory: cheaper than a kernel of its own.

#include "worker/kernels/cuda/decode.cuh"

namespace {

using namespace finesweep_decode;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTileRows = 8;  // outputs of a tile
constexpr int kFusedTokens = 16;

/// Norm weights and bias to shared memory, ahead of their use.
template <typename T>
__device__ inline void fetch_norm(const FinesweepNorm& norm, int in, float* weight, float* bias) {
  for (int i = threadIdx.x; i < in / 4; i += kThreads) {
    copy_to_shared(weight + 4 * i, norm.weight + 4 * i);
    if (norm.bias != nullptr) copy_to_shared(bias + 4 * i, norm.bias + 4 * i);
  }
}

/// norm(x) of all tokens, rounded to T as the reference rounds, into `to`, `stride` vectors a token. `team` warps work
/// on a token at once. All threads of the block; ends with a barrier.
template <typename T, int team>
__device__ inline void norm_tokens(const FinesweepNorm& norm, const T* x, int tokens, int in, const float* weight,
                                   const float* bias, uint4* to, int stride) {
  constexpr int kValues = kVector<T>;
  __shared__ float sums[2][kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first = (warp % team) * 32 + lane, vectors = in / kValues;
  finish_copies();
  if (team == 1) __syncthreads();  // else the sums' barriers serve
  const auto team_sum = [&](float v, int which) {
    v = warp_sum(v);
    if (team == 1) return v;
    if (lane == 0) sums[which][warp] = v;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int i = 0; i < team; ++i) total += sums[which][warp / team * team + i];
    return total;
  };
  for (int round = 0; round < tokens; round += kWarps / team) {
    const int token = round + warp / team;
    const bool mine = token < tokens;
    uint4* row = to + static_cast<long>(mine ? token : 0) * stride;
    const uint4* source = reinterpret_cast<const uint4*>(x + static_cast<long>(mine ? token : 0) * in);
    float sum = 0;
    for (int v = first; mine && v < vectors; v += 32 * team) {
      const uint4 bits = source[v];
      row[v] = bits;
      float values[kValues];
      unpack<T>(bits, values);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum += values[i];
    }
    const float mean = norm.centred != 0 ? team_sum(sum, 0) / in : 0.0f;
    float squares = 0;
    for (int v = first; mine && v < vectors; v += 32 * team) {
      float values[kValues];
      unpack<T>(row[v], values);
#pragma unroll
      for (int i = 0; i < kValues; ++i) squares += (values[i] - mean) * (values[i] - mean);
    }
    const float inverse = rsqrtf(team_sum(squares, 1) / in + norm.epsilon);
    for (int v = first; mine && v < vectors; v += 32 * team) {
      float values[kValues];
      unpack<T>(row[v], values);
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const int column = v * kValues + i;
        values[i] = (values[i] - mean) * inverse * weight[column];
        if (norm.bias != nullptr) values[i] += bias[column];
      }
      row[v] = pack<T>(values);
    }
  }
  __syncthreads();
}

/// Stores y[token][column].
template <typename T>
__device__ inline void store(const FinesweepDecodeLinear& p, int token, int column, float value) {
  const long place = static_cast<long>(token) * p.out + column;
  if (p.y_type == kFloat32) {
    static_cast<float*>(p.y)[place] = value;
  } else {
    static_cast<T*>(p.y)[place] = from_float<T>(value);
  }
}

template <typename T>
__device__ inline float at_or_zero(const void* values, long place) {
  return values == nullptr ? 0.0f : to_float(static_cast<const T*>(values)[place]);
}

/// x [tokens, in] stands in shared memory, normed or as it came. `split` warps share an output's sum; each lane of
/// each of them takes kChunks vectors of the row (kGated: of both rows). Blocks go on to further outputs, the weights
/// of the next asked for before those of the last are used.
template <typename T, int kTokens, int kChunks, bool kGated>
__global__ void __launch_bounds__(kThreads) rows(const FinesweepDecodeLinear p, const int split) {
  constexpr int kValues = kVector<T>, kSums = kGated ? 2 * kTokens : kTokens;
  extern __shared__ uint4 shared[];
  __shared__ float parts[kWarps][kSums];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), tokens = static_cast<int>(p.tokens);
  const int vectors = in / kValues, part = warp % split;
  const int outputs = kWarps / split;  // of a block at a time
  float* norm_weight = reinterpret_cast<float*>(shared + static_cast<long>(tokens) * vectors);
  float* norm_bias = norm_weight + in;

  let_successor_begin();
  uint4 w[kChunks], gate[kGated ? kChunks : 1];
  const auto fetch = [&](int column) {
    const uint4* row = static_cast<const uint4*>(p.weight) + static_cast<long>(column) * vectors;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int v = (c * split + part) * 32 + lane;
      if (column >= out || v >= vectors) continue;
      if (kGated) {
        gate[kGated ? c : 0] = load_weight(row + v);
        w[c] = load_weight(row + static_cast<long>(out) * vectors + v);
      } else {
        w[c] = load_weight(row + v);
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
  if (p.norm.weight != nullptr) fetch_norm<T>(p.norm, in, norm_weight, norm_bias);

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
  if (p.norm.weight != nullptr) {
    norm_tokens<T, kWarps / kTokens>(p.norm, x, tokens, in, norm_weight, norm_bias, shared, vectors);
  } else {
    const uint4* source = reinterpret_cast<const uint4*>(x);
    for (int i = threadIdx.x; i < tokens * vectors; i += kThreads) shared[i] = source[i];
    __syncthreads();
  }

  for (int base = blockIdx.x * outputs; base < out; base += gridDim.x * outputs) {
    float sums[kSums] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int v = (c * split + part) * 32 + lane;
      if (v >= vectors) continue;
      float weights[kValues], gates[kValues];
      unpack<T>(w[c], weights);
      if (kGated) unpack<T>(gate[kGated ? c : 0], gates);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
        float values[kValues];
        unpack<T>(shared[t * vectors + v], values);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          sums[t] += weights[i] * values[i];
          if (kGated) sums[kTokens + t - (kGated ? 0 : kTokens)] += gates[i] * values[i];
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

__device__ inline void multiply(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                std::uint32_t b0, std::uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                std::uint32_t b0, std::uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Tokens are the rows of a product of matrices of 16 × 16 and 16 × 8: 16 × kGroups of them, those beyond the last
/// zero. The sum over `in` goes in pieces of 32, dealt to the warps in turn; within a piece, a lane takes eight
/// neighbours of one row (16 bytes), for which the order of the sum is changed in x and W alike. kTiles tiles of eight
/// outputs a block (kGated: as many of gates).
template <typename T, int kGroups, int kTiles, bool kGated>
__global__ void __launch_bounds__(kThreads) tiles(const FinesweepDecodeLinear p) {
  constexpr int kMatrices = kGated ? 2 * kTiles : kTiles;
  constexpr int kAhead = kGroups == 1 ? 4 : 2;  // pieces whose loads are under way
  constexpr int kColumns = kTiles * kTileRows, kOutputs = 16 * kGroups * kColumns;
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), tokens = static_cast<int>(p.tokens);
  const int pieces = in / 32, mine = pieces > warp ? (pieces - warp + kWarps - 1) / kWarps : 0;
  const int stride = in + 32;  // of a normed token: 64 bytes more, against conflicts of banks
  // Sums of the warps, then normed tokens, then the norm's weights.
  float* sums = reinterpret_cast<float*>(shared);
  T* normed = reinterpret_cast<T*>(sums + kWarps * kOutputs * (kGated ? 2 : 1));
  float* norm_weight = reinterpret_cast<float*>(normed + static_cast<long>(tokens) * stride);
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
  if (p.norm.weight != nullptr) fetch_norm<T>(p.norm, in, norm_weight, norm_bias);

  wait_for_predecessor();
  const T* x = static_cast<const T*>(p.x);
  int x_stride = in;
  if (p.norm.weight != nullptr) {
    norm_tokens<T, 1>(p.norm, x, tokens, in, norm_weight, norm_bias, reinterpret_cast<uint4*>(normed), stride / 8);
    x = normed;
    x_stride = stride;
  }

  for (; first < out; first += gridDim.x * kColumns) {
    float c[kMatrices][kGroups][4] = {};
    uint4 a[kAhead][kGroups][2];
    const auto fetch_x = [&](uint4(&to)[kGroups][2], int piece) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int token = g * 16 + half * 8 + row;
          to[g][half] = token < tokens
                            ? *reinterpret_cast<const uint4*>(x + static_cast<long>(token) * x_stride +
                                                              (piece * kWarps + warp) * 32 + quarter * 8)
                            : make_uint4(0, 0, 0, 0);
        }
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
            multiply(c[m][g], a[i][g][0].x, a[i][g][1].x, a[i][g][0].y, a[i][g][1].y, w[i][m].x, w[i][m].y, T());
            multiply(c[m][g], a[i][g][0].z, a[i][g][1].z, a[i][g][0].w, a[i][g][1].w, w[i][m].z, w[i][m].w, T());
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
        for (int i = 0; i < 4; ++i) {
          const int token = g * 16 + row + i / 2 * 8, place = m % kTiles * kTileRows + quarter * 2 + i % 2;
          sums[((warp * (kGated ? 2 : 1) + m / kTiles) * 16 * kGroups + token) * kColumns + place] = c[m][g][i];
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * kColumns; i += kThreads) {
      const int token = i / kColumns, column = first + i % kColumns;
      if (column >= out) continue;
      float z = at_or_zero<T>(p.bias, kGated ? out + column : column);
      float gate = kGated ? at_or_zero<T>(p.bias, column) : 0.0f;
      const float residual = at_or_zero<T>(p.residual, static_cast<long>(token) * out + column);
#pragma unroll
      for (int from = 0; from < kWarps; ++from) {
        if (kGated) {
          gate += sums[(2 * from) * kOutputs + i];
          z += sums[(2 * from + 1) * kOutputs + i];
        } else {
          z += sums[from * kOutputs + i];
        }
      }
      const float y = kGated ? activate(gate, p.activation) * z : activate(z, p.activation);
      store<T>(p, token, column, y + residual);
    }
    __syncthreads();
  }
}

/// Blocks that a processor is given at once: more than it can hold would norm x again and again.
constexpr int kBlocksEach = 4;

unsigned blocks_for(std::int64_t wanted) {
  const std::int64_t most = static_cast<std::int64_t>(device_facts().processors) * kBlocksEach;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

template <typename T, int kTokens, int kChunks, bool kGated>
int launch_rows(const FinesweepDecodeLinear& p, int split, void* stream) {
  const std::size_t norm = p.norm.weight != nullptr ? 2 * sizeof(float) : 0;
  const std::size_t shared = static_cast<std::size_t>(p.in) * (p.tokens * sizeof(T) + norm);
  const unsigned blocks = blocks_for(divide_up(p.out, kWarps / split));
  return launch(rows<T, kTokens, kChunks, kGated>, dim3(blocks), kThreads, shared, stream, true, p, split);
}

template <typename T, int kTokens>
int choose_chunks(const FinesweepDecodeLinear& p, void* stream) {
  const std::int64_t vectors = divide_up(p.in / kVector<T>, 32);
  const auto split_for = [&](int most) {
    int split = 1;
    while (split < kWarps && divide_up(vectors, split) > most) split *= 2;
    return split;
  };
  const int split = split_for(p.gated != 0 ? 4 : 8);
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

template <typename T, int kGroups, int kTiles, bool kGated>
int launch_tiles(const FinesweepDecodeLinear& p, void* stream) {
  std::size_t shared = sizeof(float) * kWarps * 16 * kGroups * kTiles * kTileRows * (kGated ? 2 : 1);
  if (p.norm.weight != nullptr) {
    shared += static_cast<std::size_t>(p.tokens) * (p.in + 32) * sizeof(T) + 2 * sizeof(float) * p.in;
  }
  const unsigned blocks = blocks_for(divide_up(p.out, kTiles * kTileRows));
  return launch(tiles<T, kGroups, kTiles, kGated>, dim3(blocks), kThreads, shared, stream, true, p);
}

/// As many tiles a block as leave every processor one.
template <typename T, int kGroups>
int choose_tiles(const FinesweepDecodeLinear& p, void* stream) {
  const std::int64_t all = divide_up(p.out, kTileRows), processors = device_facts().processors;
  if (p.gated != 0) {
    return all >= 2 * processors ? launch_tiles<T, kGroups, 2, true>(p, stream)
                                 : launch_tiles<T, kGroups, 1, true>(p, stream);
  }
  if (all >= 4 * processors) return launch_tiles<T, kGroups, 4, false>(p, stream);
  if (all >= 2 * processors) return launch_tiles<T, kGroups, 2, false>(p, stream);
  return launch_tiles<T, kGroups, 1, false>(p, stream);
}

template <typename T>
int choose_linear(const FinesweepDecodeLinear& p, void* stream) {
  if (p.in % kVector<T> != 0 || p.tokens < 1 || p.in < 1 || p.out < 1) return cudaErrorInvalidValue;
  if (p.norm.weight != nullptr && p.tokens > kFusedTokens) return cudaErrorInvalidValue;
  if (p.tokens == 1) return choose_chunks<T, 1>(p, stream);
  if constexpr (sizeof(T) == 4) {
    if (p.tokens <= 2) return choose_chunks<T, 2>(p, stream);
    if (p.tokens <= 4) return choose_chunks<T, 4>(p, stream);
    if (p.tokens <= 8) return choose_chunks<T, 8>(p, stream);
    return cudaErrorInvalidValue;
  } else {
    if (p.in % 32 != 0 || p.tokens > 64) return cudaErrorInvalidValue;
    return p.tokens <= 16 ? choose_tiles<T, 1>(p, stream) : choose_tiles<T, 4>(p, stream);
  }
}

}  // namespace

extern "C" int finesweep_decode_linear(const FinesweepDecodeLinear* problem, void* stream) {
  return with_type(problem->type, [&](auto type) { return choose_linear<decltype(type)>(*problem, stream); });
}
