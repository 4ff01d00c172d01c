#include "worker/models/rotary.h"

#include <ATen/core/Tensor.h>

#include "tests/parity/fixtures.h"

namespace finesweep::parity {
namespace {

TEST(RotaryParity, frequencies_are_the_reference_s) {
  int compared = 0;
  const nlohmann::json cases = read_json(fixtures() / "expected" / "rope_inv_freq.json");
  for (const auto& [name, facts] : cases.items()) {
    SCOPED_TRACE(name);
    const auto expected = facts["inv_freq"].get<std::vector<double>>();
    const auto size = static_cast<std::int64_t>(2 * expected.size());
    const auto read = worker::read_rotary({{"rope_parameters", facts["rope_parameters"]}}, size, 128);
    ASSERT_TRUE(read.ok()) << read.error().message;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(read->inverse[static_cast<std::int64_t>(i)].item<double>() / expected[i], 1, 1e-6) << i;
    }
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

}  // namespace
}  // namespace finesweep::parity
