#include "worker/formats/gguf_rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace finesweep::worker {
namespace {

struct Llama3 {
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4, original_context = 8192;
};

double wavelength(std::int64_t i, std::int64_t head_dim, double theta) {
  return 2 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
}

/// What the i-th frequency is divided by.
double factor_at(const Llama3& scaling, double wavelength) {
  const double turns = scaling.original_context / wavelength;
  if (turns > scaling.high_freq_factor) return 1;
  if (turns < scaling.low_freq_factor) return scaling.factor;
  const double smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

bool gives(const Llama3& scaling, const std::vector<float>& factors, std::int64_t head_dim, double theta) {
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double expected = factor_at(scaling, wavelength(static_cast<std::int64_t>(i), head_dim, theta));
    if (!(std::abs(factors[i] - expected) <= 1e-5 * expected)) return false;
  }
  return true;
}

/// What the factors say about the straight line from 1 / wavelength to smooth.
struct Line {
  double at = 0, smooth = 0, slope = 0;
};
Line line_through(const std::vector<float>& factors, std::int64_t head_dim, double theta, double largest) {
  std::vector<std::pair<double, double>> between;
  double last_whole = 0, first_scaled = 0;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double inverse = 1 / wavelength(static_cast<std::int64_t>(i), head_dim, theta);
    if (factors[i] <= 1) {
      last_whole = inverse;
    } else if (factors[i] < largest) {
      between.emplace_back(inverse, (1 / static_cast<double>(factors[i]) - 1 / largest) / (1 - 1 / largest));
    } else if (first_scaled == 0) {
      first_scaled = inverse;
    }
  }
  if (between.size() >= 2) {
    const auto [first, smooth] = between.front();
    const auto [last, last_smooth] = between.back();
    return {first, smooth, (smooth - last_smooth) / (first - last)};
  }
  // Any line does that keeps the frequencies that are whole, and those that are scaled, on their sides.
  if (between.empty())
    between.emplace_back(last_whole > 0 ? (last_whole + first_scaled) / 2 : 2 * first_scaled, 0.5);
  const auto [at, smooth] = between.front();
  const double to_one = last_whole > 0 ? (1 - smooth) / (last_whole - at) : 0;
  return {at, smooth, 2 * std::max(to_one, smooth / (at - first_scaled))};
}

/// Parameters that give the factors, as far as there are such: published ones, else others with low_freq_factor 1.
Llama3 fitted(const std::vector<float>& factors, std::int64_t head_dim, double theta, double largest) {
  const Line line = line_through(factors, head_dim, theta, largest);
  const double below_zero = line.slope * line.at - line.smooth;
  const Llama3 exact{largest, 1, 1 + 1 / below_zero, line.slope / below_zero};
  const Llama3 rounded{largest, 1, std::round(exact.high_freq_factor * 1000) / 1000,
                       std::round(exact.original_context)};
  const Llama3 usual{largest, 1, 4, std::round((1 + 3 * line.smooth) / line.at)};
  for (const Llama3& scaling : {Llama3{largest}, usual, rounded}) {
    if (gives(scaling, factors, head_dim, theta)) return scaling;
  }
  return exact;
}

}  // namespace

Result<Json> llama3_scaling_from(const std::vector<float>& factors, std::int64_t head_dim, double theta) {
  if (static_cast<std::int64_t>(factors.size()) != head_dim / 2) {
    return Error{"it holds " + std::to_string(factors.size()) + " factors for heads of " +
                 std::to_string(head_dim)};
  }
  for (const float factor : factors) {
    if (!(factor >= 1) || !std::isfinite(factor)) return Error{"it holds a factor below 1"};
  }
  const double largest = *std::max_element(factors.begin(), factors.end());
  if (largest == 1) return Json(nullptr);
  const Llama3 scaling = fitted(factors, head_dim, theta, largest);
  if (!(scaling.original_context > 0) || !gives(scaling, factors, head_dim, theta)) {
    return Error{"its factors are no llama3 scaling, the only one that is supported in this form"};
  }
  Json json = {{"rope_type", "llama3"},
               {"factor", scaling.factor},
               {"low_freq_factor", scaling.low_freq_factor},
               {"high_freq_factor", scaling.high_freq_factor}};
  const double context = scaling.original_context;
  json["original_max_position_embeddings"] =
      context == std::floor(context) ? Json(static_cast<std::int64_t>(context)) : Json(context);
  return json;
}

Result<Json> rope_scaling_of(const GgufFile& file, std::int64_t head_dim, double theta, std::int64_t context) {
  const auto refuse = [&](const std::string& reason) {
    return Error{"Cannot load a model from " + file.path().string() + ": " + reason + "."};
  };
  if (file.contains("rope_freqs.weight")) {
    auto tensor = file.tensor("rope_freqs.weight");
    if (!tensor) return tensor.error();
    const float* values = tensor->const_data_ptr<float>();
    auto scaling = llama3_scaling_from({values, values + tensor->numel()}, head_dim, theta);
    if (!scaling) return refuse("tensor 'rope_freqs.weight': " + scaling.error().message);
    return scaling;
  }
  auto type = file.value_if_present<std::string>("llama.rope.scaling.type");
  if (!type) return type.error();
  // Older files have the factor alone, and it is linear.
  auto factor = file.value_if_present<double>("llama.rope.scaling.factor");
  if (!factor) return factor.error();
  if (!*factor) factor = file.value_if_present<double>("llama.rope.scale_linear");
  if (!factor) return factor.error();
  const std::string name = type->value_or(*factor ? "linear" : "none");
  if (name == "none" || (name == "linear" && factor->value_or(1) == 1)) return Json(nullptr);
  if (!*factor) return refuse("metadata key 'llama.rope.scaling.factor' is missing");
  if (name == "linear") return Json{{"rope_type", "linear"}, {"factor", **factor}};
  if (name == "yarn") {
    auto original = file.value_if_present<std::int64_t>("llama.rope.scaling.original_context_length");
    if (!original) return original.error();
    Json scaling = {{"rope_type", "yarn"},
                    {"factor", **factor},
                    {"original_max_position_embeddings", original->value_or(context)}};
    for (const auto& [key, hugging_face] : {std::pair("attn_factor", "attention_factor"),
                                            {"yarn_beta_fast", "beta_fast"},
                                            {"yarn_beta_slow", "beta_slow"}}) {
      auto value = file.value_if_present<double>(std::string("llama.rope.scaling.") + key);
      if (!value) return value.error();
      if (*value) scaling[hugging_face] = **value;
    }
    return scaling;
  }
  return refuse("its rotary scaling '" + printable(name) + "' is not supported");
}

}  // namespace finesweep::worker
