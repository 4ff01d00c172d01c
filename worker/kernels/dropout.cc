#include "worker/kernels/dropout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/kernels/cpu/philox.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kPerBlock = 8;

void expand(const std::uint16_t* bits, std::uint32_t threshold, float scale, std::int64_t count, float* mask) {
  for (std::int64_t i = 0; i < count; ++i) mask[i] = bits[i] < threshold ? 0.0f : scale;
}

}  // namespace

std::uint64_t dropout_site(std::string_view name) {
  return hash_name(name);
}

Dropout make_dropout(double probability, const DropoutRun& run, std::uint64_t site) {
  Dropout dropout;
  if (!run.active || probability <= 0) return dropout;
  dropout.threshold = static_cast<std::uint32_t>(std::clamp<long>(std::lround(probability * 65536.0), 0, 65535));
  dropout.seed = run.seed;
  dropout.step = run.step;
  dropout.step_on_device = run.step_on_device;
  dropout.site = site;
  return dropout;
}

void dropout_bits(const RandomStream& stream, std::uint64_t first_block, std::int64_t blocks, std::uint16_t* bits) {
  cpu::philox_blocks(stream.key(), stream.lane(), first_block, blocks, bits);
}

at::Tensor dropout_mask(const Dropout& dropout, const TokenLayout& layout, std::int64_t width) {
  at::Tensor mask = at::empty({layout.tokens(), width}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  const std::int64_t blocks = (width + kPerBlock - 1) / kPerBlock;
  std::vector<std::uint16_t> bits(blocks * kPerBlock);
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    const RandomStream stream = dropout.stream(layout, r);
    for (std::int64_t t = layout.starts[r]; t < layout.starts[r + 1]; ++t) {
      dropout_bits(stream, static_cast<std::uint64_t>(t - layout.starts[r]) << 32, blocks, bits.data());
      expand(bits.data(), dropout.threshold, dropout.scale(), width, out + t * width);
    }
  }
  return mask;
}

at::Tensor attention_dropout_mask(const Dropout& dropout, const TokenLayout& layout, std::int64_t r,
                                  std::int64_t heads, std::int64_t queries, std::int64_t keys) {
  at::Tensor mask = at::empty({heads, queries, keys}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  const std::int64_t blocks = (keys + kPerBlock - 1) / kPerBlock;
  std::vector<std::uint16_t> bits(blocks * kPerBlock);
  const RandomStream stream = dropout.stream(layout, r);
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t q = 0; q < queries; ++q, out += keys) {
      dropout_bits(stream, (static_cast<std::uint64_t>(h) << 48) + (static_cast<std::uint64_t>(q) << 24), blocks,
                   bits.data());
      expand(bits.data(), dropout.threshold, dropout.scale(), keys, out);
    }
  }
  return mask;
}

}  // namespace finesweep::worker
