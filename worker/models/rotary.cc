#include "worker/models/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "worker/models/family.h"

namespace finesweep::worker {
namespace {

constexpr double kPi = 3.14159265358979323846;

/// What a config says, wherever it says it.
struct Asked {
  Json parameters = Json::object();
  std::string key = "rope_parameters";  // for messages
  std::string type = "default";
  double theta = 10000;
  std::int64_t head_size = 0, positions = 0;
};

Error wrong(const Asked& asked, const std::string& what) {
  return Error{"\"" + asked.key + "\": " + what};
}

Result<double> number(const Asked& asked, const char* key, std::optional<double> otherwise = {}) {
  const auto found = asked.parameters.find(key);
  const bool absent = found == asked.parameters.end() || found->is_null();
  if (absent && otherwise) return *otherwise;
  if (absent) return wrong(asked, "\"" + std::string(key) + "\" is missing");
  if (!found->is_number() || !std::isfinite(found->get<double>()) || found->get<double>() <= 0) {
    return wrong(asked, "\"" + std::string(key) + "\" must be a positive number, and is " + found->dump());
  }
  return found->get<double>();
}

Result<Asked> read(const Json& config) {
  Asked asked;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {  // the older one wins, as in transformers
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || (found->is_object() && found->empty())) continue;
    asked.key = key;
    if (!found->is_object()) return wrong(asked, "must be an object, and is " + found->dump());
    asked.parameters = *found;
  }
  const Json type = asked.parameters.value("rope_type", asked.parameters.value("type", Json("default")));
  if (!type.is_string()) return wrong(asked, "\"rope_type\" must be a name, and is " + type.dump());
  asked.type = type.get<std::string>();
  const Result<double> outside = config_number(config, "rope_theta", 10000);
  if (!outside) return Error{outside.error()};
  const Result<double> theta = number(asked, "rope_theta", *outside);
  if (!theta) return Error{theta.error()};
  if (!(*theta > 0)) return Error{"\"rope_theta\" must be a positive number"};
  asked.theta = *theta;
  const Json share = config.value("partial_rotary_factor", Json());
  for (const Json& partial : {asked.parameters.value("partial_rotary_factor", share), share}) {
    if (!partial.is_null() && partial != 1) {
      return Error{"\"partial_rotary_factor\" " + partial.dump() + " is not supported; 1 is"};
    }
  }
  return asked;
}

/// theta^(2i / head size)
at::Tensor periods(const Asked& asked) {
  const at::Tensor exponent = at::arange(0, asked.head_size, 2, at::kLong).to(at::kFloat) / asked.head_size;
  return at::pow(at::Scalar(asked.theta), exponent);
}

/// How long a text the model was trained on, where positions were stretched afterwards.
Result<double> original_positions(const Json& config, const Asked& asked) {
  if (!config.value("original_max_position_embeddings", Json()).is_null()) {
    const Result<std::int64_t> outside = config_integer(config, "original_max_position_embeddings");
    if (!outside) return Error{outside.error()};
    return static_cast<double>(*outside);
  }
  return number(asked, "original_max_position_embeddings", static_cast<double>(asked.positions));
}

Result<RotaryFrequencies> linear(const Asked& asked) {
  const Result<double> factor = number(asked, "factor");
  if (!factor) return Error{factor.error()};
  return RotaryFrequencies{at::reciprocal(periods(asked)) / *factor};
}

/// Long waves are stretched by `factor`, short ones are not, and those between in part.
Result<RotaryFrequencies> llama3(const Json& config, const Asked& asked) {
  const Result<double> factor = number(asked, "factor"), low = number(asked, "low_freq_factor"),
                       high = number(asked, "high_freq_factor"), original = original_positions(config, asked);
  for (const auto* value : {&factor, &low, &high, &original}) {
    if (!*value) return Error{value->error()};
  }
  if (*high <= *low) return wrong(asked, "\"high_freq_factor\" must be above \"low_freq_factor\"");
  const at::Tensor inverse = at::reciprocal(periods(asked));
  const at::Tensor wave = at::reciprocal(inverse) * (2 * kPi);
  const at::Tensor is_long = wave.gt(*original / *low), is_short = wave.lt(*original / *high);
  const at::Tensor stretched = at::where(is_long, inverse / *factor, inverse);
  const at::Tensor smooth = (at::reciprocal(wave) * *original - *low) / (*high - *low);
  const at::Tensor between = (1 - smooth) * stretched / *factor + smooth * stretched;
  return RotaryFrequencies{at::where(is_long.logical_or(is_short), stretched, between)};
}

/// The index of the frequency that turns `turns` times within the trained positions.
double turning_index(double turns, const Asked& asked, double original) {
  return static_cast<double>(asked.head_size) * std::log(original / (turns * 2 * kPi)) /
         (2 * std::log(asked.theta));
}

/// 0 where it is absent.
Result<double> number_or_zero(const Asked& asked, const char* key) {
  const auto found = asked.parameters.find(key);
  if (found != asked.parameters.end() && found->is_number() && found->get<double>() == 0) return 0.0;
  return number(asked, key, 0);
}

double yarn_magnitude(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

Result<RotaryFrequencies> yarn(const Json& config, const Asked& asked) {
  const Result<double> original = original_positions(config, asked);
  if (!original) return Error{original.error()};
  const Result<double> factor = number(asked, "factor", static_cast<double>(asked.positions) / *original),
                       fast = number(asked, "beta_fast", 32), slow = number(asked, "beta_slow", 1),
                       scale = number_or_zero(asked, "mscale"), scale_all = number_or_zero(asked, "mscale_all_dim"),
                       given = number(asked, "attention_factor", 0);
  for (const auto* value : {&factor, &fast, &slow, &scale, &scale_all, &given}) {
    if (!*value) return Error{value->error()};
  }
  double low = turning_index(*fast, asked, *original), high = turning_index(*slow, asked, *original);
  if (asked.parameters.value("truncate", Json(true)) != false) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(asked.head_size - 1));
  if (low == high) high += 0.001;
  const at::Tensor period = periods(asked);
  const at::Tensor ramp = at::clamp((at::arange(asked.head_size / 2, at::kFloat) - low) / (high - low), 0, 1);
  const at::Tensor unstretched = 1 - ramp;
  RotaryFrequencies result;
  result.inverse = at::reciprocal(period * *factor) * (1 - unstretched) + at::reciprocal(period) * unstretched;
  const bool two_scales = *scale > 0 && *scale_all > 0;
  result.magnitude = *given > 0   ? *given
                     : two_scales ? yarn_magnitude(*factor, *scale) / yarn_magnitude(*factor, *scale_all)
                                  : yarn_magnitude(*factor, 1);
  return result;
}

}  // namespace

Result<RotaryFrequencies> read_rotary(const Json& config, std::int64_t head_size, std::int64_t positions) {
  Result<Asked> asked = read(config);
  if (!asked) return Error{asked.error()};
  asked->head_size = head_size;
  asked->positions = positions;
  if (head_size % 2 != 0) {
    return Error{"\"head_dim\" " + std::to_string(head_size) + " is odd: a rotary embedding turns pairs"};
  }
  if (asked->type == "default" || asked->type == "dynamic") {
    return RotaryFrequencies{at::reciprocal(periods(*asked))};
  }
  if (asked->type == "linear") return linear(*asked);
  if (asked->type == "llama3") return llama3(config, *asked);
  if (asked->type == "yarn") return yarn(config, *asked);
  return wrong(*asked, "\"rope_type\" \"" + asked->type +
                           "\" is not supported; default, linear, dynamic, llama3 and yarn are");
}

RotaryTable rotary_table(const RotaryFrequencies& frequencies, std::int64_t positions, c10::Device device) {
  const at::Tensor angles = at::outer(at::arange(positions, at::kFloat), frequencies.inverse);
  return {(angles.cos() * frequencies.magnitude).to(device), (angles.sin() * frequencies.magnitude).to(device)};
}

}  // namespace finesweep::worker
