#include "jobs/join.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "jobs/sha256.h"

namespace finesweep {
namespace {

using testing::HasSubstr;

Secret secret(const std::string& text) {
  return sha256(text);
}

class JoinTest : public testing::Test {
 protected:
  const Secret token = secret("token");
  const Greeting greeting = greet(secret("coordinator's nonce"));
  const Answer answer = *answer_greeting(token, greeting, secret("worker's nonce"));
};

TEST_F(JoinTest, who_knows_the_token_is_admitted_and_sees_that_the_other_side_knows_it_too) {
  const auto confirmation = judge_answer(token, greeting, answer);
  ASSERT_TRUE(confirmation) << confirmation.error().message;
  EXPECT_TRUE(check_confirmation(token, greeting, answer, *confirmation));
}

TEST_F(JoinTest, the_token_does_not_travel) {
  const auto confirmation = judge_answer(token, greeting, answer);
  for (const std::string& bytes :
       {std::string(greeting.begin(), greeting.end()), std::string(answer.begin(), answer.end()),
        std::string(confirmation->begin(), confirmation->end())})
    EXPECT_EQ(bytes.find(std::string(token.begin(), token.begin() + 4)), std::string::npos);
}

TEST_F(JoinTest, another_token_a_recorded_answer_and_any_changed_bit_are_refused) {
  const auto refused = [&](const Secret& known, const Greeting& said, const Answer& heard) {
    return !judge_answer(known, said, heard).ok();
  };
  EXPECT_TRUE(refused(secret("another token"), greeting, answer));
  EXPECT_TRUE(refused(token, greet(secret("another connection")), answer)) << "a replayed answer";
  for (std::size_t bit = 0; bit < 8 * answer.size(); ++bit) {
    if (bit / 8 == 6 || bit / 8 == 7) continue;  // reserved
    Answer changed = answer;
    changed[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    EXPECT_TRUE(refused(token, greeting, changed)) << "bit " << bit;
  }
}

TEST_F(JoinTest, who_passes_for_the_coordinator_without_the_token_is_found_out) {
  const auto confirmation = judge_answer(token, greeting, answer);
  for (std::size_t bit = 0; bit < 8 * confirmation->size(); ++bit) {
    Confirmation changed = *confirmation;
    changed[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    EXPECT_FALSE(check_confirmation(token, greeting, answer, changed)) << "bit " << bit;
  }
  // What the worker itself said is no confirmation.
  Confirmation reflected;
  std::copy(answer.end() - kConfirmationBytes, answer.end(), reflected.begin());
  EXPECT_FALSE(check_confirmation(token, greeting, answer, reflected));
}

TEST_F(JoinTest, strangers_and_other_versions_are_told_apart) {
  Greeting other = greeting;
  other[4] ^= 0x40;
  const auto version = answer_greeting(token, other, secret("nonce"));
  ASSERT_FALSE(version);
  EXPECT_THAT(version.error().message, HasSubstr("version"));
  Greeting http{};
  const std::string text = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n";
  std::copy(text.begin(), text.begin() + http.size(), http.begin());
  const auto stranger = answer_greeting(token, http, secret("nonce"));
  ASSERT_FALSE(stranger);
  EXPECT_THAT(stranger.error().message, HasSubstr("does not speak finesweep's protocol"));
}

TEST_F(JoinTest, secrets_are_not_given_twice) {
  std::set<Secret> given;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(given.insert(*random_secret()).second);
}

TEST_F(JoinTest, a_ticket_comes_back_as_it_was_written) {
  const auto ticket = parse_join_ticket(write_join_ticket({"node-3", 4711, token, "/runs/a \"b\""}), "join.json");
  ASSERT_TRUE(ticket) << ticket.error().message;
  EXPECT_EQ(ticket->host, "node-3");
  EXPECT_EQ(ticket->port, 4711);
  EXPECT_EQ(ticket->token, token);
  EXPECT_EQ(ticket->run_directory, "/runs/a \"b\"");
}

TEST_F(JoinTest, what_is_no_ticket_is_refused_with_its_file) {
  const std::string good = to_hex(token);
  const auto text = [](const std::string& port, const std::string& hex) {
    return R"({"host": "h", "port": )" + port + R"(, "token": ")" + hex + R"(", "run_directory": "/r"})";
  };
  ASSERT_TRUE(parse_join_ticket(text("1", good), "f"));
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("{}"), text("0", good), text("65536", good), text("-1", good),
        text("\"1\"", good), text("1.5", good), text("1", ""), text("1", good + "00"),
        text("1", std::string(64, 'g')), text("1", good.substr(2) + " 1")}) {
    const auto ticket = parse_join_ticket(bad, "some/join.json");
    ASSERT_FALSE(ticket) << bad;
    EXPECT_THAT(ticket.error().message, HasSubstr("some/join.json")) << bad;
  }
}

}  // namespace
}  // namespace finesweep
