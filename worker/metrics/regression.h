#pragma once

#include <span>

namespace finesweep::worker {

// As SciPy and scikit-learn define them. `labels` and `predictions` have one length.

/// 0 of nothing.
double mean_squared_error(std::span<const double> labels, std::span<const double> predictions);

/// From -1 to 1; NaN of fewer than two values, and where all values of a side are the same.
double pearson_correlation(std::span<const double> labels, std::span<const double> predictions);

/// The Pearson correlation of ranks; equal values share the mean of their ranks.
double spearman_correlation(std::span<const double> labels, std::span<const double> predictions);

}  // namespace finesweep::worker
