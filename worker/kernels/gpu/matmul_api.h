#pragma once

#include <cstdint>

// The other part of libfinesweep-graph.so (see graph_api.h): matrix products of cuBLASLt with what stands behind
// them in the same kernel, on the handle and in the workspace of libtorch.

extern "C" {

enum FinesweepEpilogue : int {
  kEpilogueNone = 0,
  kEpilogueBias = 1,
  kEpilogueGeluTanhBias = 2,      // aux gets what went into the GELU
  kEpilogueGeluTanhGradient = 3,  // times the GELU's slope at aux
};

/// d [m, n] = epilogue(a b + beta · c + bias), row-major, sums in fp32. a is [m, k], b [k, n]; transposed ones are
/// given as [k, m] and [n, k]. Rows are lda … apart. Types are those of FinesweepFloat: `type` of a, b, bias and
/// aux, `out_type` of c and d.
///
/// FP8: `type` is kFinesweepFloat8E4M3, out_type and the bias's type bf16, a as it is and b transposed, no GELU.
/// Then scale_a [m] and scale_b [n] (fp32, both or neither) multiply the rows of a and the columns of b: Hopper
/// alone has that (CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F).
struct FinesweepMatmul {
  std::int64_t m, n, k;
  const void *a, *b, *c;
  void* d;
  std::int64_t lda, ldb, ldc, ldd;
  int transpose_a, transpose_b;
  int type, out_type;
  int epilogue;
  float beta;
  const void* bias;
  void* aux;
  std::int64_t ld_aux;
  const float *scale_a, *scale_b;
  /// How often this product is about to be computed; 0: often.
  std::int64_t repeats;
};
/// On the current stream. Once products of a shape have been announced often enough to be worth it, several kernels
/// are tried and the fastest is kept, but not while a graph is captured or where d is c; until then cuBLASLt's
/// first proposal computes. 1 where cuBLASLt cannot do it: the words are in finesweep_graph_error(). Any thread.
int finesweep_matmul(const FinesweepMatmul* what);

/// From now on what is found to be the fastest is written into a file of `folder`, one for each kind of GPU and
/// version of cuBLASLt, and what stands there is not tried again (kept_choices.h). Any thread.
void finesweep_matmul_keep_choices(const char* folder);
}
