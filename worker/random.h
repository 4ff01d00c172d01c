#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace finesweep::worker {

/// Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A keyed bijection of 128
/// bits whose outputs for counters 0, 1, 2, … are the random numbers: any of them can be had without those before
/// it, in any order, on any device.
constexpr std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                                     std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
        static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// What the numbers of a stream are for. Results depend on these words: they are never renamed or reused.
namespace purpose {
inline constexpr std::string_view data_order = "data order";          // index: epoch, from 0
inline constexpr std::string_view data_limit = "data limit";          // indices: none; seeded by the sweep's seed
inline constexpr std::string_view initialisation = "initialisation";  // index: hash_name(tensor)
inline constexpr std::string_view dropout = "dropout";    // indices: optimiser step, site, row in the step
inline constexpr std::string_view sampling = "sampling";  // index: row of the split; block: number of the token
inline constexpr std::string_view benchmark_tokens = "benchmark tokens";  // indices: none
}  // namespace purpose

/// A stable 64-bit hash, for streams keyed by a tensor's name.
std::uint64_t hash_name(std::string_view name);

/// An endless sequence of random numbers, fixed by (seed, purpose, indices) alone: neither by the host, nor by the
/// thread, nor by what was drawn from other streams. Number i of the sequence is lane i % 4 of the Philox block
/// with
///
///   key     = 64 bits mixed from seed and purpose           counter = {i / 4 (low 64 bits), `lane()` (high 64
///   bits)}
///
/// so a kernel that is given key() and lane() can draw the same numbers. Copying copies the position.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::string_view purpose, std::initializer_list<std::uint64_t> indices = {});

  std::uint64_t key() const { return key_; }
  std::uint64_t lane() const { return lane_; }

  /// Random access: the four numbers 4·index … 4·index + 3. Does not move the position.
  std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    return philox4x32_10({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                          static_cast<std::uint32_t>(lane_), static_cast<std::uint32_t>(lane_ >> 32)},
                         {static_cast<std::uint32_t>(key_), static_cast<std::uint32_t>(key_ >> 32)});
  }
  /// Numbers 4·first_block … 4·first_block + count - 1, vectorised (5 GB/s on one core with AVX2). Does not move
  /// the position.
  void fill(std::uint32_t* out, std::size_t count, std::uint64_t first_block = 0) const;

  /// The next number, and what is made of it.
  std::uint32_t next_u32();
  std::uint64_t next_u64();
  /// Uniform over 0 … bound - 1, without bias (Lemire 2019, "Fast Random Integer Generation in an Interval").
  std::uint64_t next_below(std::uint64_t bound);

 private:
  std::uint64_t key_ = 0, lane_ = 0;
  std::uint64_t position_ = 0;
  std::array<std::uint32_t, 4> current_{};
};

/// Every permutation of 0 … count - 1 is equally likely (Fisher–Yates).
std::vector<std::int64_t> random_permutation(std::int64_t count, RandomStream stream);

/// Fills from the stream's numbers 0 … (position is not used): element i depends on i alone.
///   uniform  in [low, high), 24 random bits each
///   normal   Box–Muller in double precision, rounded to float
void fill_uniform(float* out, std::size_t count, float low, float high, const RandomStream& stream);
void fill_normal(float* out, std::size_t count, float mean, float deviation, const RandomStream& stream);

}  // namespace finesweep::worker
