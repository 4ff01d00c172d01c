#include "worker/kernels/gpu/decode.h"

#include <ATen/ops/_addmm_activation.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cstdint>
#include <initializer_list>

#include "worker/kernels/cuda/module.h"
#include "worker/kernels/gpu/float_type.h"
#include "worker/kernels/gpu/kernels.h"

namespace finesweep::worker::gpu {
namespace {

constexpr std::int64_t kMostTokens = 16, kMostFloatTokens = 8, kMostNormedTokens = 8;
/// Of so many outputs more tokens: there the library's products take longer (of 50,257 outputs and 64 tokens too,
/// with rows that begin at multiples of 16 bytes).
constexpr std::int64_t kManyOutputs = 16384, kMostTokensOfMany = 64;
constexpr std::int64_t kMostShared = 200 * 1024;
/// The longest row of a weight that a warp's registers hold, with the warps that a block has.
constexpr std::int64_t kMostVectors = 8 * 32 * 8, kMostGatedVectors = 4 * 32 * 8;

std::int64_t values_of(at::ScalarType type) {
  return type == at::kFloat ? 4 : 8;  // of 16 bytes
}

bool is_aligned(const at::Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

/// A matrix on a GPU, of a type that the kernels have, whose rows are whole vectors.
bool is_ready(const at::Tensor& x) {
  return x.is_cuda() && has_float_type(x) && x.dim() == 2 && x.size(0) > 0 && x.is_contiguous() &&
         x.size(1) % values_of(x.scalar_type()) == 0 && is_aligned(x) && cuda_module() != nullptr;
}

bool is_ready(const NormModule& norm) {
  for (const Parameter* parameter : {norm.weight, norm.bias}) {
    if (parameter != nullptr && (parameter->value.scalar_type() != at::kFloat || !is_aligned(parameter->value))) {
      return false;
    }
  }
  return norm.weight != nullptr;
}

FinesweepNorm view_of(const NormModule& norm) {
  return {norm.weight->value.const_data_ptr<float>(),
          norm.bias == nullptr ? nullptr : norm.bias->value.const_data_ptr<float>(),
          static_cast<float>(norm.epsilon), norm.kind == NormKind::layer ? 1 : 0};
}

/// A module without anything beside weight and bias, both of the type of x.
bool is_plain(const LinearModule& module, at::ScalarType type) {
  if (!module.branches.empty() || !module.scales.empty() || !module.of_jobs.empty()) return false;
  if (module.weight->quantized != nullptr) return false;
  const at::Tensor& weight = module.weight->value;
  if (weight.scalar_type() != type || !weight.is_cuda() || !weight.is_contiguous() || !is_aligned(weight))
    return false;
  return module.bias == nullptr || module.bias->value.scalar_type() == type;
}

bool takes(std::int64_t tokens, std::int64_t in, std::int64_t out, at::ScalarType type, bool is_gated) {
  const std::int64_t vectors = in / values_of(type);
  if (tokens == 1 || type == at::kFloat) {
    const bool is_held = tokens == 1 || tokens * in * 4 <= kMostShared;
    return tokens <= kMostFloatTokens && is_held && vectors <= (is_gated ? kMostGatedVectors : kMostVectors);
  }
  return tokens <= (out >= kManyOutputs ? kMostTokensOfMany : kMostTokens) && in % 32 == 0;
}

/// A product that cuBLASLt computes together with what follows.
bool has_library_form(const LinearModule& module, const DecodeLinear& what) {
  return what.activation == Activation::gelu_tanh && module.bias != nullptr && !what.gated && !what.to_float &&
         !what.residual.defined();
}

/// The product's block can hold the norm's results beside its sums.
bool takes_norm(std::int64_t tokens, std::int64_t in, at::ScalarType type) {
  constexpr std::int64_t kSums = 64 * 1024;
  return tokens <= kMostNormedTokens &&
         (type == at::kFloat || tokens * (in + 32) * 2 + 8 * in <= kMostShared - kSums);
}

}  // namespace

at::Tensor decode_linear(const at::Tensor& x, const LinearModule& module, const DecodeLinear& what) {
  if (!is_ready(x) || !is_plain(module, x.scalar_type())) return {};
  const at::ScalarType type = x.scalar_type();
  const std::int64_t tokens = x.size(0), in = x.size(1), rows = module.weight->rows();
  if (tokens > kMostTokens && has_library_form(module, what)) {
    const at::Tensor input = what.norm == nullptr ? x : decode_norm(x, *what.norm);
    if (!input.defined()) return {};
    return at::_addmm_activation(module.bias->value, input, module.weight->value.t(), 1, 1, /*use_gelu=*/true);
  }
  if (!takes(tokens, in, what.gated ? rows / 2 : rows, type, what.gated)) return {};
  const at::Tensor& residual = what.residual;
  if (residual.defined() && (residual.scalar_type() != type || !residual.is_contiguous())) return {};
  if (what.norm != nullptr && !is_ready(*what.norm)) return {};

  FinesweepDecodeLinear problem{};
  at::Tensor input = x;
  if (what.norm != nullptr && takes_norm(tokens, in, type)) {
    problem.norm = view_of(*what.norm);
  } else if (what.norm != nullptr) {
    input = decode_norm(x, *what.norm);
  }
  problem.tokens = tokens;
  problem.in = in;
  problem.out = what.gated ? rows / 2 : rows;
  const at::Tensor y = at::empty({tokens, problem.out}, x.options().dtype(what.to_float ? at::kFloat : type));
  problem.x = input.const_data_ptr();
  problem.weight = module.weight->value.const_data_ptr();
  if (module.bias != nullptr) problem.bias = module.bias->value.const_data_ptr();
  if (residual.defined()) problem.residual = residual.const_data_ptr();
  problem.y = y.mutable_data_ptr();
  problem.activation = kind_of(what.activation);
  problem.gated = what.gated ? 1 : 0;
  problem.type = float_type_of(x);
  problem.y_type = float_type_of(y);
  check_cuda(cuda_module()->decode_linear(&problem, current_stream(x.device())), "a product of few tokens");
  return y;
}

at::Tensor decode_norm(const at::Tensor& x, const NormModule& module) {
  if (!is_ready(x) || !is_ready(module)) return {};
  const at::Tensor y = at::empty_like(x);
  const FinesweepNorm view = view_of(module);
  check_cuda(cuda_module()->decode_norm(&view, x.const_data_ptr(), x.size(0), x.size(1), y.mutable_data_ptr(),
                                        float_type_of(x), current_stream(x.device())),
             "a norm");
  return y;
}

at::Tensor decode_gate(const at::Tensor& z, Activation activation) {
  const std::int64_t inner = z.dim() == 2 ? z.size(1) / 2 : 0;
  if (!is_ready(z) || inner % values_of(z.scalar_type()) != 0) return {};
  const at::Tensor y = at::empty({z.size(0), inner}, z.options());
  check_cuda(cuda_module()->decode_gate(z.const_data_ptr(), z.size(0), inner, kind_of(activation),
                                        y.mutable_data_ptr(), float_type_of(z), current_stream(z.device())),
             "a gated activation");
  return y;
}

at::Tensor decode_embed(const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
                        at::ScalarType type) {
  const at::Tensor& words = module.words->value;
  if (module.types != nullptr || words.scalar_type() != type || !is_ready(words)) return {};
  if (module.positions != nullptr &&
      (module.positions->value.scalar_type() != type || !positions.is_contiguous())) {
    return {};
  }
  if (!ids.is_contiguous() || ids.size(0) == 0) return {};
  const at::Tensor y = at::empty({ids.size(0), words.size(1)}, words.options());
  check_cuda(cuda_module()->decode_embed(
                 words.const_data_ptr(), ids.const_data_ptr<std::int64_t>(),
                 module.positions == nullptr ? nullptr : module.positions->value.const_data_ptr(),
                 module.positions == nullptr ? nullptr : positions.const_data_ptr<std::int64_t>(), ids.size(0),
                 words.size(1), y.mutable_data_ptr(), float_type_of(words), current_stream(words.device())),
             "an embedding");
  return y;
}

}  // namespace finesweep::worker::gpu
