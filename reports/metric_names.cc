#include "reports/metric_names.h"

#include <algorithm>
#include <array>
#include <utility>

namespace finesweep::reports {

namespace {

using namespace std::string_view_literals;

constexpr std::array kHeadings{
    std::pair{"f1"sv, "F1"sv},
    std::pair{"rouge1"sv, "ROUGE-1"sv},
    std::pair{"rouge2"sv, "ROUGE-2"sv},
    std::pair{"rougeL"sv, "ROUGE-L"sv},
    std::pair{"rougeLsum"sv, "ROUGE-Lsum"sv},
    std::pair{"bleu"sv, "BLEU"sv},
    std::pair{"seconds"sv, "time (s)"sv},
    std::pair{"model_mb"sv, "model size (MB)"sv},
    std::pair{"validation_loss"sv, "validation loss"sv},
    std::pair{"trainable_parameters"sv, "trainable parameters"sv},
};

/// Ends of names and what they become; the longest that fits stands first.
constexpr std::array kEndings{
    std::pair{"samples_per_second_mean"sv, "samples/s"sv},
    std::pair{"samples_per_second_std"sv, "samples/s, deviation"sv},
    std::pair{"tokens_per_second"sv, "tokens/s"sv},
    std::pair{"peak_memory_mb"sv, "peak memory (MB)"sv},
    std::pair{"_ms_mean"sv, " time (ms)"sv},
    std::pair{"_ms_std"sv, " time (ms), deviation"sv},
    std::pair{"_ms_p50"sv, " time (ms), median"sv},
    std::pair{"_ms_p99"sv, " time (ms), 99th percentile"sv},
};

constexpr std::array kLowerIsBetter{"loss"sv, "perplexity"sv, "seconds"sv,    "memory"sv,
                                    "_ms"sv,  "model_mb"sv,   "parameters"sv, "_std"sv};

}  // namespace

std::string_view step_of(std::string_view metric) {
  return metric.substr(0, metric.rfind('.') == std::string_view::npos ? 0 : metric.rfind('.'));
}

std::string_view bare_name(std::string_view metric) {
  return metric.substr(metric.rfind('.') + 1);
}

bool higher_is_better(std::string_view metric) {
  const std::string_view name = bare_name(metric);
  if (name.find("per_second") != std::string_view::npos) return !name.ends_with("_std");
  return std::ranges::none_of(kLowerIsBetter,
                              [&](std::string_view part) { return name.find(part) != std::string_view::npos; });
}

std::string heading(std::string_view metric) {
  const std::string_view name = bare_name(metric);
  std::string words(name);
  const auto whole = std::ranges::find(kHeadings, name, &std::pair<std::string_view, std::string_view>::first);
  if (whole != kHeadings.end()) {
    words = whole->second;
  } else {
    for (const auto& [ending, meaning] : kEndings) {
      if (!name.ends_with(ending)) continue;
      words = std::string(name.substr(0, name.size() - ending.size())).append(meaning);
      break;
    }
    std::ranges::replace(words, '_', ' ');
  }
  const std::string_view step = step_of(metric);
  return step.empty() ? words : std::string(step) + " " + words;
}

std::string spread_within_run(std::string_view metric) {
  if (!metric.ends_with("_mean")) return "";
  return std::string(metric.substr(0, metric.size() - 5)) + "_std";
}

bool is_spread_within_run(std::string_view metric) {
  return metric.ends_with("_std");
}

}  // namespace finesweep::reports
