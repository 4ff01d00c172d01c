#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/split.h"
#include "worker/data/table.h"

namespace finesweep::worker {

/// A row of a classification or regression task.
struct Example {
  std::string text;
  std::optional<std::string> second;  // of a pair
  Cell label;
  std::int64_t line = 0;  // in its file
};

/// What the classes of a task are, and their numbers.
class Labels {
 public:
  /// data.labels where given; else, from the labels of the training split: numbers with a fraction make a
  /// regression, integers stand for themselves, and anything else is a name, numbered in the order of code points.
  static Result<Labels> find(const DataContext& data, const std::vector<Example>& train,
                             const std::filesystem::path& train_path);
  /// As to_json wrote it.
  static Result<Labels> from_json(const Json& json);
  Json to_json() const;

  bool is_regression() const { return regression_; }
  /// Outputs that a model needs: 1 for a regression.
  std::int64_t count() const { return count_; }
  /// Empty where classes are numbers.
  const std::vector<std::string>& names() const { return names_; }

  /// The class of a row; for a regression its value. The Error says which labels are known, without file and line.
  Result<double> number_of(const Cell& label) const;

 private:
  bool regression_ = false;
  std::int64_t count_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, std::int64_t> number_by_name_;
  /// Then a number in the data is looked up as a name; else it is the class itself.
  bool names_are_numbers_ = false;

  void take_names(std::vector<std::string> names);
};

/// The rows of a split: fields chosen, limited to the first rows of a seeded shuffle where there is a limit. The
/// Error gives file and line, or says that the split is not there or has no rows.
Result<std::vector<Example>> read_split(const DataContext& data, const std::string& split);

}  // namespace finesweep::worker
