#pragma once

#include <cstdint>

// What libfinesweep-cuda.so offers: C functions over device pointers. All are asynchronous on `stream` (a
// cudaStream_t of the current device) and return a cudaError_t: 0, or what launching failed with. Nothing is
// allocated.

extern "C" {

/// Raised with every change of what stands below.
inline constexpr int kFinesweepCudaVersion = 7;
int finesweep_cuda_version();
/// The words for an error.
const char* finesweep_cuda_error(int error);

/// fp32, bf16, fp16; and e4m3, which matrix products alone take.
enum FinesweepFloat : int {
  kFinesweepFloat32 = 0,
  kFinesweepBFloat16 = 1,
  kFinesweepFloat16 = 2,
  kFinesweepFloat8E4M3 = 3
};

/// A matrix in NF4 (quantization/nf4.h). Scales: `absmax`, or where that is null absmax[b] =
/// map[codes[b]] · nested_absmax[b / nested_block] + offset, each operation rounded.
struct FinesweepNf4 {
  const std::uint8_t* packed;
  std::int64_t block_size;
  const float* absmax;
  const std::uint8_t* codes;
  const float* nested_absmax;
  const float* map;
  float offset;
  std::int64_t nested_block;
};

/// out[i] = value number begin + i of the flattened matrix, count of them.
int finesweep_nf4_dequantize(const FinesweepNf4* matrix, std::int64_t begin, std::int64_t count, void* out,
                             int type, void* stream);

/// y[t][o] = sum over i of x[t][i] · w[o][i], for few tokens: each weight is read once, as 4 bits. Products and
/// sums are fp32, of weights rounded to `type` as dequantize does.
///
///   x [tokens, in], y [tokens, out], both contiguous of `type`; tokens 1 … 8; in a multiple of 32 and of the block
///   size, which is a multiple of 32. Else cudaErrorInvalidValue.
int finesweep_nf4_product(const FinesweepNf4* matrix, std::int64_t out, std::int64_t in, const void* x,
                          std::int64_t tokens, void* y, int type, void* stream);

// Decoding: one new token a row, few rows. All matrices are contiguous and of `type` where nothing else is said,
// all pointers to them multiples of 16 bytes. What the functions cannot do is cudaErrorInvalidValue; the conditions
// are those of gpu/decode.cc.

enum FinesweepActivation : int {
  kActivationNone = 0,
  kActivationGelu = 1,
  kActivationGeluTanh = 2,
  kActivationRelu = 3,
  kActivationTanh = 4,
  kActivationSilu = 5
};

/// A norm of each token's values. weight null: none.
struct FinesweepNorm {
  const float* weight;
  const float* bias;  // null: there is none
  float epsilon;
  int centred;  // 1: LayerNorm; 0: RMSNorm
};

/// y = activation(norm(x) Wᵀ + bias) + residual; gated: activation(gate) · up of the two halves of W's rows. Each
/// weight is read once.
struct FinesweepDecodeLinear {
  const void* x;         // [tokens, in]
  const void* weight;    // [out, in], gated [2 × out, in]
  const void* bias;      // as many as W has rows; or null
  const void* residual;  // [tokens, out], or null
  void* y;               // [tokens, out]
  FinesweepNorm norm;
  std::int64_t tokens, in, out;
  int activation, gated;
  int type;
  int y_type;  // `type`, or fp32
};
int finesweep_decode_linear(const FinesweepDecodeLinear* problem, void* stream);

/// y = norm(x).
int finesweep_decode_norm(const FinesweepNorm* norm, const void* x, std::int64_t tokens, std::int64_t width,
                          void* y, int type, void* stream);

/// y[t] = activation(z[t][i]) · z[t][inner + i].
int finesweep_decode_gate(const void* z, std::int64_t tokens, std::int64_t inner, int activation, void* y, int type,
                          void* stream);

/// y[t] = words[ids[t]] + positions[places[t]]; positions may be null.
int finesweep_decode_embed(const void* words, const std::int64_t* ids, const void* positions,
                           const std::int64_t* places, std::int64_t tokens, std::int64_t width, void* y, int type,
                           void* stream);

/// Causal attention of one query a row over the row's cache, to which its key and value are appended at
/// lengths[row]. With a rotary table query and key are turned first. A window above 0 reaches so many keys back,
/// the query's own with them.
struct FinesweepDecodeAttention {
  const void* qkv;              // [rows, (heads + 2 × key_heads) × size]
  void* cache;                  // [rows, capacity, 2 × key_heads × size]
  const std::int64_t* lengths;  // [rows]
  const float* cosine;          // [positions, size / 2]; both null: not turned
  const float* sine;
  void* out;  // [rows, heads × size]
  /// Of parts of a row's keys: [rows × heads, splits, size + 2] and [rows × heads], zero at first and again
  /// afterwards. Not read where splits is 1.
  float* partial;
  std::int32_t* arrived;
  std::int64_t rows, capacity, heads, key_heads, size, window, splits;
  float scale;
  int type;
  /// 1: nothing has written lengths or the tokens that the cache holds since a kernel that began when all before it
  /// had ended. They are then read before the kernel before this one has ended.
  int settled;
};
int finesweep_decode_attention(const FinesweepDecodeAttention* problem, void* stream);

/// How a generation's tokens are chosen. It lies in the device's memory, so that a captured step serves them all.
struct FinesweepDecodeRules {
  std::int64_t max_new_tokens;
  std::int64_t positions;  // the longest sequence
  std::int64_t top_k;      // 0: all
  std::uint64_t key;       // of the rows' random streams
  double temperature, top_p;
  std::int64_t samples;  // 0: greedy
  std::int64_t end_count;
  std::int64_t end_ids[16];
};

/// What has been generated. On the device, one of each a row.
struct FinesweepDecodeState {
  const FinesweepDecodeRules* rules;
  const std::uint64_t* lanes;  // of the rows' random streams
  std::int64_t* ids;           // the row's newest token
  std::int64_t* lengths;       // tokens that the cache holds
  std::int64_t* tokens;        // [rows, token_capacity]: the new ones
  std::int64_t* produced;      // how many
  double* scores;              // the sum of their log-probabilities
  std::int64_t* done;          // 1: nothing more is produced
  std::int32_t* remaining;     // [1]: rows that are not done
  std::int64_t rows, token_capacity;
  /// Memory of the choice: [rows, 32, 4] and [rows], the latter zero at first and again afterwards; [rows,
  /// vocabulary] where tokens are drawn.
  double* partial;
  std::int32_t* arrived;
  std::uint64_t* masses;
};

/// Chooses the next token of every row that is not done, by logits [rows, vocabulary], and counts it. `held`: 1
/// where the pass that gave the logits put ids into the cache one by one (lengths then grow), 0 after the prompt.
int finesweep_decode_choose(const FinesweepDecodeState* state, const float* logits, std::int64_t vocabulary,
                            int draws, int held, void* stream);
}

#include "worker/kernels/cuda/training_api.h"
