// Products of some dozen tokens with a matrix of very many outputs: the head of a language model. Bound by reading
// the weights once. The tokens' values stay in shared memory; each warp then computes 16 outputs after another for
// all tokens with the tensor cores, over the whole sum: so nothing is joined, and no warp waits for another. A warp
// asks for its next weights, of its next outputs too, while it multiplies the last.

#include <algorithm>

#include "worker/kernels/cuda/many_outputs.cuh"

namespace finesweep_decode {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kOutputs = 16;  // of a warp at a time
constexpr int kPiece = 32;    // of the sum: 16 bytes of an output's weights for each of four lanes
constexpr int kAhead = 8;     // pieces whose weights are under way

/// From one token to the next in shared memory, such that what a quarter of a warp reads falls into different
/// banks.
__host__ __device__ inline std::int64_t stride_of(std::int64_t in) {
  return in % 64 == 0 ? in + 32 : in;
}

/// As in `tiles` of decode_linear.cu a lane takes eight neighbours of one row of a piece, so the order of the sum
/// is changed in x and W alike. Here outputs are the rows of the 16 × 16 matrix, and kEights times eight tokens the
/// columns, those beyond the last zero.
template <typename T, int kEights>
__global__ void __launch_bounds__(kThreads, 1) many_outputs(const FinesweepDecodeLinear p) {
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  const int in = static_cast<int>(p.in), out = static_cast<int>(p.out), tokens = static_cast<int>(p.tokens);
  const int pieces = in / kPiece, vectors = in / kVector<T>;
  const int stride = static_cast<int>(stride_of(in)) / kVector<T>;

  let_successor_begin();
  uint4 w[kAhead][2];
  const auto fetch = [&](uint4(&to)[2], int first, int piece) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = first + 8 * half + row;
      const T* from =
          static_cast<const T*>(p.weight) + static_cast<long>(column) * in + piece * kPiece + quarter * 8;
      to[half] = column < out ? load_weight(from) : make_uint4(0, 0, 0, 0);
    }
  };
  int first = (blockIdx.x * kWarps + warp) * kOutputs;
  const int step = gridDim.x * kWarps * kOutputs;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < pieces) fetch(w[i], first, i);
  }

  wait_for_predecessor();
  for (int i = threadIdx.x; i < kEights * 8 * vectors; i += kThreads) {
    const int token = i / vectors, place = token * stride + i % vectors;
    if (token < tokens) {
      copy_to_shared(shared + place, static_cast<const uint4*>(p.x) + i);
    } else {
      shared[place] = make_uint4(0, 0, 0, 0);
    }
  }
  finish_copies();
  __syncthreads();

  const uint4* x = shared + row * stride + quarter;
  for (; first < out; first += step) {
    float c[kEights][4] = {};
    for (int base = 0; base < pieces; base += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int piece = base + i;
        if (piece >= pieces) break;
#pragma unroll
        for (int e = 0; e < kEights; ++e) {
          const uint4 values = x[e * 8 * stride + piece * (kPiece / kVector<T>)];
          multiply(c[e], w[i][0].x, w[i][1].x, w[i][0].y, w[i][1].y, values.x, values.y, T());
          multiply(c[e], w[i][0].z, w[i][1].z, w[i][0].w, w[i][1].w, values.z, values.w, T());
        }
        if (piece + kAhead < pieces) {
          fetch(w[i], first, piece + kAhead);
        } else {
          fetch(w[i], first + step, i);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = first + 8 * half + row;
      if (column >= out) continue;
      const float bias = p.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(p.bias)[column]);
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = e * 8 + quarter * 2 + i;
          if (token >= tokens) continue;
          const long place = static_cast<long>(token) * out + column;
          const float y = c[e][2 * half + i] + bias;
          if (p.y_type == kFinesweepFloat32) {
            static_cast<float*>(p.y)[place] = y;
          } else {
            static_cast<T*>(p.y)[place] = from_float<T>(y);
          }
        }
      }
    }
  }
}

/// kEights of a product.
constexpr int eights_of(std::int64_t tokens) {
  return tokens <= 32 ? 4 : 8;
}
/// Of the tokens' values, which are two bytes.
std::int64_t shared_bytes(std::int64_t tokens, std::int64_t in) {
  return eights_of(tokens) * 8 * stride_of(in) * 2;
}

template <typename T, int kEights>
int launch_many(const FinesweepDecodeLinear& p, void* stream) {
  const auto shared = static_cast<std::size_t>(shared_bytes(p.tokens, p.in));
  const std::int64_t blocks =
      std::min<std::int64_t>(device_facts().processors, divide_up(p.out, kWarps * kOutputs));
  return launch(many_outputs<T, kEights>, dim3(static_cast<unsigned>(blocks)), kThreads, shared, stream, true, p);
}

}  // namespace

bool has_many_outputs(const FinesweepDecodeLinear& p) {
  constexpr std::int64_t kMany = 16384, kFewestTokens = 17, kMostTokens = 64;
  const bool is_narrow = p.type == kFinesweepBFloat16 || p.type == kFinesweepFloat16;
  return is_narrow && p.out >= kMany && p.tokens >= kFewestTokens && p.tokens <= kMostTokens &&
         p.in % kPiece == 0 && shared_bytes(p.tokens, p.in) <= shared_memory_limit() && p.gated == 0 &&
         p.residual == nullptr && p.norm.weight == nullptr && p.activation == kActivationNone;
}

int linear_of_many_outputs(const FinesweepDecodeLinear& p, void* stream) {
  const bool few = eights_of(p.tokens) == 4;
  if (p.type == kFinesweepFloat16)
    return few ? launch_many<__half, 4>(p, stream) : launch_many<__half, 8>(p, stream);
  return few ? launch_many<__nv_bfloat16, 4>(p, stream) : launch_many<__nv_bfloat16, 8>(p, stream);
}

}  // namespace finesweep_decode
