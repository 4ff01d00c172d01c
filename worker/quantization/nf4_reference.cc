#include "worker/quantization/nf4_reference.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

namespace finesweep::worker::reference {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

at::Tensor levels_on(const at::Tensor& like) {
  return at::tensor(c10::ArrayRef<float>(nf4_levels(), 16), at::kFloat).to(like.device());
}

}  // namespace

Blockwise quantize_blockwise(const at::Tensor& values, const at::Tensor& levels, std::int64_t block_size) {
  const at::Tensor flat = values.reshape({-1}).to(at::kFloat);
  const std::int64_t count = flat.size(0), blocks = ceil_div(count, block_size), last = count - count % block_size;
  const at::Tensor padded = at::constant_pad_nd(flat, {0, blocks * block_size - count}).view({blocks, block_size});
  Blockwise result;
  const at::Tensor finite = (padded - padded).eq(0).all(1);
  result.absmax = at::where(finite, padded.abs().amax(1), at::full({}, NAN, padded.options()));
  // A smaller divisor would have no finite inverse.
  const at::Tensor divisor = result.absmax.clamp_min(1e-38).unsqueeze(1);
  // Whole blocks are multiplied by the inverse and a short last one is divided, as bitsandbytes does: the two
  // differ in the last bit.
  const at::Tensor whole = (padded * divisor.reciprocal()).reshape({-1}).narrow(0, 0, last);
  const at::Tensor part = (padded / divisor).reshape({-1}).narrow(0, last, count - last);
  const at::Tensor scaled = at::cat({whole, part}).clamp(-1, 1);
  const std::int64_t n = levels.size(0);
  const at::Tensor bounds = (levels.narrow(0, 0, n - 1) + levels.narrow(0, 1, n - 1)) / 2;
  result.codes = at::bucketize(scaled.nan_to_num(-1), bounds, /*out_int32=*/true).to(at::kByte);
  return result;
}

NestedScales quantize_scales(const at::Tensor& absmax) {
  NestedScales nested;
  nested.map = dynamic_map().to(absmax.device());
  // On the CPU: a GPU adds up in another order, and the bytes would not be those of bitsandbytes' files.
  const at::Tensor offset = absmax.numel() > 0 ? absmax.cpu().mean() : at::zeros({}, at::kFloat);
  nested.offset = offset.item<float>();
  const Blockwise scales = quantize_blockwise(absmax - offset, nested.map, nested.block_size);
  nested.codes = scales.codes;
  nested.absmax = scales.absmax;
  return nested;
}

Nf4Tensor quantize_nf4(const at::Tensor& w, const Nf4Options& options) {
  Nf4Tensor result;
  result.shape = w.sizes().vec();
  result.dtype = w.scalar_type();
  result.block_size = options.block_size;
  const Blockwise values = quantize_blockwise(w, levels_on(w), options.block_size);
  const std::int64_t pairs = ceil_div(values.codes.size(0), 2);
  // An odd last value is paired with a zero.
  const at::Tensor codes =
      at::constant_pad_nd(values.codes, {0, 2 * pairs - values.codes.size(0)}, 7).view({pairs, 2});
  result.packed = codes.select(1, 0) * 16 + codes.select(1, 1);
  if (!options.double_quantization) {
    result.absmax = values.absmax;
    return result;
  }
  result.nested = quantize_scales(values.absmax);
  return result;
}

at::Tensor block_scales(const Nf4Tensor& tensor) {
  if (!tensor.nested) return tensor.absmax;
  const NestedScales& nested = *tensor.nested;
  const at::Tensor levels = nested.map.index_select(0, nested.codes.to(at::kInt));
  const at::Tensor absmax = nested.absmax.repeat_interleave(nested.block_size).narrow(0, 0, tensor.blocks());
  return (levels * absmax).add_(nested.offset);
}

at::Tensor dequantize(const Nf4Tensor& tensor, at::ScalarType type) {
  const std::int64_t values = tensor.values();
  const at::Tensor codes = at::stack({tensor.packed.div(16, "floor"), tensor.packed.remainder(16)}, 1);
  const at::Tensor levels =
      levels_on(tensor.packed).index_select(0, codes.view({-1}).to(at::kInt)).narrow(0, 0, values);
  const at::Tensor scales =
      reference::block_scales(tensor).repeat_interleave(tensor.block_size).narrow(0, 0, values);
  return (levels * scales).to(type).view(tensor.shape);
}

}  // namespace finesweep::worker::reference
