#include "worker/kernels/dropout.h"

#include "tests/kernels/support.h"
#include "worker/kernels/cpu/philox.h"

namespace finesweep::worker {
namespace {

const DropoutRun kDropoutRun{true, 3, 11};

TEST(Philox, vectorised_blocks_are_those_of_the_random_stream) {
  const RandomStream stream(123456789, purpose::dropout, {5, 6, 7});
  for (const std::uint64_t first : {std::uint64_t{0}, (std::uint64_t{1} << 32) - 3, (std::uint64_t{9} << 48) + 1}) {
    for (const std::int64_t count : {1, 7, 8, 21}) {
      std::vector<std::uint16_t> bits(count * 8);
      cpu::philox_blocks(stream.key(), stream.lane(), first, count, bits.data());
      for (std::int64_t i = 0; i < count; ++i) {
        const auto block = stream.block(first + static_cast<std::uint64_t>(i));
        for (int k = 0; k < 8; ++k) {
          EXPECT_EQ(bits[i * 8 + k], static_cast<std::uint16_t>(block[k / 2] >> (16 * (k % 2))));
        }
      }
    }
  }
}

TEST(Dropout, a_mask_does_not_depend_on_padding_nor_on_how_the_batch_is_split) {
  const Dropout dropout = make_dropout(0.1, kDropoutRun, 77);
  const at::Tensor whole = dropout_mask(dropout, *layout_of({6, 9, 4}, 0), 50);
  const at::Tensor padded = dropout_mask(dropout, *layout_of({6, 9, 4}, 13), 50);
  EXPECT_TRUE(at::equal(whole, padded));
  const at::Tensor front = dropout_mask(dropout, *layout_of({6}, 1, 0), 50);
  const at::Tensor back = dropout_mask(dropout, *layout_of({9, 4}, 2, 1), 50);
  EXPECT_TRUE(at::equal(whole, at::cat({front, back})));
}

TEST(Dropout, step_site_seed_and_row_have_masks_of_their_own) {
  const Layout layout = layout_of({30});
  const at::Tensor base = dropout_mask(make_dropout(0.5, kDropoutRun, 1), *layout, 64);
  EXPECT_TRUE(at::equal(base, dropout_mask(make_dropout(0.5, kDropoutRun, 1), *layout, 64)));
  EXPECT_FALSE(at::equal(base, dropout_mask(make_dropout(0.5, kDropoutRun, 2), *layout, 64)));
  EXPECT_FALSE(at::equal(base, dropout_mask(make_dropout(0.5, {true, 4, 11}, 1), *layout, 64)));
  EXPECT_FALSE(at::equal(base, dropout_mask(make_dropout(0.5, {true, 3, 12}, 1), *layout, 64)));
  EXPECT_FALSE(at::equal(base, dropout_mask(make_dropout(0.5, kDropoutRun, 1), *layout_of({30}, 3, 1), 64)));
}

TEST(Dropout, the_share_of_dropped_elements_is_the_probability_and_the_mean_stays) {
  for (const double probability : {0.1, 0.5}) {
    const at::Tensor hidden = dropout_mask(make_dropout(probability, kDropoutRun, 5), *layout_of({500, 500}), 400);
    EXPECT_NEAR(hidden.eq(0).to(at::kFloat).mean().item<double>(), probability, 0.003);
    EXPECT_NEAR(hidden.to(at::kDouble).mean().item<double>(), 1, 0.005);
    const at::Tensor attention =
        attention_dropout_mask(make_dropout(probability, kDropoutRun, 5), *layout_of({100}), 0, 8, 100, 301);
    EXPECT_NEAR(attention.eq(0).to(at::kFloat).mean().item<double>(), probability, 0.003);
  }
}

TEST(Dropout, is_off_outside_of_training_and_at_probability_zero) {
  EXPECT_FALSE(make_dropout(0.1, {false, 3, 11}, 1).active());
  EXPECT_FALSE(make_dropout(0.0, kDropoutRun, 1).active());
}

}  // namespace
}  // namespace finesweep::worker
