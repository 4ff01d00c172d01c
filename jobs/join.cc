#include "jobs/join.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "jobs/json.h"
#include "jobs/sha256.h"

namespace finesweep {

namespace {

constexpr std::array<std::uint8_t, 4> kJoinMagic{'F', 'S', 'W', 'J'};
constexpr std::size_t kNonceAt = 8, kProofAt = kNonceAt + sizeof(Secret);

void put_beginning(std::uint8_t* out, const Secret& nonce) {
  std::copy(kJoinMagic.begin(), kJoinMagic.end(), out);
  out[4] = static_cast<std::uint8_t>(kFrameVersion);
  out[5] = static_cast<std::uint8_t>(kFrameVersion >> 8);
  out[6] = out[7] = 0;
  std::copy(nonce.begin(), nonce.end(), out + kNonceAt);
}

Status check_beginning(const std::uint8_t* bytes) {
  if (!std::equal(kJoinMagic.begin(), kJoinMagic.end(), bytes))
    return Error{"it does not speak finesweep's protocol"};
  const int version = bytes[4] | bytes[5] << 8;
  if (version != kFrameVersion)
    return Error{"it speaks version " + std::to_string(version) + " of the protocol, this build " +
                 std::to_string(kFrameVersion) + ": all processes of a sweep must be of one build"};
  return {};
}

Secret proof(const Secret& token, std::string_view role, const Greeting& greeting, const Answer& answer) {
  Bytes text(role.begin(), role.end());
  text.insert(text.end(), greeting.begin() + kNonceAt, greeting.end());
  text.insert(text.end(), answer.begin() + kNonceAt, answer.begin() + kProofAt);
  Secret mac;
  HMAC(EVP_sha256(), token.data(), static_cast<int>(token.size()), text.data(), text.size(), mac.data(), nullptr);
  return mac;
}

/// In a time that does not depend on the bytes.
bool same(const Secret& mac, const std::uint8_t* bytes) {
  return CRYPTO_memcmp(mac.data(), bytes, mac.size()) == 0;
}

Result<Secret> parse_secret(const std::string& hex) {
  Secret secret;
  if (hex.size() != 2 * secret.size()) return Error{"the token must have 64 hex digits"};
  for (std::size_t i = 0; i < secret.size(); ++i) {
    const char* digits = hex.data() + 2 * i;
    if (const auto [end, error] = std::from_chars(digits, digits + 2, secret[i], 16); end != digits + 2)
      return Error{"the token must have 64 hex digits"};
  }
  return secret;
}

}  // namespace

Result<Secret> random_secret() {
  Secret secret;
  if (RAND_bytes(secret.data(), static_cast<int>(secret.size())) != 1)
    return Error{"libcrypto has no random numbers to give"};
  return secret;
}

std::string write_join_ticket(const JoinTicket& ticket) {
  const Json json{{"host", ticket.host},
                  {"port", ticket.port},
                  {"token", to_hex(ticket.token)},
                  {"run_directory", ticket.run_directory}};
  return json.dump(1) + "\n";
}

Result<JoinTicket> parse_join_ticket(const std::string& text, const std::string& where) {
  const auto json = parse_json(text, where);
  if (!json) return json.error();
  try {
    JoinTicket ticket;
    ticket.host = json->at("host").get<std::string>();
    ticket.port = checked_integer<int>(json->at("port"));
    ticket.run_directory = json->at("run_directory").get<std::string>();
    const auto token = parse_secret(json->at("token").get<std::string>());
    if (!token) return Error{where + ": " + token.error().message};
    ticket.token = *token;
    if (ticket.port < 1 || ticket.port > 65535)
      return Error{where + ": " + std::to_string(ticket.port) + " is no port"};
    return ticket;
  } catch (const std::exception& error) {
    return Error{where + ": not as `finesweep run --join-port` writes it (" + error.what() + ")"};
  }
}

Greeting greet(const Secret& nonce) {
  Greeting greeting;
  put_beginning(greeting.data(), nonce);
  return greeting;
}

Result<Answer> answer_greeting(const Secret& token, const Greeting& greeting, const Secret& nonce) {
  if (Status known = check_beginning(greeting.data()); !known) return known.error();
  Answer answer{};
  put_beginning(answer.data(), nonce);
  const Secret mac = proof(token, "worker", greeting, answer);
  std::copy(mac.begin(), mac.end(), answer.begin() + kProofAt);
  return answer;
}

Result<Confirmation> judge_answer(const Secret& token, const Greeting& greeting, const Answer& answer) {
  if (Status known = check_beginning(answer.data()); !known) return known.error();
  if (!same(proof(token, "worker", greeting, answer), answer.data() + kProofAt))
    return Error{"it does not know the token"};
  return proof(token, "coordinator", greeting, answer);
}

Status check_confirmation(const Secret& token, const Greeting& greeting, const Answer& answer,
                          const Confirmation& confirmation) {
  if (!same(proof(token, "coordinator", greeting, answer), confirmation.data()))
    return Error{"who listens there does not know the token"};
  return {};
}

}  // namespace finesweep
