#include "worker/kernels/cpu/philox.h"

#include <array>
#include <cstring>

#include "worker/random.h"
#if defined(__x86_64__)
// GCC's own header: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace finesweep::worker::cpu {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

void scalar(std::uint64_t key, std::uint64_t lane, std::uint64_t first, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i, ++first, out += 8) {
    const std::array<std::uint32_t, 4> block =
        philox4x32_10({static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(first >> 32),
                       static_cast<std::uint32_t>(lane), static_cast<std::uint32_t>(lane >> 32)},
                      {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)});
    std::memcpy(out, block.data(), sizeof(block));
  }
}

#if defined(__x86_64__)
// One 32-bit word of a counter in the low half of each 64-bit lane; what stands in the high half is ignored by the
// widening product and removed at the end.
__attribute__((target("avx512f"))) void avx512(std::uint64_t key, std::uint64_t lane, std::uint64_t first,
                                               std::int64_t count, std::uint16_t* out) {
  const __m512i m0 = _mm512_set1_epi64(kMultiplier0), m1 = _mm512_set1_epi64(kMultiplier1);
  const __m512i ramp = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i low = _mm512_set1_epi64(0xFFFFFFFF);
  const __m512i even = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
                odd = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8, out += 64) {
    __m512i c0 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first + i)), ramp);
    __m512i c1 = _mm512_srli_epi64(c0, 32);
    __m512i c2 = _mm512_set1_epi64(static_cast<long long>(lane)), c3 = _mm512_srli_epi64(c2, 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += kWeyl0, k1 += kWeyl1) {
      const __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1);
      c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1, _mm512_set1_epi64(k0), 0x96);
      c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, _mm512_set1_epi64(k1), 0x96);
      c1 = p1;
      c3 = p0;
    }
    const __m512i front = _mm512_or_si512(_mm512_and_si512(c0, low), _mm512_slli_epi64(c1, 32));
    const __m512i back = _mm512_or_si512(_mm512_and_si512(c2, low), _mm512_slli_epi64(c3, 32));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi64(front, even, back));
    _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi64(front, odd, back));
  }
  scalar(key, lane, first + i, count - i, out);
}

__attribute__((target("avx2"))) void avx2(std::uint64_t key, std::uint64_t lane, std::uint64_t first,
                                          std::int64_t count, std::uint16_t* out) {
  const __m256i m0 = _mm256_set1_epi64x(kMultiplier0), m1 = _mm256_set1_epi64x(kMultiplier1);
  const __m256i ramp = _mm256_set_epi64x(3, 2, 1, 0), low = _mm256_set1_epi64x(0xFFFFFFFF);
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4, out += 32) {
    __m256i c0 = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first + i)), ramp);
    __m256i c1 = _mm256_srli_epi64(c0, 32);
    __m256i c2 = _mm256_set1_epi64x(static_cast<long long>(lane)), c3 = _mm256_srli_epi64(c2, 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += kWeyl0, k1 += kWeyl1) {
      const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
      c1 = p1;
      c3 = p0;
    }
    const __m256i front = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
    const __m256i back = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
    const __m256i lo = _mm256_unpacklo_epi64(front, back), hi = _mm256_unpackhi_epi64(front, back);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(lo, hi, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_permute2x128_si256(lo, hi, 0x31));
  }
  scalar(key, lane, first + i, count - i, out);
}
#endif

using Blocks = void (*)(std::uint64_t, std::uint64_t, std::uint64_t, std::int64_t, std::uint16_t*);

Blocks choose() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return avx512;
  if (__builtin_cpu_supports("avx2")) return avx2;
#endif
  return scalar;
}

}  // namespace

void philox_blocks(std::uint64_t key, std::uint64_t lane, std::uint64_t first, std::int64_t count,
                   std::uint16_t* out) {
  static const Blocks blocks = choose();
  blocks(key, lane, first, count, out);
}

}  // namespace finesweep::worker::cpu
