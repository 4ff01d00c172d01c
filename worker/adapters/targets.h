#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/adapters/adapter.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// A linear module that an adapter works on, or one part of a stacked one.
struct Target {
  std::string path;
  LinearModule* module = nullptr;
  std::size_t part = 0;
  /// The part's outputs are columns out_begin … out_begin + out of the module's.
  std::int64_t out_begin = 0, out = 0, in = 0;
};

/// A name that matches no linear module is a user's mistake; in a file it means nothing, since lists there name the
/// modules of several families.
enum class UnmatchedTargets { refuse, ignore };

/// The modules that the options' targets, or their expression, match, in the order of the model: at least one, and
/// none of the head, which is trained whole. The Error names the target that matches nothing, the embedding that
/// one matches, or the expression that is none.
Result<std::vector<Target>> find_targets(Model& model, const AdapterOptions& options, UnmatchedTargets unmatched);

/// Those of the targets whose input is scaled: the options' feed-forward targets as PEFT matches them, ends of
/// paths whether or not after a dot.
Result<std::vector<bool>> find_feedforward(const std::vector<Target>& targets, const AdapterOptions& options);

/// The one name that means every linear module.
inline constexpr std::string_view kAllLinear = "all-linear";

/// PEFT's rule: `target` is the whole module path or its end after a dot.
bool target_matches(std::string_view target, std::string_view module_path);

/// The module's weight belongs to another one: an output embedding that is the input embedding too.
bool shares_its_weight(const LinearModule& module);

/// PEFT's rule for rank_pattern and alpha_pattern: the expression matches the whole path or its end after a dot.
/// The Error says that it is no regular expression.
Result<bool> pattern_matches(const std::string& expression, const std::string& path);

}  // namespace finesweep::worker
