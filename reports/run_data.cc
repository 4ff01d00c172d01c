#include "reports/run_data.h"

#include <utility>

namespace finesweep::reports {

Result<RunData> read_run_data(const storage::Store& store) {
  Result<Plan> plan = store.load_plan();
  if (!plan) return plan.error();
  Result<std::vector<storage::StoredJob>> jobs = store.load_jobs();
  if (!jobs) return jobs.error();
  RunData data;
  data.plan = std::move(*plan);
  for (storage::StoredJob& job : *jobs)
    if (job.in_plan) data.jobs.emplace(job.id, std::move(job));
  return data;
}

}  // namespace finesweep::reports
