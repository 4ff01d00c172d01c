// What strangers send before they have shown that they know the token, on either side, and join.json: no crash, and
// nobody gets in without it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "jobs/join.h"

namespace finesweep {
namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

/// The first bytes of the input; what is missing is 0.
template <typename Array>
Array beginning(const std::uint8_t* data, std::size_t size) {
  Array array{};
  std::copy(data, data + std::min(size, array.size()), array.begin());
  return array;
}

void check(const std::uint8_t* data, std::size_t size) {
  const Secret token{7, 7, 7}, nonce{1, 2, 3};
  const Greeting ours = greet(nonce);
  const auto answer = beginning<Answer>(data, size);
  require(!judge_answer(token, ours, answer), "somebody was admitted without the token");

  const auto greeting = beginning<Greeting>(data, size);
  if (const auto said = answer_greeting(token, greeting, nonce)) {
    const auto confirmation = beginning<Confirmation>(data, size);
    require(!check_confirmation(token, greeting, *said, confirmation), "somebody passed for the coordinator");
    require(judge_answer(token, greeting, *said).ok(), "a worker that knows the token was turned away");
  }

  if (size >= kFrameHeaderBytes)
    if (const auto bytes = frame_size(data))
      require(*bytes <= kMaxPayload + kFrameHeaderBytes, "a frame longer than any message");

  const std::string text(data, data + size);
  if (const auto ticket = parse_join_ticket(text, "join.json")) {
    const auto again = parse_join_ticket(write_join_ticket(*ticket), "again");
    require(again && again->host == ticket->host && again->port == ticket->port && again->token == ticket->token &&
                again->run_directory == ticket->run_directory,
            "a ticket that was understood cannot be written again");
  }
}

}  // namespace
}  // namespace finesweep

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  finesweep::check(data, size);
  return 0;
}
