#include "worker/kernels/gpu/warm_up.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <exception>
#include <future>

#include "worker/kernels/gpu/matmul.h"

namespace finesweep::worker::gpu {
namespace {

std::future<void>& under_way() {
  static std::future<void> work;
  return work;
}

/// Both ways of a training, and the way of an evaluation, which is another kernel.
void attend(c10::Device device) {
  const at::NoGradGuard no_graph;
  const at::Tensor x = at::zeros({1, 1, 64, 64}, at::TensorOptions(at::kBFloat16).device(device));
  const auto forward = [&](bool trains) {
    return at::_scaled_dot_product_cudnn_attention(x, x, x, /*attn_bias=*/{}, /*compute_log_sumexp=*/trains,
                                                   /*dropout_p=*/0.0, /*is_causal=*/true,
                                                   /*return_debug_mask=*/false, /*scale=*/1.0);
  };
  const auto [out, log_sum, starts_q, starts_k, longest_q, longest_k, seed, offset, debug] = forward(true);
  at::_scaled_dot_product_cudnn_attention_backward(x, x, x, x, out, log_sum, seed, offset, /*attn_bias=*/{},
                                                   starts_q, starts_k, longest_q.expect_int(),
                                                   longest_k.expect_int(),
                                                   /*dropout_p=*/0.0, /*is_causal=*/true, /*scale=*/1.0);
  forward(false);
}

/// Products as layers have them, forward and back: cuBLASLt finds its kernels and loads the first of them.
void multiply(c10::Device device) {
  const at::NoGradGuard no_graph;
  const RepeatedProducts once(1);
  const at::Tensor x = at::zeros({64, 64}, at::TensorOptions(at::kBFloat16).device(device));
  const at::Tensor bias = x[0];
  for (const at::Tensor& weight : {x.t(), x}) {
    Matmul{x, weight, {}, {}, {}, {}}.run();
    Matmul{x, weight, x, {}, {}, {}}.run();
    Matmul{x, weight, {}, bias, {}, {}}.run();
    Matmul{x, weight, {}, bias, at::empty_like(x), {}}.run();
  }
}

}  // namespace

void begin_warm_up(c10::Device device) {
  if (under_way().valid()) return;
  under_way() = std::async(std::launch::async, [device] {
    try {
      multiply(device);
      attend(device);
    } catch (const std::exception&) {
      // What is refused, a job that wants it says.
    }
  });
}

void finish_warm_up() {
  if (under_way().valid()) under_way().wait();
}

}  // namespace finesweep::worker::gpu
