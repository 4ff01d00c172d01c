#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "worker/generation/beam_search.h"
#include "worker/generation/sampling.h"

namespace finesweep::worker {
namespace {

using Candidate = BeamSearch::Candidate;

/// How often each token is drawn, over an even grid of uniform numbers.
std::map<std::int64_t, double> shares(const std::vector<float>& logits, const SamplingOptions& options) {
  constexpr int draws = 20000;
  std::map<std::int64_t, double> share;
  for (int i = 0; i < draws; ++i) share[sample_token(logits, options, (i + 0.5) / draws)] += 1.0 / draws;
  return share;
}

TEST(Sampling, tokens_are_drawn_by_their_softmax) {
  const std::vector<float> logits{0.5f, -1.0f, 2.0f, 0.0f};
  double total = 0;
  for (const float logit : logits) total += std::exp(logit);
  const auto share = shares(logits, {1.0, 0, 1.0});
  for (std::size_t i = 0; i < logits.size(); ++i) {
    EXPECT_NEAR(share.at(static_cast<std::int64_t>(i)), std::exp(logits[i]) / total, 2e-4);
  }
}

TEST(Sampling, temperature_divides_the_logits) {
  const std::vector<float> logits{1.0f, 2.0f};
  const auto share = shares(logits, {0.5, 0, 1.0});
  EXPECT_NEAR(share.at(1) / share.at(0), std::exp(2.0), 0.01);
}

TEST(Sampling, top_k_keeps_the_likeliest_and_what_equals_the_last) {
  const std::vector<float> logits{1.0f, 3.0f, 2.0f, 2.0f, 0.0f};
  const auto share = shares(logits, {1.0, 2, 1.0});
  EXPECT_EQ(share.size(), 3u);
  EXPECT_TRUE(share.contains(1) && share.contains(2) && share.contains(3));
}

TEST(Sampling, top_p_keeps_the_fewest_that_reach_it) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits{std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  EXPECT_EQ(shares(logits, {1.0, 0, 0.75}).size(), 2u);
  EXPECT_EQ(shares(logits, {1.0, 0, 0.85}).size(), 3u);
  EXPECT_EQ(shares(logits, {1.0, 0, 0.01}).size(), 1u);
  const auto share = shares(logits, {1.0, 0, 0.75});
  EXPECT_NEAR(share.at(1), 0.5 / 0.8, 2e-4);
}

TEST(Sampling, top_k_goes_before_top_p) {
  const std::vector<float> logits{std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  // Of the two likeliest the first alone has 4/7.
  EXPECT_EQ(shares(logits, {1.0, 2, 0.5}).size(), 1u);
  EXPECT_EQ(shares(logits, {1.0, 2, 0.6}).size(), 2u);
}

TEST(Sampling, log_probabilities_are_those_of_the_softmax_however_large_the_logits) {
  const std::vector<float> logits{1000.0f, 1001.0f};
  EXPECT_NEAR(log_probability(logits, 1), -std::log1p(std::exp(-1.0)), 1e-9);
}

BeamSearch::Options two_beams(std::int64_t max_new_tokens) {
  return {2, max_new_tokens, 1.0, {9}};
}

TEST(BeamSearch, beams_that_do_not_end_run_on) {
  BeamSearch search(two_beams(5));
  ASSERT_EQ(search.candidates_wanted(), 4);
  const std::vector<Candidate> first{{0, 1, -0.1f}, {0, 2, -0.2f}, {0, 3, -0.3f}, {0, 4, -0.4f}};
  EXPECT_EQ(search.advance(first), (std::vector<std::int64_t>{0, 0}));
  const std::vector<Candidate> second{{1, 5, -0.4f}, {0, 6, -0.5f}, {1, 7, -0.6f}, {0, 8, -0.7f}};
  EXPECT_EQ(search.advance(second), (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(search.running()[0].tokens, (std::vector<std::int64_t>{2, 5}));
  EXPECT_FALSE(search.over());
}

TEST(BeamSearch, an_end_counts_only_among_the_best_beams) {
  BeamSearch search(two_beams(5));
  const std::vector<Candidate> first{{0, 9, -0.1f}, {0, 2, -0.2f}, {0, 9, -0.3f}, {0, 4, -0.4f}};
  EXPECT_EQ(search.advance(first), (std::vector<std::int64_t>{0, 0}));
  ASSERT_EQ(search.finished().size(), 1u);
  EXPECT_EQ(search.finished()[0].tokens, (std::vector<std::int64_t>{9}));
}

TEST(BeamSearch, a_score_is_divided_by_the_length_with_its_end) {
  BeamSearch search(two_beams(5));
  search.advance(std::vector<Candidate>{{0, 1, -1.0f}, {0, 2, -2.0f}, {0, 3, -3.0f}, {0, 4, -4.0f}});
  search.advance(std::vector<Candidate>{{0, 9, -1.5f}, {1, 5, -2.5f}, {1, 6, -3.0f}, {0, 7, -4.0f}});
  ASSERT_EQ(search.finished().size(), 1u);
  EXPECT_FLOAT_EQ(search.finished()[0].score, -0.75f);
}

TEST(BeamSearch, it_is_over_where_no_running_beam_beats_the_worst_finished_one) {
  BeamSearch search(two_beams(50));
  search.advance(std::vector<Candidate>{{0, 9, -0.1f}, {0, 2, -1.0f}, {0, 3, -5.0f}, {0, 4, -6.0f}});
  EXPECT_FALSE(search.over());
  search.advance(std::vector<Candidate>{{0, 9, -1.2f}, {0, 5, -4.0f}, {1, 6, -6.0f}, {1, 7, -7.0f}});
  EXPECT_TRUE(search.over());
  EXPECT_EQ(search.finished().size(), 2u);
}

TEST(BeamSearch, at_the_longest_length_running_beams_are_finished) {
  BeamSearch search(two_beams(1));
  search.advance(std::vector<Candidate>{{0, 1, -0.1f}, {0, 2, -0.2f}, {0, 3, -0.3f}, {0, 4, -0.4f}});
  EXPECT_TRUE(search.over());
  ASSERT_EQ(search.finished().size(), 2u);
  EXPECT_EQ(search.finished()[1].tokens, (std::vector<std::int64_t>{2}));
}

}  // namespace
}  // namespace finesweep::worker
