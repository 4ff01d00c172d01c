#pragma once

#include <cstdint>

namespace finesweep::worker::cpu {

/// Philox4x32-10 blocks `first` … `first + count - 1` of the stream (key, lane), 16 bytes each, as
/// RandomStream::block gives them (worker/random.h), with the widest vectors that the CPU has: a few bytes a cycle.
void philox_blocks(std::uint64_t key, std::uint64_t lane, std::uint64_t first, std::int64_t count,
                   std::uint16_t* out);

}  // namespace finesweep::worker::cpu
