#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "sweeps/pipeline.h"
#include "sweeps/resolve.h"

namespace finesweep::sweeps {

/// A piece of a configuration's label: words of the sweep file, or "the value of this swept path".
struct LabelPart {
  std::string text;
  int swept = -1;  // index in SweepDeclaration::swept, where there is no text
};

/// A configuration as the file gives it, before settings are resolved.
struct RawConfiguration {
  Given given;
  std::vector<LabelPart> label;
  /// Every part of the label is the file's own.
  bool labelled = false;
  Mark mark;  // of what made it: the included entry, or a value of the last axis
};

/// How many configurations the file spells out, before exclusions and duplicates; saturates at SIZE_MAX.
std::size_t count_configurations(const SweepDeclaration& declaration);

/// Calls `use` for each configuration in the order of the file: the cross product of the axes with the first axis
/// slowest (without axes: the pipeline as written), then the included ones.
void for_each_configuration(const SweepDeclaration& declaration,
                            const std::function<void(RawConfiguration&&)>& use);

/// Values at the swept paths as tables show them: whole numbers without a point, and of files and models the last
/// components that tell them apart, so that a table does not depend on where a sweep lies.
class SweptValues {
 public:
  explicit SweptValues(const SweepDeclaration& declaration);
  /// One for each of SweepDeclaration::swept; null where the configuration does not use the path.
  std::vector<Json> of(const Resolved& resolved) const;

 private:
  const SweepDeclaration& declaration_;
  std::vector<int> path_components_;  // 0: the path is no file
};

/// Labels such as "lora rank 8 alpha 16" from the values of SweptValues.
class LabelMaker {
 public:
  explicit LabelMaker(const SweepDeclaration& declaration);
  std::string make(const std::vector<LabelPart>& parts, const std::vector<Json>& swept) const;

 private:
  const SweepDeclaration& declaration_;
  std::vector<std::string> short_names_;
};

}  // namespace finesweep::sweeps
