#pragma once

#include <chrono>
#include <cstdint>

namespace finesweep::simulation {

/// SplitMix64: the same numbers on every machine.
class Random {
 public:
  /// Scattered first: seeds that are multiples of the step apart would give one sequence, shifted.
  explicit Random(std::uint64_t seed) : state_(seed) { state_ = next(); }

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int between(int low, int high) {  // both included
    return low + static_cast<int>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(double probability) { return static_cast<double>(next() >> 11) * 0x1p-53 < probability; }
  std::chrono::nanoseconds between(std::chrono::milliseconds low, std::chrono::milliseconds high) {
    return low + std::chrono::microseconds(between(0, static_cast<int>((high - low).count() * 1000)));
  }

 private:
  std::uint64_t state_;
};

}  // namespace finesweep::simulation
