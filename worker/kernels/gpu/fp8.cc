#include "worker/kernels/gpu/fp8.h"

#include <ATen/ops/empty.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/library.h"
#include "worker/kernels/gpu/matmul.h"

namespace finesweep::worker::gpu {
namespace {

constexpr std::int64_t kFp8Multiple = 16;
constexpr std::int64_t kWidest = 32768;  // a row stays in registers

bool has_fp8_kernel(Activation activation) {
  return activation == Activation::gelu || activation == Activation::gelu_tanh || activation == Activation::silu;
}

Fp8Rows empty_rows(const at::Tensor& like) {
  return {at::empty(like.sizes(), like.options().dtype(at::kFloat8_e4m3fn)),
          at::empty({like.size(0)}, like.options().dtype(at::kFloat))};
}

/// Of what is multiplied, the shapes and addresses that tensor cores take.
bool in_fp8_tiles(const Fp8Rows& x) {
  return has_unit_columns(x.codes) && in_vectors(x.codes) && x.codes.size(1) % kFp8Multiple == 0 &&
         x.scales.is_contiguous() && reinterpret_cast<std::uintptr_t>(x.scales.const_data_ptr()) % 16 == 0;
}

bool is_addend(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && has_unit_columns(x) && in_vectors(x);
}

/// Tokens, outputs, inputs, whether there are bias and residual, the device.
using Fp8Shape = std::array<std::int64_t, 6>;

const char* words_for(Fp8Way way) {
  switch (way) {
    case Fp8Way::whole:
      return "";
    case Fp8Way::scaled:
      return "bias and residual are added by a kernel of their own";
    case Fp8Way::scaled_behind:
      return "scales are applied by a kernel of their own";
    case Fp8Way::none:
      break;
  }
  return "such products are computed in bf16";
}

/// Of the first product that goes this way, which is not the best.
void say_once(Fp8Way way, const Fp8Shape& shape, const char* reason) {
  static std::atomic<bool> said[4] = {};
  if (way == Fp8Way::whole || said[static_cast<int>(way)].exchange(true)) return;
  std::fprintf(stderr, "a product in FP8 of %lld x %lld x %lld%s%s: %s (%s)\n", static_cast<long long>(shape[0]),
               static_cast<long long>(shape[1]), static_cast<long long>(shape[2]),
               shape[3] != 0 ? " with bias" : "", shape[4] != 0 ? " with residual" : "", words_for(way), reason);
}

/// y = y · row_scales · column_scales + bias + residual, in place; undefined ones are left out.
void finish(const at::Tensor& y, const at::Tensor& row_scales, const at::Tensor& column_scales,
            const at::Tensor& bias, const at::Tensor& residual) {
  call(&CudaModule::scale_rows_and_columns, "scales of FP8", y, y.mutable_data_ptr(), y.size(0), y.size(1),
       data_or_null<float>(row_scales), data_or_null<float>(column_scales), data_or_null(bias),
       data_or_null(residual), residual.defined() ? residual.stride(0) : 0);
}

}  // namespace

bool quantizes_fp8(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && has_kernels(x) && x.stride(1) == 1;
}

bool fuses_fp8(const at::Tensor& z, Activation activation) {
  return has_fp8_kernel(activation) && quantizes_fp8(z) && z.is_contiguous() && in_vectors(z) &&
         z.size(1) <= kWidest;
}

bool fuses_fp8_gate(std::int64_t width, Activation activation) {
  return has_fp8_kernel(activation) && width % 16 == 0 && width <= kWidest;
}

std::shared_ptr<Fp8Rows> empty_fp8_for(const LinearModule* next, const at::Tensor& like) {
  if (next == nullptr || !next->of_jobs.empty() || !next->quantizes_inputs() || !quantizes_fp8(like))
    return nullptr;
  return std::make_shared<Fp8Rows>(empty_rows(like));
}

void activate(const at::Tensor& z, const at::Tensor& y, const Fp8Rows& rows, Activation activation) {
  call(&CudaModule::fp8_activation_forward, "activation", z, kind_of(activation), z.const_data_ptr(),
       writable_or_null(y), z.size(0), z.size(1), rows.codes.mutable_data_ptr(),
       rows.scales.mutable_data_ptr<float>());
}

void activation_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, const at::Tensor& factors,
                         const Fp8Rows& rows, Activation activation) {
  call(&CudaModule::fp8_activation_backward, "activation's gradient", z, kind_of(activation), z.const_data_ptr(),
       dy.const_data_ptr(), writable_or_null(dz), factors.const_data_ptr<float>(), z.size(0), z.size(1),
       rows.codes.mutable_data_ptr(), rows.scales.mutable_data_ptr<float>());
}

void gate(const at::Tensor& z, const at::Tensor& y, const Fp8Rows& rows, Activation activation) {
  call(&CudaModule::fp8_gate_forward, "gate", z, kind_of(activation), z.const_data_ptr(), writable_or_null(y),
       z.size(0), z.size(1) / 2, rows.codes.mutable_data_ptr(), rows.scales.mutable_data_ptr<float>());
}

void gate_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, const at::Tensor& factors,
                   const Fp8Rows& rows, Activation activation) {
  call(&CudaModule::fp8_gate_backward, "gate's gradient", z, kind_of(activation), z.const_data_ptr(),
       dy.const_data_ptr(), writable_or_null(dz), factors.const_data_ptr<float>(), z.size(0), z.size(1) / 2,
       rows.codes.mutable_data_ptr(), rows.scales.mutable_data_ptr<float>());
}

Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors) {
  Fp8Rows rows = empty_rows(x);
  call(&CudaModule::fp8_quantize, "quantising to FP8", x, x.const_data_ptr(), x.stride(0), x.size(0), x.size(1),
       data_or_null<float>(factors), rows.codes.mutable_data_ptr(), rows.scales.mutable_data_ptr<float>());
  return rows;
}

at::Tensor product_fp8_by(Fp8Way way, const Fp8Rows& a, const Fp8Rows& b, const at::Tensor& bias,
                          const at::Tensor& residual) {
  if (way == Fp8Way::none || graph_module() == nullptr || cuda_module() == nullptr) return {};
  const at::Tensor y = at::empty({a.codes.size(0), b.codes.size(0)}, a.codes.options().dtype(at::kBFloat16));
  FinesweepMatmul what{};
  what.repeats = RepeatedProducts::current();
  what.m = y.size(0);
  what.n = y.size(1);
  what.k = a.codes.size(1);
  what.a = a.codes.const_data_ptr();
  what.b = b.codes.const_data_ptr();
  what.d = y.mutable_data_ptr();
  what.lda = a.codes.stride(0);
  what.ldb = b.codes.stride(0);
  what.ldc = what.ldd = y.stride(0);
  what.transpose_b = 1;
  what.type = kFinesweepFloat8E4M3;
  what.out_type = kFinesweepBFloat16;
  if (way != Fp8Way::scaled_behind) {
    what.scale_a = a.scales.const_data_ptr<float>();
    what.scale_b = b.scales.const_data_ptr<float>();
  }
  if (way == Fp8Way::whole) {
    if (bias.defined()) {
      what.bias = bias.const_data_ptr();
      what.epilogue = kEpilogueBias;
    }
    if (residual.defined()) {
      what.c = residual.const_data_ptr();
      what.ldc = residual.stride(0);
      what.beta = 1;
    }
  }
  if (graph_module()->matmul(&what) != 0) return {};
  if (way == Fp8Way::scaled && (bias.defined() || residual.defined())) finish(y, {}, {}, bias, residual);
  if (way == Fp8Way::scaled_behind) finish(y, a.scales, b.scales, bias, residual);
  return y;
}

at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, const at::Tensor& bias, const at::Tensor& residual) {
  if (a.codes.numel() == 0) return {};
  const Fp8Shape shape = {a.codes.size(0), b.codes.size(0),    a.codes.size(1),
                          bias.defined(),  residual.defined(), a.codes.get_device()};
  const bool fits = in_fp8_tiles(a) && in_fp8_tiles(b) && b.codes.size(0) % kFp8Multiple == 0 &&
                    (!bias.defined() || (bias.scalar_type() == at::kBFloat16 && bias.is_contiguous())) &&
                    (!residual.defined() || is_addend(residual));
  if (!fits) {
    say_once(Fp8Way::none, shape, "its widths are no multiples of 16, or it is not aligned");
    return {};
  }
  static std::mutex mutex;
  static std::map<Fp8Shape, Fp8Way> ways;
  const std::scoped_lock lock(mutex);
  const auto known = ways.find(shape);
  if (known != ways.end()) return product_fp8_by(known->second, a, b, bias, residual);
  std::string reason;
  for (const Fp8Way way : {Fp8Way::whole, Fp8Way::scaled, Fp8Way::scaled_behind, Fp8Way::none}) {
    const at::Tensor y = product_fp8_by(way, a, b, bias, residual);
    if (!y.defined() && way != Fp8Way::none) {
      reason = graph_module() != nullptr ? graph_module()->error() : "there is no libfinesweep-graph.so";
      continue;
    }
    ways.emplace(shape, way);
    say_once(way, shape, reason.c_str());
    return y;
  }
  return {};
}

}  // namespace finesweep::worker::gpu
