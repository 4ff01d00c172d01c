#include "worker/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace finesweep::worker {
namespace {

using ::testing::ElementsAre;

TEST(Random, philox_gives_the_known_answers_of_random123) {
  // kat_vectors of the Random123 distribution, philox4x32 with 10 rounds.
  EXPECT_THAT(philox4x32_10({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Random, numbers_are_the_same_drawn_singly_by_block_and_in_bulk) {
  RandomStream stream(7, purpose::dropout, {3, 1, 4});
  for (const std::size_t count : {1u, 3u, 4u, 63u, 64u, 65u, 1000u}) {
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, (std::uint64_t{1} << 32) - 7}) {
      std::vector<std::uint32_t> bulk(count);
      stream.fill(bulk.data(), count, first);
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(bulk[i], stream.block(first + i / 4)[i % 4]);
    }
  }
  RandomStream drawing = stream;
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(drawing.next_u32(), stream.block(i / 4)[i % 4]);
}

TEST(Random, streams_differ_by_seed_purpose_and_every_index_and_by_nothing_else) {
  const auto first = [](const RandomStream& stream) { return stream.block(0); };
  std::set<std::array<std::uint32_t, 4>> seen;
  std::size_t made = 0;
  for (std::uint64_t seed : {0, 1, 2}) {
    for (auto what : {purpose::data_order, purpose::data_limit, purpose::initialisation, purpose::dropout}) {
      seen.insert(first({seed, what})), ++made;
      for (std::uint64_t a : {0, 1, 2}) {
        seen.insert(first({seed, what, {a}})), ++made;
        for (std::uint64_t b : {0, 1, 2}) seen.insert(first({seed, what, {a, b}})), ++made;
      }
    }
  }
  EXPECT_EQ(seen.size(), made);
  EXPECT_EQ(first({1, "dropout", {2, 3}}), first({1, purpose::dropout, {2, 3}}));
}

TEST(Random, a_stream_never_changes_between_versions) {
  // What a published result depends on: a change here needs a new result version.
  EXPECT_EQ(hash_name("bert.pooler.dense.weight"), 16077645335650636584u);
  const RandomStream stream(42, purpose::data_order, {1});
  EXPECT_THAT(random_permutation(8, stream), ElementsAre(7, 3, 4, 0, 2, 1, 5, 6));
}

TEST(Random, a_permutation_is_unbiased) {
  std::map<std::vector<std::int64_t>, int> counts;
  const int draws = 24'000;
  for (int i = 0; i < draws; ++i) {
    ++counts[random_permutation(4, RandomStream(9, purpose::data_order, {static_cast<std::uint64_t>(i)}))];
  }
  EXPECT_EQ(counts.size(), 24u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_squared, 49.7);  // 23 degrees of freedom, one in a thousand
  EXPECT_TRUE(random_permutation(0, RandomStream(1, purpose::data_order)).empty());
}

TEST(Random, bounded_numbers_stay_below_their_bound_even_where_rejection_is_likely) {
  RandomStream stream(3, purpose::data_order);
  const std::uint64_t bound = (std::uint64_t{1} << 63) + 1;
  double mean = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::uint64_t value = stream.next_below(bound);
    ASSERT_LT(value, bound);
    mean += static_cast<double>(value) / static_cast<double>(bound) / 4000;
  }
  EXPECT_NEAR(mean, 0.5, 0.02);
}

TEST(Random, uniform_and_normal_have_their_moments_and_do_not_depend_on_the_count) {
  const RandomStream stream(5, purpose::initialisation, {hash_name("classifier.weight")});
  std::vector<float> uniform(100'000), normal(100'000), fewer(777);
  fill_uniform(uniform.data(), uniform.size(), -0.5f, 0.25f, stream);
  EXPECT_GE(*std::min_element(uniform.begin(), uniform.end()), -0.5f);
  EXPECT_LT(*std::max_element(uniform.begin(), uniform.end()), 0.25f);
  fill_normal(normal.data(), normal.size(), 1.0f, 2.0f, stream);
  double mean = 0, square = 0, fourth = 0;
  for (const float value : normal) mean += value / 1e5;
  for (const float value : normal) square += (value - mean) * (value - mean) / 1e5;
  for (const float value : normal) fourth += std::pow(value - mean, 4) / 1e5;
  EXPECT_NEAR(mean, 1.0, 0.02);
  EXPECT_NEAR(square, 4.0, 0.06);
  EXPECT_NEAR(fourth / (square * square), 3.0, 0.1);
  fill_normal(fewer.data(), fewer.size(), 1.0f, 2.0f, stream);
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), normal.begin()));
}

}  // namespace
}  // namespace finesweep::worker
