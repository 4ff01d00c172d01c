#include "worker/quantization/int8.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "worker/quantization/nf4_vector.h"

namespace finesweep::worker {
namespace {

using namespace cpu;

constexpr std::int64_t kGrain = 1 << 15;
/// Rows whose largest value is below this have no finite 127 / max: they are multiplied by the power of two first,
/// which changes no bit of the result.
constexpr float kTiny = 0x1p-100f, kLift = 0x1p100f;

typedef std::int8_t EightCodes __attribute__((vector_size(8)));

FINESWEEP_CLONES void quantize_row(const float* w, std::int64_t width, std::int8_t* codes, float* scale) {
  const float absmax = absmax_of(w, width);
  if (!(absmax > 0)) {
    *scale = absmax;
    std::memset(codes, 0, static_cast<std::size_t>(width));
    return;
  }
  *scale = absmax / 127;
  const float lift = absmax < kTiny ? kLift : 1;
  const float inverse = 127 / (absmax * lift);
  for (std::int64_t i = 0; i < width; i += kCodes) {
    const bool whole = i + kCodes <= width;
    const EightFloats v = whole ? load_eight(w + i) : load_eight(w + i, width - i);
    // Adding 1.5 × 2^23 rounds to the nearest integer, ties to even.
    const EightFloats rounded = v * lift * inverse + 12582912.0f - 12582912.0f;
    const EightCodes eight = __builtin_convertvector(__builtin_convertvector(rounded, EightInts), EightCodes);
    std::memcpy(codes + i, &eight, whole ? sizeof(eight) : static_cast<std::size_t>(width - i));
  }
}

template <typename T>
FINESWEEP_INLINE void dequantize_row(const std::int8_t* codes, std::int64_t width, float scale, T* to) {
  std::int64_t i = 0;
  for (; i + kCodes <= width; i += kCodes) {
    EightCodes eight;
    std::memcpy(&eight, codes + i, sizeof(eight));
    store_eight(to + i, __builtin_convertvector(__builtin_convertvector(eight, EightInts), EightFloats) * scale);
  }
  for (; i < width; ++i) to[i] = static_cast<T>(static_cast<float>(codes[i]) * scale);
}

#define FINESWEEP_INT8_CLONES(T)                                                                             \
  FINESWEEP_CLONES void dequantize_clone(const std::int8_t* codes, std::int64_t width, float scale, T* to) { \
    dequantize_row(codes, width, scale, to);                                                                 \
  }
FINESWEEP_INT8_CLONES(float)
FINESWEEP_INT8_CLONES(c10::BFloat16)
FINESWEEP_INT8_CLONES(c10::Half)

std::int64_t rows_of(const at::Tensor& w) {
  return w.dim() == 0 ? 1 : w.size(0);
}

}  // namespace

std::int64_t Int8Tensor::bytes() const {
  return static_cast<std::int64_t>(codes.nbytes() + scale.nbytes());
}

Int8Tensor Int8Tensor::to(c10::Device device) const {
  Int8Tensor moved = *this;
  moved.codes = codes.to(device);
  moved.scale = scale.to(device);
  return moved;
}

Int8Tensor quantize_int8(const at::Tensor& w) {
  if (!w.is_cpu()) return reference::quantize_int8(w);
  Int8Tensor result;
  result.shape = w.sizes().vec();
  result.dtype = w.scalar_type();
  const std::int64_t rows = rows_of(w), width = rows > 0 ? w.numel() / rows : 0;
  const at::Tensor flat = w.detach().to(at::kFloat).contiguous();
  result.codes = at::empty({rows, width}, at::kChar);
  result.scale = at::empty({rows}, at::kFloat);
  const float* from = flat.const_data_ptr<float>();
  auto* codes = result.codes.mutable_data_ptr<std::int8_t>();
  auto* scale = result.scale.mutable_data_ptr<float>();
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, width)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t r = begin; r < end; ++r)
                       quantize_row(from + r * width, width, codes + r * width, scale + r);
                   });
  return result;
}

at::Tensor dequantize(const Int8Tensor& tensor, at::ScalarType type) {
  if (!tensor.codes.is_cpu()) return reference::dequantize(tensor, type);
  const std::int64_t rows = tensor.codes.size(0), width = tensor.codes.size(1);
  const at::Tensor result = at::empty(tensor.shape, type);
  const auto* codes = tensor.codes.const_data_ptr<std::int8_t>();
  const auto* scale = tensor.scale.const_data_ptr<float>();
  const auto into = [&]<typename T>(T* to) {
    at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, width)),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t r = begin; r < end; ++r)
                         dequantize_clone(codes + r * width, width, scale[r], to + r * width);
                     });
  };
  switch (type) {
    case at::kBFloat16:
      into(result.mutable_data_ptr<c10::BFloat16>());
      break;
    case at::kHalf:
      into(result.mutable_data_ptr<c10::Half>());
      break;
    default:
      into(result.mutable_data_ptr<float>());
      break;
  }
  return result;
}

Result<Int8Tensor> int8_from_bitsandbytes(const at::Tensor& weight, const at::Tensor& scb) {
  if (weight.scalar_type() != at::kChar || weight.dim() != 2) return Error{"the weight is no int8 matrix"};
  if (scb.scalar_type() != at::kFloat || scb.numel() != weight.size(0)) {
    return Error{"SCB has not one fp32 number for each of the " + std::to_string(weight.size(0)) + " rows"};
  }
  Int8Tensor result;
  result.shape = weight.sizes().vec();
  // bitsandbytes rounds to fp16 first, and keeps that dtype nowhere.
  result.dtype = at::kHalf;
  result.codes = weight.contiguous();
  result.scale = scb.reshape({-1}) / 127;
  return result;
}

namespace reference {

Int8Tensor quantize_int8(const at::Tensor& w) {
  Int8Tensor result;
  result.shape = w.sizes().vec();
  result.dtype = w.scalar_type();
  const std::int64_t rows = rows_of(w);
  const at::Tensor flat = w.detach().to(at::kFloat).reshape({rows, rows > 0 ? w.numel() / rows : 0});
  const at::Tensor absmax = flat.size(1) > 0 ? flat.abs().amax(1) : at::zeros({rows}, flat.options());
  const at::Tensor poisoned = (flat - flat).ne(0).any(1);
  // Divided by a tensor: GPUs turn a division by a number into a product with its inverse.
  const at::Tensor scale = absmax / at::full({}, 127, absmax.options());
  result.scale = at::where(poisoned, at::full({}, NAN, absmax.options()), scale);
  const at::Tensor lift =
      at::where(absmax < kTiny, at::full({}, kLift, absmax.options()), at::ones({}, absmax.options()));
  const at::Tensor inverse = 127 / (absmax * lift);
  const at::Tensor scaled = (flat * lift.unsqueeze(1)) * inverse.unsqueeze(1);
  const at::Tensor nothing = at::logical_or(poisoned, absmax.eq(0)).unsqueeze(1);
  result.codes = scaled.round().masked_fill(nothing, 0).to(at::kChar);
  return result;
}

at::Tensor dequantize(const Int8Tensor& tensor, at::ScalarType type) {
  return (tensor.codes.to(at::kFloat) * tensor.scale.unsqueeze(1)).to(type).view(tensor.shape);
}

}  // namespace reference
}  // namespace finesweep::worker
