#include "jobs/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep {
namespace {

using testing::HasSubstr;

const Bytes kPayload{'1', '2', '3', '4', '5', '6', '7', '8', '9'};

Bytes concatenated(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

Error error_of(const Bytes& bytes) {
  const auto frame = decode_frame(bytes.data(), bytes.size());
  EXPECT_FALSE(frame.ok());
  return frame.ok() ? Error{"none"} : frame.error();
}

TEST(FrameTest, has_the_documented_bytes) {
  // 0xcbf43926 is the check value of CRC-32 over "123456789".
  const Bytes expected{'F', 'S', 'W', 'P', 2, 0, 0x34, 0x12, 9, 0, 0, 0, 0x26, 0x39, 0xf4, 0xcb};
  EXPECT_EQ(encode_frame(0x1234, kPayload), concatenated({expected, kPayload}));
}

TEST(FrameTest, is_decoded_whole) {
  const Bytes bytes = encode_frame(7, kPayload);
  const auto frame = decode_frame(bytes.data(), bytes.size());
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->type, 7);
  EXPECT_EQ(frame->payload, kPayload);
  const Bytes empty = encode_frame(8, {});
  EXPECT_TRUE(decode_frame(empty.data(), empty.size())->payload.empty());
}

TEST(FrameTest, missing_or_surplus_bytes_are_an_error) {
  const Bytes whole = encode_frame(7, kPayload);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_THAT(error_of(Bytes(whole.begin(), whole.begin() + bytes)).message, HasSubstr("cut short"));
  EXPECT_THAT(error_of(concatenated({whole, {0}})).message, HasSubstr("after the end"));
}

TEST(FrameTest, a_flipped_bit_is_noticed_everywhere_but_in_the_type) {
  const Bytes whole = encode_frame(7, kPayload);
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    if (bit / 8 == 6 || bit / 8 == 7) continue;
    Bytes flipped = whole;
    flipped[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    error_of(flipped);
  }
}

TEST(FrameTest, another_protocol_version_says_what_to_do) {
  Bytes bytes = encode_frame(7, kPayload);
  bytes[4] = 99;
  EXPECT_THAT(error_of(bytes).message, HasSubstr("version 99, this build speaks 2"));
  EXPECT_THAT(error_of(bytes).message, HasSubstr("one build"));
}

TEST(FrameTest, an_impossible_length_is_refused_before_it_is_believed) {
  Bytes bytes = encode_frame(7, kPayload);
  bytes[11] = 0xff;
  EXPECT_THAT(error_of(bytes).message, HasSubstr("longer than any message"));
}

TEST(FrameReaderTest, a_stream_comes_apart_the_same_however_it_is_cut) {
  const Bytes stream =
      concatenated({encode_frame(1, kPayload), encode_frame(2, {}), encode_frame(3, Bytes(300, 5))});
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameReader reader;
    std::vector<Frame> frames;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      reader.append(stream.data() + at, std::min(piece, stream.size() - at));
      for (auto next = reader.next(); next->has_value(); next = reader.next()) frames.push_back(std::move(**next));
    }
    ASSERT_EQ(frames.size(), 3u) << piece;
    EXPECT_EQ(frames[0].payload, kPayload);
    EXPECT_EQ(frames[1].type, 2);
    EXPECT_EQ(frames[2].payload, Bytes(300, 5));
  }
}

TEST(FrameReaderTest, megabytes_of_frames_pass_through) {
  FrameReader reader;
  const Bytes frame = encode_frame(5, Bytes(100'000, 9));
  int frames = 0;
  for (int i = 0; i < 40; ++i) {
    reader.append(frame.data(), frame.size() / 2);
    EXPECT_FALSE(reader.next()->has_value());
    reader.append(frame.data() + frame.size() / 2, frame.size() - frame.size() / 2);
    while (reader.next()->has_value()) ++frames;
  }
  EXPECT_EQ(frames, 40);
}

TEST(FrameReaderTest, garbage_is_an_error_and_stays_one) {
  FrameReader reader;
  const Bytes garbage(20, 'x');
  reader.append(garbage.data(), garbage.size());
  EXPECT_FALSE(reader.next());
  const Bytes good = encode_frame(1, kPayload);
  reader.append(good.data(), good.size());
  EXPECT_FALSE(reader.next()) << "where a frame begins is not known any more";
}

}  // namespace
}  // namespace finesweep
