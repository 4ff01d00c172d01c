#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "jobs/result.h"

namespace finesweep::slurm {

/// The id in the answer of `sbatch --parsable`: "17", or "17;cluster". Lines before it are a site's greetings.
Result<std::string> parse_job_id(const std::string& answer);

/// Hands the script to sbatch, with the user's own arguments before it; these override what the script asks for.
/// Returns the job's id. The Error holds sbatch's words.
Result<std::string> submit(const std::filesystem::path& script, const std::vector<std::string>& arguments);

/// Has Slurm end the job and start it again later under the same id: an Error says why it does not. Refused, too,
/// for a job that is no longer running, so that a cancelled one stays cancelled. After success this process is
/// about to be killed.
Status requeue(const std::string& job);

/// Ends the job for good.
Status cancel(const std::string& job);

}  // namespace finesweep::slurm
