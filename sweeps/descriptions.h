#pragma once

#include <string>
#include <vector>

#include "sweeps/data_info.h"
#include "sweeps/job_hash.h"
#include "sweeps/model_info.h"
#include "sweeps/pipeline.h"
#include "sweeps/resolve.h"

namespace finesweep::sweeps {

/// What determines the results of a configuration's jobs, one for each of its steps, without seeds; `inputs` are
/// filled in when ids are known. The configuration has been checked: model and data files are there.
std::vector<JobDescription> describe_jobs(const SweepDeclaration& declaration, const Resolved& resolved,
                                          ModelCatalog& models, DataCatalog& data);

/// 64 hex digits for the configuration, from its steps' names and descriptions.
std::string hash_of(const Resolved& resolved, std::vector<JobDescription> descriptions);

/// Whether the step leaves a model that later steps act on.
bool makes_model(StepKind kind);

/// Whether there is an unmerged adapter behind the step.
bool leaves_adapter(const ResolvedStep& step, bool adapter_before);
/// Whether the step leaves a base of its own: a whole model, or what the adapter behind it stands on.
bool leaves_base(const ResolvedStep& step, bool adapter_after);

/// Whether the step draws random numbers; `trained`: a training step stands before it.
bool needs_seed(const ResolvedStep& step, const Resolved& resolved, bool trained);

/// For people: "finetune lora r8 alpha 16".
std::string title_of(const ResolvedStep& step);

}  // namespace finesweep::sweeps
