#include "worker/quantization/nf4_product.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/gemm.h"
#include "worker/quantization/nf4_blocks.h"
#include "worker/quantization/nf4_cuda.h"
#include "worker/quantization/nf4_vector.h"

namespace finesweep::worker {
namespace {

using namespace cpu;

/// Of a panel of dequantised weights: a share of the last cache, and wide enough that packing x anew for every
/// panel costs next to nothing.
constexpr std::int64_t kPanelBytes = 8 << 20;
/// Up to so many tokens are multiplied without panels.
constexpr std::int64_t kFewTokens = 8;
constexpr std::int64_t kGrain = 1 << 15;

/// y[t, row] = Σ x[t, i] level(row, i) scale(block of i), for T tokens. Sums of a block are scaled once.
template <int T>
FINESWEEP_INLINE void dot_row(const std::uint8_t* packed, std::int64_t block_size, const float* scales,
                              const float* levels, std::int64_t begin, std::int64_t width, const float* x,
                              std::int64_t x_stride, float* y, std::int64_t y_stride) {
  const Levels table = load_levels(levels);
  const std::int64_t end = begin + width;
  EightFloats total[T]{};
  float rest[T]{};
  std::int64_t block_end = begin / block_size * block_size + block_size;
  for (std::int64_t i = begin; i < end; block_end += block_size) {
    const std::int64_t stop = block_end < end ? block_end : end;
    const float scale = *scales++;
    const auto add_one = [&](std::int64_t at) __attribute__((always_inline)) {
      const float weight = levels[at % 2 == 0 ? packed[at / 2] >> 4 : packed[at / 2] & 15] * scale;
      for (int t = 0; t < T; ++t) rest[t] += x[t * x_stride + at - begin] * weight;
    };
    if (i % 2 != 0) add_one(i++);
    EightFloats sum[T]{};
    for (; i + kCodes <= stop; i += kCodes) {
      const EightFloats weights = look_up(table, packed + i / 2);
      for (int t = 0; t < T; ++t) sum[t] += weights * load_eight(x + t * x_stride + i - begin);
    }
    for (int t = 0; t < T; ++t) total[t] += sum[t] * scale;
    for (; i < stop; ++i) add_one(i);
  }
  for (int t = 0; t < T; ++t) {
    const EightFloats v = total[t];
    y[t * y_stride] = rest[t] + (((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])));
  }
}

#define FINESWEEP_DOT_CLONE(T)                                                                                   \
  FINESWEEP_CLONES void dot_row_##T(const std::uint8_t* packed, std::int64_t block_size, const float* scales,    \
                                    const float* levels, std::int64_t begin, std::int64_t width, const float* x, \
                                    std::int64_t x_stride, float* y, std::int64_t y_stride) {                    \
    dot_row<T>(packed, block_size, scales, levels, begin, width, x, x_stride, y, y_stride);                      \
  }
FINESWEEP_DOT_CLONE(1)
FINESWEEP_DOT_CLONE(2)
FINESWEEP_DOT_CLONE(3)
FINESWEEP_DOT_CLONE(4)

at::Tensor few_tokens(const at::Tensor& x, const Nf4Tensor& w) {
  const std::int64_t tokens = x.size(0), in = w.shape[1], out = w.shape[0];
  const at::Tensor y = at::empty({tokens, out}, x.options());
  const Nf4View view = view_of(w);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, out, std::max<std::int64_t>(1, kGrain / in), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scales(static_cast<std::size_t>(in / w.block_size + 2));
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t first = row * in / w.block_size, last = ((row + 1) * in + w.block_size - 1) / w.block_size;
      scales_of_blocks(view, first, last - first, scales.data());
      for (std::int64_t t = 0; t < tokens; t += 4) {
        constexpr decltype(&dot_row_1) dots[] = {dot_row_1, dot_row_2, dot_row_3, dot_row_4};
        dots[std::min<std::int64_t>(4, tokens - t) - 1](view.packed, w.block_size, scales.data(), nf4_levels(),
                                                        row * in, in, from + t * in, in, to + t * out + row, out);
      }
    }
  });
  return y;
}

/// Of the rows [top, bottom) the columns [left, right), as a matrix of panel's dtype.
void decode_panel(const Nf4View& view, std::int64_t in, std::int64_t top, std::int64_t bottom, std::int64_t left,
                  std::int64_t right, const at::Tensor& panel) {
  const auto decode = [&]<typename T>(T* to) {
    const std::int64_t width = right - left;
    if (width == in) {
      at::parallel_for(top * in, bottom * in, kGrain, [&](std::int64_t begin, std::int64_t end) {
        decode_range(view, begin, end, to + begin - top * in);
      });
      return;
    }
    at::parallel_for(top, bottom, std::max<std::int64_t>(1, kGrain / width),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t row = begin; row < end; ++row) {
                         decode_range(view, row * in + left, row * in + right, to + (row - top) * width);
                       }
                     });
  };
  switch (panel.scalar_type()) {
    case at::kBFloat16:
      return decode(panel.mutable_data_ptr<c10::BFloat16>());
    case at::kHalf:
      return decode(panel.mutable_data_ptr<c10::Half>());
    default:
      return decode(panel.mutable_data_ptr<float>());
  }
}

/// How many rows or columns of `length` fill a panel: a multiple of 16, since products like that.
std::int64_t panel_lines(std::int64_t length, const at::Tensor& like) {
  const std::int64_t bytes = length * static_cast<std::int64_t>(like.element_size());
  return std::max<std::int64_t>(16, kPanelBytes / bytes / 16 * 16);
}

}  // namespace

at::Tensor product_with_nf4(const at::Tensor& x, const Nf4Tensor& w) {
  if (cuda::multiplies_directly(w, x.size(0))) return cuda::product(x.contiguous(), w);
  if (!x.is_cpu()) return product_with_weight(x, dequantize(w, x.scalar_type()));
  const std::int64_t tokens = x.size(0), in = w.shape[1], out = w.shape[0];
  if (x.scalar_type() == at::kFloat && tokens <= kFewTokens) return few_tokens(x.contiguous(), w);
  const std::int64_t lines = panel_lines(in, x);
  if (out <= lines) return product_with_weight(x, dequantize(w, x.scalar_type()));
  const at::Tensor y = at::empty({tokens, out}, x.options()), panel = at::empty({lines, in}, x.options());
  const Nf4View view = view_of(w);
  for (std::int64_t top = 0; top < out; top += lines) {
    const std::int64_t bottom = std::min(out, top + lines);
    decode_panel(view, in, top, bottom, 0, in, panel);
    y.narrow(1, top, bottom - top).copy_(product_with_weight(x, panel.narrow(0, 0, bottom - top)));
  }
  return y;
}

at::Tensor product_with_transposed_nf4(const at::Tensor& dy, const Nf4Tensor& w) {
  if (!dy.is_cpu()) return product_with_transposed_weight(dy, dequantize(w, dy.scalar_type()));
  const std::int64_t tokens = dy.size(0), in = w.shape[1], out = w.shape[0];
  const std::int64_t lines = panel_lines(out, dy);
  if (in <= lines) return product_with_transposed_weight(dy, dequantize(w, dy.scalar_type()));
  // Panels of columns: each sum over `out` is done at once, as in the whole product.
  const at::Tensor dx = at::empty({tokens, in}, dy.options()), buffer = at::empty({out * lines}, dy.options());
  const Nf4View view = view_of(w);
  for (std::int64_t left = 0; left < in; left += lines) {
    const std::int64_t right = std::min(in, left + lines);
    const at::Tensor panel = buffer.narrow(0, 0, out * (right - left)).view({out, right - left});
    decode_panel(view, in, 0, out, left, right, panel);
    at::Tensor part = dx.narrow(1, left, right - left);
    at::mm_out(part, dy, panel);
  }
  return dx;
}

}  // namespace finesweep::worker
