#include "worker/quantization/nf4.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "worker/quantization/nf4_blocks.h"
#include "worker/quantization/nf4_cuda.h"
#include "worker/quantization/nf4_reference.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t kGrain = 1 << 15;

/// create_dynamic_map() of bitsandbytes: for each power of ten from 1e-6 to 1, the middles of 1, 2, 4, …, 64 equal
/// parts of [0.1, 1], with both signs; 0 and 1. Computed as its linspace is, in fp32 with fused multiply-add.
std::array<float, 256> make_dynamic_map() {
  std::array<float, 256> map{};
  std::size_t filled = 0;
  const float begin = 0.1f, end = 1;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    const float step = (end - begin) / static_cast<float>(parts);
    const auto boundary = [&](int k) {
      return k < (parts + 1) / 2 ? std::fma(step, static_cast<float>(k), begin)
                                 : std::fma(-step, static_cast<float>(parts - k), end);
    };
    const auto power = static_cast<float>(std::pow(10.0, i - 6));
    for (int k = 0; k < parts; ++k) {
      const float middle = power * ((boundary(k) + boundary(k + 1)) / 2);
      map[filled++] = middle;
      map[filled++] = -middle;
    }
  }
  map[filled++] = 0;
  map[filled++] = 1;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

std::int64_t Nf4Tensor::values() const {
  std::int64_t values = 1;
  for (const std::int64_t size : shape) values *= size;
  return values;
}

std::int64_t Nf4Tensor::blocks() const {
  return (values() + block_size - 1) / block_size;
}

std::int64_t Nf4Tensor::bytes() const {
  std::int64_t bytes = static_cast<std::int64_t>(packed.nbytes());
  if (!nested) return bytes + static_cast<std::int64_t>(absmax.nbytes());
  return bytes +
         static_cast<std::int64_t>(nested->codes.nbytes() + nested->absmax.nbytes() + sizeof(nested->offset));
}

Nf4Tensor Nf4Tensor::to(c10::Device device) const {
  Nf4Tensor moved = *this;
  moved.packed = packed.to(device);
  if (absmax.defined()) moved.absmax = absmax.to(device);
  if (nested) {
    moved.nested->codes = nested->codes.to(device);
    moved.nested->absmax = nested->absmax.to(device);
    moved.nested->map = nested->map.to(device);
  }
  return moved;
}

const float* nf4_levels() {
  // Quantiles of the normal distribution (QLoRA, appendix E), as bitsandbytes spells them.
  alignas(64) static constexpr std::array<float, 16> levels = {-1.0f,
                                                               -0.6961928009986877f,
                                                               -0.5250730514526367f,
                                                               -0.39491748809814453f,
                                                               -0.28444138169288635f,
                                                               -0.18477343022823334f,
                                                               -0.09105003625154495f,
                                                               0.0f,
                                                               0.07958029955625534f,
                                                               0.16093020141124725f,
                                                               0.24611230194568634f,
                                                               0.33791524171829224f,
                                                               0.44070982933044434f,
                                                               0.5626170039176941f,
                                                               0.7229568362236023f,
                                                               1.0f};
  return levels.data();
}

at::Tensor dynamic_map() {
  static const at::Tensor map = [] {
    const std::array<float, 256> levels = make_dynamic_map();
    return at::tensor(c10::ArrayRef<float>(levels.data(), levels.size()), at::kFloat);
  }();
  return map;
}

Nf4Tensor quantize_nf4(const at::Tensor& w, const Nf4Options& options) {
  if (!w.is_cpu()) return reference::quantize_nf4(w, options);
  Nf4Tensor result;
  result.shape = w.sizes().vec();
  result.dtype = w.scalar_type();
  result.block_size = options.block_size;
  const std::int64_t values = result.values(), blocks = result.blocks(), block_size = options.block_size;
  result.packed = at::empty({(values + 1) / 2}, at::kByte);
  result.absmax = at::empty({blocks}, at::kFloat);
  const at::Tensor flat = w.detach().to(at::kFloat).contiguous();
  const float* from = flat.const_data_ptr<float>();
  auto* packed = result.packed.mutable_data_ptr<std::uint8_t>();
  auto* absmax = result.absmax.mutable_data_ptr<float>();
  // Two blocks always fill whole bytes, whatever their size.
  const std::int64_t pairs_of_blocks = (blocks + 1) / 2;
  at::parallel_for(0, pairs_of_blocks, std::max<std::int64_t>(1, kGrain / (2 * block_size)),
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t pairs_a_piece = std::max<std::int64_t>(1, 4096 / (2 * block_size));
                     std::vector<std::uint8_t> codes(
                         static_cast<std::size_t>(std::min(pairs_a_piece, end - begin) * 2 * block_size + 1));
                     for (std::int64_t pair = begin; pair < end; pair += pairs_a_piece) {
                       const std::int64_t first = 2 * pair, first_value = first * block_size;
                       const std::int64_t last_value =
                           std::min(values, 2 * std::min(end, pair + pairs_a_piece) * block_size);
                       const std::int64_t whole = (last_value - first_value) / block_size,
                                          rest = (last_value - first_value) % block_size;
                       cpu::encode_blocks(from + first_value, whole, block_size, absmax + first, codes.data());
                       if (rest > 0) {
                         cpu::encode_last_block(from + last_value - rest, rest, absmax + first + whole,
                                                codes.data() + whole * block_size);
                       }
                       // An odd last value is paired with a zero.
                       codes[static_cast<std::size_t>(last_value - first_value)] = 7;
                       cpu::pack_codes(codes.data(), (last_value - first_value + 1) / 2, packed + first_value / 2);
                     }
                   });
  if (options.double_quantization) {
    result.nested = reference::quantize_scales(result.absmax);
    result.absmax = at::Tensor();
  }
  return result;
}

at::Tensor dequantize(const Nf4Tensor& tensor, at::ScalarType type) {
  if (cuda::has_kernels(tensor)) {
    const at::Tensor result = at::empty(tensor.shape, tensor.packed.options().dtype(type));
    cuda::dequantize(tensor, 0, result);
    return result;
  }
  if (!tensor.packed.is_cpu()) return reference::dequantize(tensor, type);
  const at::Tensor result = at::empty(tensor.shape, type);
  const cpu::Nf4View view = cpu::view_of(tensor);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, type, "dequantize_nf4", [&] {
    if constexpr (!std::is_same_v<scalar_t, double>) {
      auto* to = result.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, tensor.values(), kGrain, [&](std::int64_t begin, std::int64_t end) {
        cpu::decode_range(view, begin, end, to + begin);
      });
    }
  });
  return result;
}

at::Tensor block_scales(const Nf4Tensor& tensor) {
  if (!tensor.packed.is_cpu()) return reference::block_scales(tensor);
  const at::Tensor scales = at::empty({tensor.blocks()}, at::kFloat);
  cpu::scales_of_blocks(cpu::view_of(tensor), 0, tensor.blocks(), scales.mutable_data_ptr<float>());
  return scales;
}

}  // namespace finesweep::worker
