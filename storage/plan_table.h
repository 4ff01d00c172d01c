#pragma once

#include <string>

#include "jobs/plan.h"
#include "storage/fragments.h"

namespace finesweep::storage {

// The plan in the database: tables jobs, job_specs and trials. Inside a transaction of the caller's; they throw
// what SQLiteCpp and JSON throw.

void write_plan(SQLite::Database& database, Fragments& fragments, const Plan& plan, const std::string& sweep_text);
bool has_plan(SQLite::Database& database);
Plan read_plan(SQLite::Database& database, Fragments& fragments);

/// Ids, one after the other, 16 bytes each.
std::string pack_ids(const std::vector<JobId>& ids);
std::vector<JobId> unpack_ids(std::string_view bytes);

}  // namespace finesweep::storage
