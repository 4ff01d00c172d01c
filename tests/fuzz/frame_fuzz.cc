// Any bytes from another process, as a stream cut into pieces and as one MPI message: no crash, no hang, and what
// is understood can be said again and means the same.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "jobs/messages.h"

namespace finesweep {
namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check_message(const Frame& frame) {
  const auto message = decode(frame);
  if (!message) {
    require(!message.error().message.empty(), "a message was refused without a reason");
    return;
  }
  const Bytes again = encode(*message);
  const auto second = decode(again.data(), again.size());
  require(second.ok(), "what was understood cannot be said again");
  require(encode(*second) == again, "what was said again means something else");
}

void check(const std::uint8_t* data, std::size_t size) {
  (void)decode(data, size);
  if (size < 2) return;

  // The checksum keeps a fuzzer out of the messages: the first two bytes are the type of a frame around the rest.
  check_message(Frame{static_cast<std::uint16_t>(data[0] % 40), Bytes(data + 2, data + size)});

  // The first byte says how the stream is cut into pieces.
  const std::size_t piece = data[0] % 29 + 1;
  FrameReader in_pieces, whole;
  whole.append(data + 1, size - 1);
  std::vector<Frame> expected;
  bool broken = false;
  while (!broken) {
    auto next = whole.next();
    broken = !next.ok();
    if (broken || !next->has_value()) break;
    expected.push_back(std::move(**next));
  }
  std::size_t seen = 0;
  bool broken_in_pieces = false;
  for (std::size_t at = 1; at < size && !broken_in_pieces; at += piece) {
    in_pieces.append(data + at, std::min(piece, size - at));
    while (true) {
      auto next = in_pieces.next();
      broken_in_pieces = !next.ok();
      if (broken_in_pieces || !next->has_value()) break;
      require(seen < expected.size() && expected[seen].type == (**next).type &&
                  expected[seen].payload == (**next).payload,
              "a stream in pieces gives other frames");
      ++seen;
    }
  }
  require(seen == expected.size() && broken == broken_in_pieces, "a stream in pieces ends elsewhere");
}

}  // namespace
}  // namespace finesweep

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  finesweep::check(data, size);
  return 0;
}
