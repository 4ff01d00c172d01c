#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/plan.h"
#include "sweeps/job_hash.h"
#include "sweeps/pipeline.h"
#include "sweeps/resolve.h"

namespace finesweep::sweeps {

/// A training job whose number of epochs is swept.
struct ChainCandidate {
  std::string path;  // "finetune.epochs"
  std::int64_t epochs = 0;
  /// The job's canonical text without its epochs: jobs that share it can be one chain. Empty: they cannot.
  std::string key;
  /// Then: why.
  std::string reason;
};

std::optional<ChainCandidate> chain_candidate(const SweepDeclaration& declaration, const ResolvedStep& step,
                                              const JobDescription& description);

/// Lets jobs that differ only in their epochs continue each other, each the next shorter one, and puts jobs in an
/// order in which what a job reads or continues stands before it. Notes say what became a chain and what did not.
void form_chains(const SweepDeclaration& declaration, Plan& plan,
                 const std::vector<std::pair<std::size_t, ChainCandidate>>& candidates);

}  // namespace finesweep::sweeps
