#pragma once

#include <string>

#include "jobs/plan.h"
#include "jobs/result.h"

namespace finesweep::coordinator {

/// The trial that a user means: by its name ("1a2b3c4d.0"), the beginning of one, or the label of its
/// configuration. The Error lists what it may be where it is several, or what there is where it is none.
Result<const Trial*> find_trial(const Plan& plan, const std::string& wanted);

}  // namespace finesweep::coordinator
