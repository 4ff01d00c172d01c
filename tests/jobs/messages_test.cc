#include "jobs/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/jobs/examples.h"

namespace finesweep {
namespace {

using testing::HasSubstr;

Result<Message> decode(const Bytes& bytes) {
  return finesweep::decode(bytes.data(), bytes.size());
}

/// A frame of the message's type around another payload.
Bytes with_payload(const Message& message, const Json& payload) {
  const Bytes bytes = encode(message);
  return encode_frame(decode_frame(bytes.data(), bytes.size())->type, Json::to_cbor(payload));
}

TEST(MessagesTest, every_message_comes_back_as_it_was) {
  const auto examples = example_messages();
  ASSERT_EQ(examples.size(), std::variant_size_v<Message>) << "an example of every message";
  std::set<std::uint16_t> types;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    ASSERT_EQ(examples[i].index(), i);
    const Bytes bytes = encode(examples[i]);
    const auto back = decode(bytes);
    ASSERT_TRUE(back) << i << ": " << back.error().message;
    EXPECT_EQ(back->index(), i);
    EXPECT_EQ(encode(*back), bytes) << i;
    types.insert(decode_frame(bytes.data(), bytes.size())->type);
  }
  EXPECT_EQ(types.size(), examples.size()) << "every type has its own number";
}

TEST(MessagesTest, members_arrive_where_they_belong) {
  const auto dispatch = std::get<Dispatch>(*decode(encode(Dispatch{{3, 2}, {{example_job(), 7, {}}}})));
  EXPECT_EQ(dispatch.worker, (WorkerId{3, 2}));
  EXPECT_EQ(dispatch.pack.at(0).attempt, 7);
  EXPECT_EQ(dispatch.pack.at(0).job.seed, example_job().seed);
  const auto finished =
      std::get<Finished>(*decode(encode(Finished{{1, 1}, {JobId::of("x"), 2}, example_outcome(), true})));
  EXPECT_TRUE(finished.crashed);
  EXPECT_EQ(finished.outcome.metrics, example_outcome().metrics);
  const auto welcome = std::get<Welcome>(*decode(encode(Welcome{{1, 1}, "/r", 0.25, 60, 4})));
  EXPECT_EQ(welcome.heartbeat_s, 0.25);
  EXPECT_EQ(welcome.threads, 4);
  const auto hello = std::get<Hello>(*decode(encode(Hello{"node1", 4711, 2, "cuda:2", 81559.5})));
  EXPECT_EQ(hello.pid, 4711);
  EXPECT_EQ(hello.node_index, 2);
  EXPECT_EQ(hello.memory_mb, 81559.5);
  const AttemptKey first{JobId::of("x"), 1}, second{JobId::of("y"), 3};
  Execute pack;
  pack.pack.resize(2);
  pack.pack[1].job.id = second.job;
  pack.pack[1].attempt = second.number;
  pack.pack[1].log = "/logs/y.3.log";
  const auto execute = std::get<Execute>(*decode(encode(pack)));
  ASSERT_EQ(execute.pack.size(), 2u);
  EXPECT_EQ(execute.pack[1].key(), second);
  EXPECT_EQ(execute.pack[1].log, "/logs/y.3.log");
  EXPECT_THAT(std::get<StopExecution>(*decode(encode(StopExecution{{first, second}}))).attempts,
              testing::ElementsAre(first, second));
}

TEST(MessagesTest, numbers_on_the_wire_never_change) {
  const auto type_of = [](const Message& message) {
    const Bytes bytes = encode(message);
    return decode_frame(bytes.data(), bytes.size())->type;
  };
  EXPECT_EQ(type_of(Hello{}), 1);
  EXPECT_EQ(type_of(Finished{}), 3);
  EXPECT_EQ(type_of(Welcome{}), 16);
  EXPECT_EQ(type_of(Rejoin{}), 21);
  EXPECT_EQ(type_of(Alive{}), 22);
  EXPECT_EQ(type_of(RunnerReady{}), 32);
  EXPECT_EQ(type_of(StopExecution{}), 36);
}

TEST(MessagesTest, an_unknown_type_is_an_error) {
  const auto decoded = decode(encode_frame(999, Json::to_cbor(Json::object())));
  ASSERT_FALSE(decoded);
  EXPECT_THAT(decoded.error().message, HasSubstr("unknown message type 999"));
}

TEST(MessagesTest, a_payload_of_another_message_is_an_error) {
  const AttemptKey attempt{JobId::of("x"), 1};
  for (const Json& payload : {Json(), Json(3), Json::array(), Json::object(), Json{{"attempt", 1}},
                              Json{{"attempt", {{"job", "zz"}, {"attempt", 1}}}, {"accepted", true}},
                              Json{{"attempt", attempt}, {"accepted", 1}}}) {
    EXPECT_FALSE(decode(with_payload(Acknowledge{attempt, true}, payload))) << payload;
  }
}

TEST(MessagesTest, a_pack_of_no_jobs_is_an_error) {
  const auto decoded = decode(encode(Execute{.pack = {}, .threads = 1, .cache = "/k", .devices = {}}));
  ASSERT_FALSE(decoded);
  EXPECT_THAT(decoded.error().message, HasSubstr("a pack of no jobs"));
}

TEST(MessagesTest, numbers_that_do_not_fit_are_an_error) {
  for (const Json& number : {Json(std::int64_t{1} << 33), Json(~std::uint64_t{0}), Json(1e30), Json("1")}) {
    EXPECT_FALSE(decode(with_payload(Revoke{}, {{"attempt", {{"job", JobId().hex()}, {"attempt", number}}}})));
    EXPECT_FALSE(decode(with_payload(Goodbye{}, {{"worker", {number, 1}}})));
  }
}

TEST(MessagesTest, deep_nesting_is_an_error) {
  Bytes payload(1 << 20, 0x81);
  payload.push_back(0);
  const auto decoded = decode(encode_frame(3, payload));
  ASSERT_FALSE(decoded);
  EXPECT_THAT(decoded.error().message, HasSubstr("nested too deeply"));
}

TEST(MessagesTest, a_message_cut_short_or_changed_never_does_harm) {
  std::mt19937 random(1);
  int refused = 0;
  for (const Message& message : example_messages()) {
    const Bytes bytes = encode(message);
    const Frame frame = *decode_frame(bytes.data(), bytes.size());
    for (std::size_t length = 0; length < frame.payload.size(); ++length)
      EXPECT_FALSE(finesweep::decode(Frame{frame.type, {frame.payload.begin(), frame.payload.begin() + length}}));
    for (int i = 0; i < 300; ++i) {
      Frame changed = frame;
      for (unsigned change = 0; change <= random() % 4; ++change)
        changed.payload[random() % changed.payload.size()] = static_cast<std::uint8_t>(random());
      const auto decoded = finesweep::decode(changed);
      if (decoded) {
        encode(*decoded);  // whatever was understood can be said again
      } else {
        ++refused;
        EXPECT_FALSE(decoded.error().message.empty());
      }
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace finesweep
