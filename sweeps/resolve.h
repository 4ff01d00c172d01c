#pragma once

#include <optional>
#include <string>
#include <vector>

#include "jobs/settings_table.h"
#include "sweeps/model_info.h"
#include "sweeps/pipeline.h"

namespace finesweep::sweeps {

/// A step of one configuration with every setting that it can use.
struct ResolvedStep {
  int index = 0;  // in the pipeline
  StepKind kind = StepKind::finetune;
  std::string name;
  /// Defaults filled in; nested where keys are dotted. Holds only what is part of the job's id.
  Json settings = Json::object();
  /// Scheduling settings, which are not.
  double checkpoint_every_s = 60;
  StepFacts facts;
};

/// A given setting that a step cannot use.
struct Dropped {
  std::string path;
  Use use;
};

/// One configuration, resolved. Steps that are left out are not among `steps`.
struct Resolved {
  Task task = Task::classification;
  std::string model;
  const ModelInfo* info = nullptr;  // null where the model cannot be read (reported elsewhere)
  bool source_target = false;
  Json data = Json::object();  // as in Job::context
  std::vector<ResolvedStep> steps;
  std::vector<Dropped> dropped;

  /// The value of a path that this configuration uses, or null.
  Json value_of(const Target& target) const;
};

/// Fills in defaults, drops what cannot be used. Checks nothing: see check.h.
Resolved resolve(const SweepDeclaration& declaration, const Given& given, ModelCatalog& models);

}  // namespace finesweep::sweeps
