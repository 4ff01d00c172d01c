#include "worker/kernels/cpu/norm.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

using c10::BFloat16;

/// Tokens of which one partial sum is taken.
constexpr std::int64_t kGroup = 32;
/// Philox works on eight blocks at once.
std::int64_t mask_blocks(std::int64_t width) {
  return (width + 63) / 64 * 8;
}

/// What a token's work needs of the mask: its 16-bit numbers, and how they decide. No dropout: null.
struct Mask {
  const std::uint16_t* bits = nullptr;
  std::uint32_t threshold = 0;
  float scale = 1;
};

template <typename F>
FINESWEEP_INLINE F apply(const Mask& mask, std::int64_t i, F v) {
  return mask.bits == nullptr ? v : v * keep<F>(mask.bits + i, mask.threshold, mask.scale);
}

template <typename F, typename T>
FINESWEEP_INLINE void statistics(const T* x, const NormWeights& weights, std::int64_t width, float& mean,
                                 float& inverse) {
  mean = 0;
  if (weights.centred) {
    F total{};
    for (std::int64_t i = 0; i < width; i += kLanes<F>) total += load<F>(x + i, width - i);
    mean = sum(total) / static_cast<float>(width);
  }
  F squares{};
  std::int64_t i = 0;
  for (; i + kLanes<F> <= width; i += kLanes<F>) {
    const F centred = load<F>(x + i) - mean;
    squares += centred * centred;
  }
  float tail = 0;
  for (; i < width; ++i) tail += (static_cast<float>(x[i]) - mean) * (static_cast<float>(x[i]) - mean);
  inverse = 1.0f / __builtin_sqrtf((sum(squares) + tail) / static_cast<float>(width) + weights.epsilon);
}

template <typename F, typename T>
FINESWEEP_INLINE void add_token(const T* x, const T* residual, const Mask& mask, T* y, std::int64_t width) {
  for (std::int64_t i = 0; i < width; i += kLanes<F>) {
    store<F>(y + i, load<F>(residual + i, width - i) + apply(mask, i, load<F>(x + i, width - i)), width - i);
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void forward_token(T* sums, const T* residual, const Mask& before, const NormWeights& weights,
                                    T* y, const Mask& after, std::int64_t width, float& mean, float& inverse) {
  if (residual != nullptr) add_token<F>(sums, residual, before, sums, width);
  statistics<F>(sums, weights, width, mean, inverse);
  for (std::int64_t i = 0; i < width; i += kLanes<F>) {
    const F normed = (load<F>(sums + i, width - i) - mean) * inverse;
    const F bias = weights.bias == nullptr ? F{} : load<F>(weights.bias + i, width - i);
    store<F>(y + i, apply(after, i, normed * load<F>(weights.weight + i, width - i) + bias), width - i);
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void backward_token(const T* x, const T* dy, const Mask& after, const NormWeights& weights,
                                     float mean, float inverse, T* dx, T* masked, const Mask& before,
                                     float* weight_sum, float* bias_sum, std::int64_t width) {
  // dx = inverse · (g − mean(g) − x̂ · mean(g x̂)), g = dy · weight; without mean(g) where x was not centred.
  F sum_g{}, sum_gx{};
  for (std::int64_t i = 0; i < width; i += kLanes<F>) {
    const F normed = (load<F>(x + i, width - i) - mean) * inverse;
    const F gradient = apply(after, i, load<F>(dy + i, width - i));
    const F g = gradient * load<F>(weights.weight + i, width - i);
    sum_g += g;
    sum_gx += g * normed;
    if (weight_sum != nullptr) {
      store<F>(weight_sum + i, load<F>(weight_sum + i, width - i) + gradient * normed, width - i);
    }
    if (bias_sum != nullptr) store<F>(bias_sum + i, load<F>(bias_sum + i, width - i) + gradient, width - i);
  }
  const float mean_g = weights.centred ? sum(sum_g) / static_cast<float>(width) : 0.0f;
  const float mean_gx = sum(sum_gx) / static_cast<float>(width);
  for (std::int64_t i = 0; i < width; i += kLanes<F>) {
    const F normed = (load<F>(x + i, width - i) - mean) * inverse;
    const F g = apply(after, i, load<F>(dy + i, width - i)) * load<F>(weights.weight + i, width - i);
    const F result = (g - mean_g - normed * mean_gx) * inverse;
    store<F>(dx + i, result, width - i);
    if (masked != nullptr) store<F>(masked + i, apply(before, i, result), width - i);
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void mask_token(const T* x, T* y, const Mask& mask, std::int64_t width) {
  for (std::int64_t i = 0; i < width; i += kLanes<F>) {
    store<F>(y + i, apply(mask, i, load<F>(x + i, width - i)), width - i);
  }
}

template <typename F, typename T>
FINESWEEP_INLINE void sum_tokens(const T* x, std::int64_t tokens, std::int64_t width, std::int64_t stride,
                                 float* out) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < width; i += kLanes<F>) {
      store<F>(out + i, load<F>(out + i, width - i) + load<F>(x + t * stride + i, width - i), width - i);
    }
  }
}

/// The masks of one site, token by token in order: a row's stream is made once.
class Masks {
 public:
  Masks(const TokenDropout& dropout, std::int64_t width)
      : dropout_(dropout.dropout), layout_(dropout.layout), bits_(dropout_.active() ? mask_blocks(width) * 8 : 0) {}

  Mask of(std::int64_t token) {
    if (!dropout_.active()) return {};
    const std::int64_t row = layout_->row[token];
    if (row != row_) {
      stream_ = dropout_.stream(*layout_, row);
      row_ = row;
    }
    dropout_bits(stream_, static_cast<std::uint64_t>(token - layout_->starts[row]) << 32,
                 static_cast<std::int64_t>(bits_.size()) / 8, bits_.data());
    return {bits_.data(), dropout_.threshold, dropout_.scale()};
  }

 private:
  const Dropout& dropout_;
  const TokenLayout* layout_;
  std::vector<std::uint16_t> bits_;
  RandomStream stream_{0, purpose::dropout};
  std::int64_t row_ = -1;
};

std::int64_t groups_of(std::int64_t tokens) {
  return (tokens + kGroup - 1) / kGroup;
}

/// Calls work(first, last) for ranges of tokens that begin with a group, over all threads.
template <typename Work>
void over_groups(std::int64_t tokens, const Work& work) {
  at::parallel_for(0, groups_of(tokens), 1, [&](std::int64_t begin, std::int64_t end) {
    work(begin * kGroup, std::min(tokens, end * kGroup));
  });
}

void add_partial_sums(const std::vector<float>& partial, std::int64_t groups, std::int64_t width, float* out) {
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t i = 0; i < width; ++i) out[i] += partial[g * width + i];
  }
}

}  // namespace

template <typename T>
void NormKernels<T>::add_norm(T* x, const T* residual, const NormWeights& weights, T* y, float* mean,
                              float* inverse_deviation, std::int64_t tokens, std::int64_t width,
                              const TokenDropout& dropout) {
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    Masks masks(dropout, width);
    for (std::int64_t t = first; t < last; ++t) {
      const Mask mask = masks.of(t);
      with_widest_vectors([&]<typename F>() {
        forward_token<F>(x + t * width, residual + t * width, mask, weights, y + t * width, Mask{}, width, mean[t],
                         inverse_deviation[t]);
      });
    }
  });
}

template <typename T>
void NormKernels<T>::norm_dropout(const T* x, const NormWeights& weights, T* y, float* mean,
                                  float* inverse_deviation, std::int64_t tokens, std::int64_t width,
                                  const TokenDropout& dropout) {
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    Masks masks(dropout, width);
    for (std::int64_t t = first; t < last; ++t) {
      const Mask mask = masks.of(t);
      with_widest_vectors([&]<typename F>() {
        forward_token<F>(const_cast<T*>(x) + t * width, static_cast<const T*>(nullptr), Mask{}, weights,
                         y + t * width, mask, width, mean[t], inverse_deviation[t]);
      });
    }
  });
}

template <typename T>
void NormKernels<T>::backward(const T* x, const T* dy, const NormWeights& weights, const float* mean,
                              const float* inverse_deviation, T* dx, T* masked, float* weight_grad,
                              float* bias_grad, std::int64_t tokens, std::int64_t width,
                              const TokenDropout& input_dropout, const TokenDropout& output_dropout) {
  const std::int64_t groups = groups_of(tokens);
  std::vector<float> weight_partial(weight_grad != nullptr ? groups * width : 0);
  std::vector<float> bias_partial(bias_grad != nullptr ? groups * width : 0);
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    Masks before(input_dropout, width), after(output_dropout, width);
    for (std::int64_t t = first; t < last; ++t) {
      float* weight_sum = weight_grad != nullptr ? weight_partial.data() + t / kGroup * width : nullptr;
      float* bias_sum = bias_grad != nullptr ? bias_partial.data() + t / kGroup * width : nullptr;
      const Mask input_mask = before.of(t), output_mask = after.of(t);
      with_widest_vectors([&]<typename F>() {
        backward_token<F>(x + t * width, dy + t * width, output_mask, weights, mean[t], inverse_deviation[t],
                          dx + t * width, masked == nullptr ? masked : masked + t * width, input_mask, weight_sum,
                          bias_sum, width);
      });
    }
  });
  if (weight_grad != nullptr) add_partial_sums(weight_partial, groups, width, weight_grad);
  if (bias_grad != nullptr) add_partial_sums(bias_partial, groups, width, bias_grad);
}

template <typename T>
void NormKernels<T>::dropout(const T* x, T* y, std::int64_t tokens, std::int64_t width,
                             const TokenDropout& dropout) {
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    Masks masks(dropout, width);
    for (std::int64_t t = first; t < last; ++t) {
      const Mask mask = masks.of(t);
      with_widest_vectors([&]<typename F>() { mask_token<F>(x + t * width, y + t * width, mask, width); });
    }
  });
}

template <typename T>
void NormKernels<T>::add(const T* x, const T* residual, T* y, std::int64_t tokens, std::int64_t width,
                         const TokenDropout& dropout) {
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    Masks masks(dropout, width);
    for (std::int64_t t = first; t < last; ++t) {
      const Mask mask = masks.of(t);
      with_widest_vectors(
          [&]<typename F>() { add_token<F>(x + t * width, residual + t * width, mask, y + t * width, width); });
    }
  });
}

template <typename T>
void NormKernels<T>::column_sums(const T* x, std::int64_t tokens, std::int64_t width, std::int64_t stride,
                                 float* out) {
  const std::int64_t groups = groups_of(tokens);
  std::vector<float> partial(groups * width);
  over_groups(tokens, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; t += kGroup) {
      with_widest_vectors([&]<typename F>() {
        sum_tokens<F>(x + t * stride, std::min(kGroup, last - t), width, stride,
                      partial.data() + t / kGroup * width);
      });
    }
  });
  add_partial_sums(partial, groups, width, out);
}

template struct NormKernels<float>;
template struct NormKernels<BFloat16>;

}  // namespace finesweep::worker::cpu
