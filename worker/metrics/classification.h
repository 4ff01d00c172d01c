#pragma once

#include <cstdint>
#include <span>

namespace finesweep::worker {

// As scikit-learn defines them. `labels` and `predictions` have one length; of nothing, everything is 0.

/// The share of rows that are right.
double accuracy(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// F1 of class 1; 0 where there is nothing to divide by.
double f1_binary(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// The mean of the F1 of every class that occurs among labels or predictions.
double f1_macro(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// F1 with the hits and misses of all classes thrown together: the accuracy, where every row has one class.
double f1_micro(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// The mean of the F1 of every class, weighted by the rows that have it as their label.
double f1_weighted(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// Matthews' correlation coefficient, from -1 to 1 (for more than two classes: Gorodkin 2004); 0 where all labels
/// or all predictions are the same.
double matthews_correlation(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions);

/// What `evaluate` reports as f1: binary for two classes, macro for more.
double f1(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions, std::int64_t classes);

}  // namespace finesweep::worker
