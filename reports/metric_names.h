#pragma once

#include <string>
#include <string_view>

namespace finesweep::reports {

// Metrics are named `step.metric`: "test.accuracy", "finetune.peak_memory_mb", "benchmark.forward_ms_mean".

std::string_view step_of(std::string_view metric);
std::string_view bare_name(std::string_view metric);

/// Whether more is better by the metric's nature (accuracy) or worse (loss, seconds, memory).
bool higher_is_better(std::string_view metric);

/// For a column of a table, with its unit: "test accuracy", "finetune peak memory (MB)".
std::string heading(std::string_view metric);

/// The spread within one run that goes with a mean within one run: "x.batch_ms_std" for "x.batch_ms_mean"; empty
/// for any other metric.
std::string spread_within_run(std::string_view metric);
bool is_spread_within_run(std::string_view metric);

}  // namespace finesweep::reports
