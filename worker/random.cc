#include "worker/random.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace finesweep::worker {
namespace {

/// The finaliser of SplitMix64 (Steele et al. 2014): a bijection that spreads every bit over all.
constexpr std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

constexpr std::uint64_t combine(std::uint64_t state, std::uint64_t value) {
  return mix(mix(state + 0x9E3779B97F4A7C15u) ^ value);
}

// Blocks of one call of `fill_blocks`.
constexpr std::size_t lanes = 16;

void fill_blocks_portable(std::uint32_t* out, std::uint64_t first, std::uint64_t lane, std::uint64_t key) {
  for (std::uint64_t index = first; index < first + lanes; ++index, out += 4) {
    const auto numbers = philox4x32_10({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                                        static_cast<std::uint32_t>(lane), static_cast<std::uint32_t>(lane >> 32)},
                                       {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)});
    std::copy(numbers.begin(), numbers.end(), out);
  }
}

#if defined(__x86_64__)
/// Four blocks to a register, each 32-bit word in a 64-bit lane whose upper half is ignored by the product; four
/// registers in flight hide the product's latency.
__attribute__((target("avx2"))) void fill_blocks_avx2(std::uint32_t* out, std::uint64_t first, std::uint64_t lane,
                                                      std::uint64_t key) {
  constexpr int registers = lanes / 4;
  const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53), multiplier1 = _mm256_set1_epi64x(0xCD9E8D57);
  __m256i c0[registers], c1[registers], c2[registers], c3[registers];
  for (int r = 0; r < registers; ++r) {
    c0[r] =
        _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first + 4 * r)), _mm256_setr_epi64x(0, 1, 2, 3));
    c1[r] = _mm256_srli_epi64(c0[r], 32);
    c2[r] = _mm256_set1_epi64x(static_cast<long long>(lane));
    c3[r] = _mm256_srli_epi64(c2[r], 32);
  }
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
    for (int r = 0; r < registers; ++r) {
      const __m256i product0 = _mm256_mul_epu32(c0[r], multiplier0),
                    product1 = _mm256_mul_epu32(c2[r], multiplier1);
      c0[r] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1[r]), key0);
      c2[r] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3[r]), key1);
      c1[r] = product1;
      c3[r] = product0;
    }
  }
  for (int r = 0; r < registers; ++r, out += 16) {
    // Block i of the four is {c0, c1, c2, c3} of 64-bit lane i.
    const __m256i low = _mm256_blend_epi32(c0[r], _mm256_slli_epi64(c1[r], 32), 0b10101010);
    const __m256i high = _mm256_blend_epi32(c2[r], _mm256_slli_epi64(c3[r], 32), 0b10101010);
    const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_permute2x128_si256(even, odd, 0x31));
  }
}
#endif

void fill_blocks(std::uint32_t* out, std::uint64_t first, std::uint64_t lane, std::uint64_t key) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return fill_blocks_avx2(out, first, lane, key);
#endif
  fill_blocks_portable(out, first, lane, key);
}

}  // namespace

std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix(hash);
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view purpose,
                           std::initializer_list<std::uint64_t> indices)
    : key_(combine(seed, hash_name(purpose))), lane_(combine(0, indices.size())) {
  for (const std::uint64_t index : indices) lane_ = combine(lane_, index);
}

void RandomStream::fill(std::uint32_t* out, std::size_t count, std::uint64_t first_block) const {
  std::size_t done = 0;
  for (; done + 4 * lanes <= count; done += 4 * lanes, first_block += lanes) {
    fill_blocks(out + done, first_block, lane_, key_);
  }
  if (done == count) return;
  std::uint32_t rest[4 * lanes];
  fill_blocks(rest, first_block, lane_, key_);
  std::copy_n(rest, count - done, out + done);
}

std::uint32_t RandomStream::next_u32() {
  if (position_ % 4 == 0) current_ = block(position_ / 4);
  return current_[position_++ % 4];
}

std::uint64_t RandomStream::next_u64() {
  const std::uint64_t low = next_u32();
  return low | std::uint64_t{next_u32()} << 32;
}

std::uint64_t RandomStream::next_below(std::uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  Wide product = Wide{next_u64()} * bound;
  if (static_cast<std::uint64_t>(product) < bound) {
    const std::uint64_t threshold = -bound % bound;
    while (static_cast<std::uint64_t>(product) < threshold) product = Wide{next_u64()} * bound;
  }
  return static_cast<std::uint64_t>(product >> 64);
}

std::vector<std::int64_t> random_permutation(std::int64_t count, RandomStream stream) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[stream.next_below(i)]);
  return order;
}

namespace {

/// Calls `use(numbers, first, count)` for stretches of the stream's numbers.
template <typename Use>
void for_stretches(std::size_t count, const RandomStream& stream, Use use) {
  constexpr std::size_t stretch = 1024;
  std::uint32_t numbers[stretch];
  for (std::size_t first = 0; first < count; first += stretch) {
    const std::size_t here = std::min(stretch, (count - first + 3) / 4 * 4);
    stream.fill(numbers, here, first / 4);
    use(numbers, first, std::min(here, count - first));
  }
}

}  // namespace

void fill_uniform(float* out, std::size_t count, float low, float high, const RandomStream& stream) {
  for_stretches(count, stream, [&](const std::uint32_t* numbers, std::size_t first, std::size_t here) {
    for (std::size_t i = 0; i < here; ++i) {
      const float value = low + (high - low) * (static_cast<float>(numbers[i] >> 8) * 0x1p-24f);
      out[first + i] = value < high ? value : std::nextafter(high, low);  // low + … may round up to high
    }
  });
}

void fill_normal(float* out, std::size_t count, float mean, float deviation, const RandomStream& stream) {
  for_stretches(count, stream, [&](const std::uint32_t* numbers, std::size_t first, std::size_t here) {
    for (std::size_t i = 0; i < here; i += 2) {
      const double radius = std::sqrt(-2 * std::log((numbers[i] + 1.0) * 0x1p-32));
      const double angle = 2 * std::numbers::pi * (numbers[i + 1] * 0x1p-32);
      out[first + i] = static_cast<float>(mean + deviation * (radius * std::cos(angle)));
      if (i + 1 < here) out[first + i + 1] = static_cast<float>(mean + deviation * (radius * std::sin(angle)));
    }
  });
}

}  // namespace finesweep::worker
