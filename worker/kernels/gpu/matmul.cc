#include "worker/kernels/gpu/matmul.h"

#include <ATen/ops/empty.h>

#include <cstdio>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/library.h"

namespace finesweep::worker::gpu {

bool has_unit_columns(const at::Tensor& x) {
  return x.stride(1) == 1 && x.stride(0) >= x.size(1);
}

bool in_vectors(const at::Tensor& x) {
  return x.stride(0) * x.element_size() % 16 == 0 && reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

void keep_choices(const std::filesystem::path& folder) {
  if (graph_module() != nullptr) graph_module()->matmul_keep_choices(folder.c_str());
}

std::int64_t& RepeatedProducts::current() {
  static thread_local std::int64_t times = 0;
  return times;
}

at::Tensor Matmul::run() const {
  const bool narrow = a.scalar_type() == at::kBFloat16 || a.scalar_type() == at::kHalf;
  if (!a.is_cuda() || !narrow || graph_module() == nullptr || a.numel() == 0) return {};
  const bool turned = !has_unit_columns(b) && has_unit_columns(b.t());
  const at::Tensor right = turned ? b.t() : b;
  if (b.scalar_type() != a.scalar_type() || !has_unit_columns(a) || !has_unit_columns(right) || !in_vectors(a) ||
      !in_vectors(right)) {
    return {};
  }
  if (bias.defined() && (bias.scalar_type() != a.scalar_type() || !bias.is_contiguous())) return {};
  if (c.defined() && (c.scalar_type() != a.scalar_type() || !has_unit_columns(c) || !in_vectors(c))) return {};
  const at::Tensor d = out.defined() ? out : at::empty({a.size(0), b.size(1)}, a.options());
  if (!has_unit_columns(d) || !in_vectors(d)) return {};
  FinesweepMatmul what{};
  what.m = a.size(0);
  what.n = b.size(1);
  what.k = a.size(1);
  what.a = a.const_data_ptr();
  what.b = right.const_data_ptr();
  what.d = d.mutable_data_ptr();
  what.lda = a.stride(0);
  what.ldb = right.stride(0);
  what.ldc = what.ldd = d.stride(0);
  what.transpose_b = turned ? 1 : 0;
  what.type = what.out_type = type_of(a);
  what.repeats = RepeatedProducts::current();
  if (c.defined()) {
    what.c = c.const_data_ptr();
    what.ldc = c.stride(0);
    what.beta = 1;
  }
  if (bias.defined()) {
    what.bias = bias.const_data_ptr();
    what.epilogue = kEpilogueBias;
  }
  if (before_gelu.defined()) {
    if (!bias.defined() || !in_vectors(before_gelu)) return {};
    what.aux = before_gelu.mutable_data_ptr();
    what.ld_aux = before_gelu.stride(0);
    what.epilogue = kEpilogueGeluTanhBias;
  }
  if (graph_module()->matmul(&what) == 0) return d;
  static bool said = false;
  if (!said)
    std::fprintf(stderr, "cuBLASLt does not compute a product, cuBLAS does: %s\n", graph_module()->error());
  said = true;
  return {};
}

}  // namespace finesweep::worker::gpu
