#include "worker/kernels/cuda/matrices.cuh"

// Attention in one pass over the keys (https://arxiv.org/abs/2205.14135), with what the libraries' kernels do not
// have: our dropout masks and biases by distance. Scores live in registers, tensor cores multiply (m16n8k16), sums
// are fp32.
//
// A block of four warps has 64 queries of a head (forward, gradient of the queries) or 64 keys (gradients of keys
// and values); a warp has 16 of them as the rows of its products. The others pass by in tiles of 64 in shared
// memory.

namespace finesweep::cuda {
namespace {

constexpr int kTile = 64, kThreads = 128;
constexpr float kLog2E = 1.4426950408889634f;

/// 64 rows of a head. Rows are 16 bytes longer than they need be: then eight of them lie in different banks.
template <typename T, int kSize>
struct Tile {
  alignas(16) T rows[kTile][kSize + 8];

  /// Rows first … first + 64 of a row of the batch that has `count` of them, `size` columns; zeros behind and
  /// beside.
  __device__ void fill(const T* from_row, std::int64_t stride, int first, int count, int size) {
    if (size % 8 == 0) {
      constexpr int kPieces = kSize / 8;
#pragma unroll
      for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
        const int piece = i * kThreads + threadIdx.x, row = piece / kPieces, column = piece % kPieces * 8;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (first + row < count && column < size) {
          value = *reinterpret_cast<const uint4*>(from_row + (first + row) * stride + column);
        }
        *reinterpret_cast<uint4*>(&rows[row][column]) = value;
      }
      return;
    }
    constexpr int kPieces = kSize / 2;
#pragma unroll
    for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x, row = piece / kPieces, column = piece % kPieces * 2;
      std::uint32_t value = 0;
      if (first + row < count && column < size) {
        value = *reinterpret_cast<const std::uint32_t*>(from_row + (first + row) * stride + column);
      }
      *reinterpret_cast<std::uint32_t*>(&rows[row][column]) = value;
    }
  }
  /// The same on the side: good after wait_for_groups() and __syncthreads().
  template <int kThreads>
  __device__ void fetch(const T* from_row, std::int64_t stride, int first, int count, int size) {
    if (size % 8 == 0) {
      fetch_pieces<8, kThreads>(from_row, stride, first, count, size);
    } else {
      fetch_pieces<2, kThreads>(from_row, stride, first, count, size);
    }
  }
  template <int kColumns, int kThreads>
  __device__ void fetch_pieces(const T* from_row, std::int64_t stride, int first, int count, int size) {
    constexpr int kPieces = kSize / kColumns;
#pragma unroll
    for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x, row = piece / kPieces, column = piece % kPieces * kColumns;
      const bool inside = first + row < count && column < size;
      copy_async<kColumns * sizeof(T)>(&rows[row][column],
                                       inside ? from_row + (first + row) * stride + column : from_row, inside);
    }
  }
  /// Sixteen rows as the left operand.
  __device__ void left(std::uint32_t (&a)[kSize / 16][4], int first) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) load_matrices(a[k], &rows[first + lane % 16][k * 16 + lane / 16 * 8]);
  }
};

/// Rows first … first + 16 of `count`, as the left operand, from global memory.
template <typename T, int kSize>
__device__ inline void load_left(std::uint32_t (&a)[kSize / 16][4], const T* from_row, std::int64_t stride,
                                 int first, int count, int size) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kSize / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + lane / 4 + i % 2 * 8, column = k * 16 + i / 2 * 8 + lane % 4 * 2;
      a[k][i] = row < count && column < size
                    ? *reinterpret_cast<const std::uint32_t*>(from_row + row * stride + column)
                    : 0;
    }
}

/// s = a · tileᵀ: 16 × 64.
template <typename T, int kSize>
__device__ inline void scores(float (&s)[8][4], const std::uint32_t (&a)[kSize / 16][4],
                              const Tile<T, kSize>& tile) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = 0;
#pragma unroll
  for (int k = 0; k < kSize / 16; ++k) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      std::uint32_t b[4];
      load_matrices(b, &tile.rows[n * 16 + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
      multiply<T>(s[2 * n], a[k], b[0], b[1]);
      multiply<T>(s[2 * n + 1], a[k], b[2], b[3]);
    }
  }
}

/// sum += p · tile, p 16 × 64 in registers.
template <typename T, int kSize>
__device__ inline void add_product(float (&sum)[kSize / 8][4], const float (&p)[8][4], const Tile<T, kSize>& tile) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t a[4] = {pack<T>(p[2 * k][0], p[2 * k][1]), pack<T>(p[2 * k][2], p[2 * k][3]),
                                pack<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                                pack<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < kSize / 16; ++n) {
      std::uint32_t b[4];
      load_transposed(b, &tile.rows[k * 16 + lane % 16][n * 16 + lane / 16 * 8]);
      multiply<T>(sum[2 * n], a, b[0], b[1]);
      multiply<T>(sum[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <typename T, int kSize>
__device__ inline void write_rows(T* to_row, std::int64_t stride, int first, int count, int size,
                                  const float (&v)[kSize / 8][4], float low_factor, float high_factor) {
  const int lane = threadIdx.x % 32, low = first + lane / 4, high = low + 8, column = lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kSize / 8; ++n) {
    if (n * 8 + column >= size) continue;
    if (low < count) {
      *reinterpret_cast<std::uint32_t*>(to_row + low * stride + n * 8 + column) =
          pack<T>(v[n][0] * low_factor, v[n][1] * low_factor);
    }
    if (high < count) {
      *reinterpret_cast<std::uint32_t*>(to_row + high * stride + n * 8 + column) =
          pack<T>(v[n][2] * high_factor, v[n][3] * high_factor);
    }
  }
}

/// What a block knows of its row and head.
struct Place {
  int head, key_head, query_begin, queries, key_begin, keys, offset;
  const float* bias = nullptr;  // [key - position]
  std::uint64_t key = 0, lane = 0, first_block = 0;

  __device__ Place(const FinesweepFlash& a, int row, int at_head) : head(at_head) {
    key_head = head / (a.heads / a.key_heads);
    query_begin = a.query_begin[row];
    queries = a.query_end[row] - query_begin;
    key_begin = a.key_begin[row];
    keys = a.key_end[row] - key_begin;
    offset = keys - queries;  // a query's position among the keys, less its number
    if (a.bias != nullptr) bias = a.bias + head * a.bias_stride + a.bias_zero;
    if (a.dropout.threshold != 0) {
      const StreamPlace stream(a.dropout, site_lane(a.dropout), a.dropout.rows[row]);
      key = stream.key;
      lane = stream.lane;
    }
    first_block = static_cast<std::uint64_t>(head) << 48;
  }
  __device__ bool sees(const FinesweepFlash& a, int query, int key) const {
    const int position = query + offset;
    return query < queries && key < keys && (!a.causal || key <= position) &&
           (a.window == 0 || position - key < a.window);
  }
  /// Whether all of sixteen queries see all of a tile of keys, and nothing is added to the scores.
  __device__ bool sees_all(const FinesweepFlash& a, int first_query, int first_key) const {
    return first_key + kTile <= keys && (!a.causal || first_key + kTile - 1 <= first_query + offset) &&
           a.window == 0 && bias == nullptr;
  }
  /// Which of eight keys from 8 · block on are kept: a bit each.
  __device__ std::uint32_t kept(const FinesweepDropout& dropout, int query, int block) const {
    const uint4 random = philox(key, lane,
                                first_block + (static_cast<std::uint64_t>(static_cast<unsigned>(query)) << 24) +
                                    static_cast<unsigned>(block));
    const std::uint32_t words[4] = {random.x, random.y, random.z, random.w};
    std::uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bits |= ((words[i] & 0xffffu) >= dropout.threshold ? 1u : 0u) << (2 * i);
      bits |= ((words[i] >> 16) >= dropout.threshold ? 1u : 0u) << (2 * i + 1);
    }
    return bits;
  }
};

/// Kept or not of a lane's elements where rows are queries: 16 of them from `query` on, 64 keys from `key` on. The
/// four lanes of a row each draw a quarter.
struct KeptOfQueries {
  std::uint32_t words[4];
  __device__ KeptOfQueries(const FinesweepDropout& dropout, const Place& place, int query, int key) {
    const int lane = threadIdx.x % 32, quarter = lane % 4;
    const int mine = query + lane / 4 + quarter / 2 * 8;
    std::uint32_t drawn = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) drawn |= place.kept(dropout, mine, key / 8 + quarter % 2 * 4 + i) << (8 * i);
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __shfl_sync(0xffffffffu, drawn, (lane & ~3) + i);
  }
  __device__ bool get(int n, int i) const {
    const int quarter = threadIdx.x % 4;
    return words[i / 2 * 2 + n / 4] >> (n % 4 * 8 + quarter * 2 + i % 2) & 1;
  }
};

/// The same where rows are keys: 16 of them from `key` on, 64 queries from `query` on. The eight lanes of two
/// queries each draw an eighth.
struct KeptOfKeys {
  std::uint32_t words[8];
  __device__ KeptOfKeys(const FinesweepDropout& dropout, const Place& place, int query, int key) {
    const int lane = threadIdx.x % 32, eighth = lane / 4;
    // Word e: of the tiles of eight queries e / 4 · 4 …, the lane's query e / 2 % 2, the keys' half e % 2.
    const int mine = query + lane % 4 * 2 + eighth / 2 % 2;
    std::uint32_t drawn = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      drawn |= place.kept(dropout, mine + (eighth / 4 * 4 + i) * 8, key / 8 + eighth % 2) << (8 * i);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) words[e] = __shfl_sync(0xffffffffu, drawn, e * 4 + lane % 4);
  }
  /// Of tile n of eight queries: i % 2 the query, i / 2 the keys' half.
  __device__ bool get(int n, int i) const {
    const int row = threadIdx.x % 32 / 4;
    return words[n / 4 * 4 + i % 2 * 2 + i / 2] >> (n % 4 * 8 + row) & 1;
  }
};

/// kWarps · 16 queries of a head a block.
template <typename T, int kSize, bool kWhole, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kSize > 32    ? 1
                                               : kWarps == 8 ? 2
                                                             : 4)
    flash_forward(const FinesweepFlash a, T* out, std::int64_t out_stride, float* log_sum) {
  // Of one tile while the next one is fetched.
  __shared__ Tile<T, kSize> key_tiles[2], value_tiles[2];
  constexpr int kQueries = kWarps * 16;
  wait_for_predecessor();
  const Place place(a, blockIdx.z, blockIdx.y);
  const int size = kWhole ? kSize : static_cast<int>(a.size);
  const int first = static_cast<int>(blockIdx.x) * kQueries;
  if (first >= place.queries) return;
  const int lane = threadIdx.x % 32, warp_first = first + static_cast<int>(threadIdx.x) / 32 * 16;
  const T* query = static_cast<const T*>(a.query) + place.query_begin * a.query_stride + place.head * size;
  const T* key = static_cast<const T*>(a.key) + place.key_begin * a.key_stride + place.key_head * size;
  const T* value = static_cast<const T*>(a.value) + place.key_begin * a.key_stride + place.key_head * size;
  const int last = a.causal ? min(place.keys, min(first + kQueries, place.queries) + place.offset) : place.keys;
  const int begin =
      a.window > 0 ? max(0, first + place.offset + 1 - static_cast<int>(a.window)) / kTile * kTile : 0;
  const auto fetch = [&](int stage, int first_key) {
    key_tiles[stage].template fetch<kWarps * 32>(key, a.key_stride, first_key, place.keys, size);
    value_tiles[stage].template fetch<kWarps * 32>(value, a.key_stride, first_key, place.keys, size);
  };
  if (begin < last) fetch(0, begin);
  end_group();
  std::uint32_t q[kSize / 16][4];
  load_left<T, kSize>(q, query, a.query_stride, warp_first, place.queries, size);

  const float scale = a.scale * kLog2E;
  float sum[kSize / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
  int stage = 0;
  for (int k0 = begin; k0 < last; k0 += kTile, stage ^= 1) {
    if (k0 > begin) __syncthreads();  // nobody reads what the next tile overwrites
    if (k0 + kTile < last) fetch(stage ^ 1, k0 + kTile);
    end_group();
    wait_for_groups<1>();
    __syncthreads();
    float s[8][4];
    scores<T, kSize>(s, q, key_tiles[stage]);
    float peak[2] = {most[0], most[1]};
    if (place.sees_all(a, warp_first, k0)) {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[n][i] *= scale;
          peak[i / 2] = fmaxf(peak[i / 2], s[n][i]);
        }
    } else {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at_query = warp_first + lane / 4 + i / 2 * 8, at_key = k0 + n * 8 + lane % 4 * 2 + i % 2;
          float v = s[n][i] * scale;
          const bool seen = place.sees(a, at_query, at_key);
          if (place.bias != nullptr && seen) v += place.bias[at_key - at_query - place.offset] * kLog2E;
          s[n][i] = seen ? v : -INFINITY;
          peak[i / 2] = fmaxf(peak[i / 2], s[n][i]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 1));
      peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 2));
      const float base = peak[half] == -INFINITY ? 0.0f : peak[half];
      const float shrink = exp2f(most[half] - base);
      most[half] = peak[half];
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& p = s[n][half * 2 + i];
          p = exp2f(p - base);
          total[half] += p;
        }
#pragma unroll
      for (int n = 0; n < kSize / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) sum[n][half * 2 + i] *= shrink;
    }
    if (a.dropout.threshold != 0) {
      const KeptOfQueries kept(a.dropout, place, warp_first, k0);
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = kept.get(n, i) ? s[n][i] : 0.0f;
    }
    add_product<T, kSize>(sum, s, value_tiles[stage]);
  }
  const float keep = a.dropout.threshold != 0 ? a.dropout.scale : 1.0f;
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
    factor[half] = total[half] > 0 ? keep / total[half] : 0.0f;
    const int at_query = warp_first + lane / 4 + half * 8;
    if (lane % 4 == 0 && at_query < place.queries) {
      log_sum[static_cast<std::int64_t>(place.query_begin + at_query) * a.heads + place.head] =
          most[half] + log2f(total[half]);
    }
  }
  write_rows<T, kSize>(out + place.query_begin * out_stride + place.head * size, out_stride, warp_first,
                       place.queries, size, sum, factor[0], factor[1]);
}

/// delta[token][head] = Σ d_out · out: a warp each.
template <typename T>
__global__ void flash_delta(const T* out, const T* d_out, std::int64_t stride, std::int64_t count, int heads,
                            int size, float* delta) {
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (number >= count) return;
  const std::int64_t at = number / heads * stride + number % heads * size;
  float sum = 0;
  for (int i = threadIdx.x % 32; i < size; i += 32) sum += from(out[at + i]) * from(d_out[at + i]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[number] = sum;
}

template <typename T, int kSize, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    flash_query_gradient(const FinesweepFlash a, const T* d_out, std::int64_t out_stride, const float* log_sum,
                         const float* delta, T* d_query, std::int64_t d_stride) {
  __shared__ Tile<T, kSize> key_tile, value_tile;
  const Place place(a, blockIdx.z, blockIdx.y);
  const int size = kWhole ? kSize : static_cast<int>(a.size);
  const int first = static_cast<int>(blockIdx.x) * kTile;
  if (first >= place.queries) return;
  const int lane = threadIdx.x % 32, warp = static_cast<int>(threadIdx.x) / 32 * 16, warp_first = first + warp;
  const T* query = static_cast<const T*>(a.query) + place.query_begin * a.query_stride + place.head * size;
  const T* key = static_cast<const T*>(a.key) + place.key_begin * a.key_stride + place.key_head * size;
  const T* value = static_cast<const T*>(a.value) + place.key_begin * a.key_stride + place.key_head * size;
  std::uint32_t q[kSize / 16][4], d[kSize / 16][4];
  key_tile.fill(query, a.query_stride, first, place.queries, size);
  value_tile.fill(d_out + place.query_begin * out_stride + place.head * size, out_stride, first, place.queries,
                  size);
  __syncthreads();
  key_tile.left(q, warp);
  value_tile.left(d, warp);
  float norm[2], inner[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at_query = warp_first + lane / 4 + half * 8;
    const std::int64_t at = static_cast<std::int64_t>(place.query_begin + at_query) * a.heads + place.head;
    norm[half] = at_query < place.queries ? log_sum[at] : 0.0f;
    inner[half] = at_query < place.queries ? delta[at] : 0.0f;
  }
  const int last = a.causal ? min(place.keys, min(first + kTile, place.queries) + place.offset) : place.keys;
  const int begin =
      a.window > 0 ? max(0, first + place.offset + 1 - static_cast<int>(a.window)) / kTile * kTile : 0;
  const float scale = a.scale * kLog2E, keep = a.dropout.threshold != 0 ? a.dropout.scale : 1.0f;
  float sum[kSize / 8][4] = {};
  for (int k0 = begin; k0 < last; k0 += kTile) {
    __syncthreads();
    key_tile.fill(key, a.key_stride, k0, place.keys, size);
    value_tile.fill(value, a.key_stride, k0, place.keys, size);
    __syncthreads();
    float s[8][4], dp[8][4];
    scores<T, kSize>(s, q, key_tile);
    scores<T, kSize>(dp, d, value_tile);
    if (a.dropout.threshold != 0) {
      const KeptOfQueries kept(a.dropout, place, warp_first, k0);
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) dp[n][i] = kept.get(n, i) ? dp[n][i] * keep : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at_query = warp_first + lane / 4 + i / 2 * 8, at_key = k0 + n * 8 + lane % 4 * 2 + i % 2;
        float v = s[n][i] * scale;
        const bool seen = place.sees(a, at_query, at_key);
        if (place.bias != nullptr && seen) v += place.bias[at_key - at_query - place.offset] * kLog2E;
        s[n][i] = seen ? exp2f(v - norm[i / 2]) * (dp[n][i] - inner[i / 2]) : 0.0f;
      }
    add_product<T, kSize>(sum, s, key_tile);
  }
  write_rows<T, kSize>(d_query + place.query_begin * d_stride + place.head * size, d_stride, warp_first,
                       place.queries, size, sum, a.scale, a.scale);
}

template <typename T, int kSize, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    flash_key_gradient(const FinesweepFlash a, const T* d_out, std::int64_t out_stride, const float* log_sum,
                       const float* delta, T* d_key, T* d_value, std::int64_t d_stride) {
  __shared__ Tile<T, kSize> query_tile, d_tile;
  __shared__ float norms[kTile], inners[kTile];
  const int group = a.heads / a.key_heads, key_head = blockIdx.y, size = kWhole ? kSize : static_cast<int>(a.size);
  const Place first_place(a, blockIdx.z, key_head * group);
  const int first = static_cast<int>(blockIdx.x) * kTile;
  if (first >= first_place.keys) return;
  const int lane = threadIdx.x % 32, warp = static_cast<int>(threadIdx.x) / 32 * 16, warp_first = first + warp;
  const std::int64_t key_offset = first_place.key_begin * a.key_stride + key_head * size;
  std::uint32_t k[kSize / 16][4], v[kSize / 16][4];
  query_tile.fill(static_cast<const T*>(a.key) + key_offset, a.key_stride, first, first_place.keys, size);
  d_tile.fill(static_cast<const T*>(a.value) + key_offset, a.key_stride, first, first_place.keys, size);
  __syncthreads();
  query_tile.left(k, warp);
  d_tile.left(v, warp);

  const float scale = a.scale * kLog2E, keep = a.dropout.threshold != 0 ? a.dropout.scale : 1.0f;
  float sum_k[kSize / 8][4] = {}, sum_v[kSize / 8][4] = {};
  for (int g = 0; g < group; ++g) {
    const Place place(a, blockIdx.z, key_head * group + g);
    const T* query = static_cast<const T*>(a.query) + place.query_begin * a.query_stride + place.head * size;
    const T* d = d_out + place.query_begin * out_stride + place.head * size;
    // The queries that see any of these keys.
    const int begin = a.causal ? max(0, first - place.offset) / kTile * kTile : 0;
    const int last = a.window > 0 ? min(place.queries, first + kTile - place.offset + static_cast<int>(a.window))
                                  : place.queries;
    for (int q0 = begin; q0 < last; q0 += kTile) {
      __syncthreads();
      query_tile.fill(query, a.query_stride, q0, place.queries, size);
      d_tile.fill(d, out_stride, q0, place.queries, size);
      if (threadIdx.x < kTile) {
        const int at_query = q0 + static_cast<int>(threadIdx.x);
        const std::int64_t at = static_cast<std::int64_t>(place.query_begin + at_query) * a.heads + place.head;
        norms[threadIdx.x] = at_query < place.queries ? log_sum[at] : 0.0f;
        inners[threadIdx.x] = at_query < place.queries ? delta[at] : 0.0f;
      }
      __syncthreads();
      // Rows are keys here, columns queries.
      float s[8][4], dp[8][4];
      scores<T, kSize>(s, k, query_tile);
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = n * 8 + lane % 4 * 2 + i % 2;
          const int at_query = q0 + column, at_key = warp_first + lane / 4 + i / 2 * 8;
          float score = s[n][i] * scale;
          const bool seen = place.sees(a, at_query, at_key);
          if (place.bias != nullptr && seen) score += place.bias[at_key - at_query - place.offset] * kLog2E;
          s[n][i] = seen ? exp2f(score - norms[column]) : 0.0f;
        }
      scores<T, kSize>(dp, v, d_tile);
      if (a.dropout.threshold != 0) {
        const KeptOfKeys kept(a.dropout, place, q0, warp_first);
        float p[8][4];
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const bool stays = kept.get(n, i);
            p[n][i] = stays ? s[n][i] * keep : 0.0f;
            dp[n][i] = stays ? dp[n][i] * keep : 0.0f;
          }
        add_product<T, kSize>(sum_v, p, d_tile);
      } else {
        add_product<T, kSize>(sum_v, s, d_tile);
      }
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - inners[n * 8 + lane % 4 * 2 + i % 2];
      add_product<T, kSize>(sum_k, s, query_tile);
    }
  }
  const std::int64_t out = first_place.key_begin * d_stride + key_head * size;
  write_rows<T, kSize>(d_key + out, d_stride, warp_first, first_place.keys, size, sum_k, a.scale, a.scale);
  write_rows<T, kSize>(d_value + out, d_stride, warp_first, first_place.keys, size, sum_v, 1, 1);
}

bool fits(std::int64_t size, int type) {
  return (type == kFinesweepBFloat16 || type == kFinesweepFloat16) && size % 2 == 0 && size >= 2 && size <= 64;
}

template <typename T, typename Work>
int with_size(std::int64_t size, const Work& work) {
  using Narrow = std::integral_constant<int, 32>;
  using Wide = std::integral_constant<int, 64>;
  if (size == 32) return work(T(), Narrow(), std::true_type());
  if (size == 64) return work(T(), Wide(), std::true_type());
  return size < 32 ? work(T(), Narrow(), std::false_type()) : work(T(), Wide(), std::false_type());
}

/// Calls work(T(), size, whole) with the type, the size of head that the kernel is made for, and whether that is
/// it.
template <typename Work>
int with_kernel(int type, std::int64_t size, const Work& work) {
  if (!fits(size, type)) return cudaErrorInvalidValue;
  return type == kFinesweepBFloat16 ? with_size<__nv_bfloat16>(size, work) : with_size<__half>(size, work);
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_flash_fits(std::int64_t size, int type) {
  return fits(size, type) ? 1 : 0;
}

int finesweep_flash_forward(const FinesweepFlash* what, void* out, std::int64_t out_stride, float* log_sum,
                            int type, void* stream) {
  const FinesweepFlash& a = *what;
  if (a.rows * a.longest_query == 0) return cudaSuccess;
  return with_kernel(type, a.size, [&](auto like, auto size, auto whole) {
    using T = decltype(like);
    // Eight warps read the keys once for twice the queries, where there are as many; few heads want all blocks they
    // can get.
    constexpr int kFewHeads = 128;
    const auto with_warps = [&](auto warps) {
      constexpr int kWarps = decltype(warps)::value;
      const dim3 grid(blocks_for(a.longest_query, kWarps * 16), static_cast<unsigned>(a.heads),
                      static_cast<unsigned>(a.rows));
      return launch(flash_forward<T, decltype(size)::value, decltype(whole)::value, kWarps>, grid, kWarps * 32, 0,
                    stream, true, a, static_cast<T*>(out), out_stride, log_sum);
    };
    if (a.longest_query <= kTile || a.rows * a.heads < kFewHeads)
      return with_warps(std::integral_constant<int, 4>());
    return with_warps(std::integral_constant<int, 8>());
  });
}

int finesweep_flash_backward(const FinesweepFlash* what, const void* out, const void* d_out,
                             std::int64_t out_stride, std::int64_t tokens, const float* log_sum, float* delta,
                             void* d_query, std::int64_t d_query_stride, void* d_key, void* d_value,
                             std::int64_t d_key_stride, int type, void* stream) {
  const FinesweepFlash& a = *what;
  if (a.rows * a.longest_query == 0) return cudaSuccess;
  return with_kernel(type, a.size, [&](auto like, auto size, auto whole) {
    using T = decltype(like);
    constexpr int kSize = decltype(size)::value;
    constexpr bool kWhole = decltype(whole)::value;
    const auto on = static_cast<cudaStream_t>(stream);
    const T* d = static_cast<const T*>(d_out);
    const std::int64_t count = tokens * a.heads;
    flash_delta<T><<<blocks_for(count, kThreads / 32), kThreads, 0, on>>>(static_cast<const T*>(out), d, out_stride,
                                                                          count, static_cast<int>(a.heads),
                                                                          static_cast<int>(a.size), delta);
    if (d_query != nullptr) {
      const dim3 grid(blocks_for(a.longest_query, kTile), static_cast<unsigned>(a.heads),
                      static_cast<unsigned>(a.rows));
      flash_query_gradient<T, kSize, kWhole>
          <<<grid, kThreads, 0, on>>>(a, d, out_stride, log_sum, delta, static_cast<T*>(d_query), d_query_stride);
    }
    if (d_key != nullptr) {
      const dim3 grid(blocks_for(a.longest_key, kTile), static_cast<unsigned>(a.key_heads),
                      static_cast<unsigned>(a.rows));
      flash_key_gradient<T, kSize, kWhole><<<grid, kThreads, 0, on>>>(
          a, d, out_stride, log_sum, delta, static_cast<T*>(d_key), static_cast<T*>(d_value), d_key_stride);
    }
    return static_cast<int>(cudaGetLastError());
  });
}
}
