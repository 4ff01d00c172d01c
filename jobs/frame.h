#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"

namespace finesweep {

// Everything that processes of finesweep say to each other, over MPI, over TCP and over the socketpair to the
// runner, travels in frames, little-endian:
//
//   offset  bytes
//   0       4      magic "FSWP"
//   4       2      version of the protocol (kFrameVersion)
//   6       2      message type (jobs/messages.h); numbers are never reused
//   8       4      payload length in bytes, at most kMaxPayload
//   12      4      CRC-32 of the payload
//   16      …      payload: the message in CBOR (RFC 8949)

inline constexpr std::uint16_t kFrameVersion = 2;
inline constexpr std::size_t kFrameHeaderBytes = 16;
inline constexpr std::size_t kMaxPayload = std::size_t{64} << 20;

using Bytes = std::vector<std::uint8_t>;

struct Frame {
  std::uint16_t type = 0;
  Bytes payload;
};

Bytes encode_frame(std::uint16_t type, const Bytes& payload);

/// Decodes one whole frame, as MPI delivers it; trailing or missing bytes are an Error.
Result<Frame> decode_frame(const std::uint8_t* data, std::size_t bytes);

/// Bytes of the whole frame that begins with these kFrameHeaderBytes. The Error: no frame of this build begins so.
Result<std::size_t> frame_size(const std::uint8_t* header);

/// Takes a byte stream apart into frames, as a socket delivers it. After an Error the stream is unusable.
class FrameReader {
 public:
  void append(const std::uint8_t* data, std::size_t bytes);
  /// The next whole frame, or nullopt until more bytes come.
  Result<std::optional<Frame>> next();

 private:
  Bytes buffer_;
  std::size_t begin_ = 0;
};

}  // namespace finesweep
