#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "jobs/frame.h"
#include "jobs/result.h"

namespace finesweep {

// A worker that was not started with the sweep joins it over TCP. Before the first frame coordinator and worker
// prove to each other that they know the token of the run's join.json, which itself never travels:
//
//   coordinator → worker   greeting       "FSWJ", kFrameVersion (2 bytes, little-endian), 2 zero bytes, nonce C
//   worker → coordinator   answer         the same beginning, nonce W, HMAC-SHA256(token, "worker" C W)
//   coordinator → worker   confirmation   HMAC-SHA256(token, "coordinator" C W)
//
// Nonces and token have 32 bytes. Who does not know the token learns nothing from what travels, and can neither
// join nor pass for the coordinator. What follows is frames (jobs/frame.h), neither encrypted nor signed.

using Secret = std::array<std::uint8_t, 32>;

/// From the generator of libcrypto.
Result<Secret> random_secret();

/// join.json in a run directory: where the coordinator listens, and what proves that one may join.
struct JoinTicket {
  std::string host;
  int port = 0;
  Secret token{};
  std::string run_directory;  // absolute
};
std::string write_join_ticket(const JoinTicket& ticket);
/// The Error begins with `where`.
Result<JoinTicket> parse_join_ticket(const std::string& text, const std::string& where);

inline constexpr std::size_t kGreetingBytes = 40, kAnswerBytes = 72, kConfirmationBytes = 32;
using Greeting = std::array<std::uint8_t, kGreetingBytes>;
using Answer = std::array<std::uint8_t, kAnswerBytes>;
using Confirmation = std::array<std::uint8_t, kConfirmationBytes>;

/// `nonce` is used for one connection only.
Greeting greet(const Secret& nonce);
/// The worker's. The Error: who greets is no coordinator of this build.
Result<Answer> answer_greeting(const Secret& token, const Greeting& greeting, const Secret& nonce);
/// The coordinator's. The Error: why this stranger may not join.
Result<Confirmation> judge_answer(const Secret& token, const Greeting& greeting, const Answer& answer);
/// The worker's. The Error: who listens there does not know the token.
Status check_confirmation(const Secret& token, const Greeting& greeting, const Answer& answer,
                          const Confirmation& confirmation);

}  // namespace finesweep
