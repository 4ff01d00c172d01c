#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker {

// Products of matrices in FP8 e4m3 (https://arxiv.org/abs/2209.05433: four bits of exponent, three of mantissa, the
// largest value is 448, no infinities), each row of either with a scale of its own. What is multiplied is exactly
// what the rounded numbers say, on any device; sums are fp32.

/// A matrix: row r is codes[r] · scales[r].
struct Fp8Rows {
  at::Tensor codes;   // [rows, columns] Float8_e4m3fn; rows may lie further apart than they are wide
  at::Tensor scales;  // [rows] fp32
};

/// The largest value of e4m3.
inline constexpr float kFp8Largest = 448;
/// Rows whose largest value is below this (2^-100) become zeros: their scales would leave fp32.
inline constexpr float kFp8Smallest = 0x1p-100f;

/// Of each row of v = x · factors: scale = max |v| / 448, codes = v · (448 / max |v|) rounded to nearest, ties to
/// even, all in fp32. A row of zeros has scale 0; one that holds an infinity or a NaN gives products that are NaN.
///
///   x        [rows, columns] fp32, bf16 or fp16
///   factors  [columns] fp32, of each column; undefined: 1
///
/// On a GPU bf16 goes through one kernel, which reads x once where rows are no wider than 32,768.
Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors = {});

/// The numbers that a matrix in FP8 stands for, in fp32, rounded once to `type`.
at::Tensor dequantize(const Fp8Rows& rows, at::ScalarType type);

/// a bᵀ + bias + residual of what both stand for, summed in fp32 and rounded once to `type`.
///
///   a [tokens, in], b [out, in], bias [out] and residual [tokens, out] of `type`, each may be undefined
///
/// On a GPU that multiplies FP8 (compute capability 8.9 on) cuBLASLt's product of e4m3, for bf16 and widths that
/// are multiples of 16, with the scales in the same kernel where it has one (Hopper), else with a pass over the
/// result behind it (then the sum is rounded to bf16 once more, before the scales). Everything else is the
/// reference.
at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType type, const at::Tensor& bias = {},
                       const at::Tensor& residual = {});

namespace reference {

// The same in plain tensor operations.

Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors);
/// On a GPU the codes are multiplied as bf16, which holds them exactly.
at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType type, const at::Tensor& bias,
                       const at::Tensor& residual);

}  // namespace reference
}  // namespace finesweep::worker
