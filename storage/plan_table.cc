#include "storage/plan_table.h"

#include <SQLiteCpp/Column.h>
#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>

#include <stdexcept>

#include "jobs/sha256.h"

namespace finesweep::storage {

namespace {

void bind_blob(SQLite::Statement& statement, int index, const std::string& bytes) {
  // An empty blob, not NULL.
  statement.bind(index, static_cast<const void*>(bytes.data()), static_cast<int>(bytes.size()));
}

std::string_view blob(const SQLite::Column& column) {
  const void* bytes = column.getBlob();
  return {static_cast<const char*>(bytes), bytes ? static_cast<std::size_t>(column.getBytes()) : 0};
}

/// The plan without trials and jobs.
Json header_of(const Plan& plan) {
  Plan header;
  header.name = plan.name;
  header.swept_paths = plan.swept_paths;
  header.report = plan.report;
  header.resources = plan.resources;
  header.notes = plan.notes;
  return header;
}

void write_jobs(SQLite::Database& database, Fragments& fragments, const std::vector<Job>& jobs) {
  database.exec("UPDATE jobs SET position=NULL WHERE position IS NOT NULL");
  SQLite::Statement place(database,
                          "INSERT INTO jobs(id, position, state, attempts, failures, losses, error) "
                          "VALUES(?, ?, 'pending', 0, 0, 0, '') "
                          "ON CONFLICT(id) DO UPDATE SET position=excluded.position RETURNING seq");
  SQLite::Statement specify(database,
                            "INSERT OR REPLACE INTO job_specs(seq, title, seed, inputs, continues, settings, "
                            "context, rest) VALUES(?, ?, ?, ?, ?, ?, ?, ?)");
  std::int64_t position = 0;
  for (const Job& job : jobs) {
    place.reset();
    place.bind(1, job.id.bytes().data(), 16);
    place.bind(2, position++);
    place.executeStep();
    const std::int64_t seq = place.getColumn(0).getInt64();
    place.executeStep();

    Json rest = job;
    for (const char* elsewhere : {"id", "title", "seed", "inputs", "continues", "settings", "context"})
      rest.erase(elsewhere);
    specify.reset();
    specify.clearBindings();
    specify.bind(1, seq);
    specify.bind(2, job.title);
    if (job.seed) specify.bind(3, static_cast<std::int64_t>(*job.seed));
    bind_blob(specify, 4, pack_ids(job.inputs));
    if (job.continues) bind_blob(specify, 5, pack_ids({*job.continues}));
    specify.bind(6, fragments.put(job.settings));
    specify.bind(7, fragments.put(job.context));
    specify.bind(8, fragments.put(rest));
    specify.exec();
  }
}

void write_trials(SQLite::Database& database, Fragments& fragments, const std::vector<Trial>& trials) {
  database.exec("DELETE FROM trials");
  SQLite::Statement insert(database, "INSERT INTO trials VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)");
  std::int64_t position = 0;
  for (const Trial& trial : trials) {
    Json steps = Json::array();
    std::vector<JobId> jobs;
    for (const TrialStep& step : trial.steps) {
      steps.push_back({step.name, std::string(step_kind_name(step.kind))});
      jobs.push_back(step.job);
    }
    insert.reset();
    insert.bind(1, position++);
    insert.bind(2, trial.name);
    insert.bind(3, trial.configuration);
    insert.bind(4, trial.label);
    insert.bind(5, trial.repeat);
    insert.bind(6, static_cast<std::int64_t>(trial.seed));
    insert.bind(7, Json(trial.swept).dump());
    insert.bind(8, fragments.put(steps));
    bind_blob(insert, 9, pack_ids(jobs));
    insert.exec();
  }
}

std::vector<Job> read_jobs(SQLite::Database& database, Fragments& fragments) {
  std::vector<Job> jobs;
  SQLite::Statement select(
      database,
      "SELECT j.id, s.title, s.seed, s.inputs, s.continues, s.settings, s.context, s.rest "
      "FROM jobs j JOIN job_specs s USING(seq) WHERE j.position IS NOT NULL ORDER BY j.position");
  while (select.executeStep()) {
    Json json = fragments.get(select.getColumn(7).getInt64());
    json["id"] = unpack_ids(blob(select.getColumn(0))).at(0);
    json["title"] = select.getColumn(1).getString();
    if (!select.isColumnNull(2)) json["seed"] = static_cast<std::uint64_t>(select.getColumn(2).getInt64());
    json["inputs"] = unpack_ids(blob(select.getColumn(3)));
    if (!select.isColumnNull(4)) json["continues"] = unpack_ids(blob(select.getColumn(4))).at(0);
    json["settings"] = fragments.get(select.getColumn(5).getInt64());
    json["context"] = fragments.get(select.getColumn(6).getInt64());
    jobs.push_back(json.get<Job>());
  }
  return jobs;
}

std::vector<Trial> read_trials(SQLite::Database& database, Fragments& fragments) {
  std::vector<Trial> trials;
  SQLite::Statement select(database,
                           "SELECT name, configuration, label, repeat, seed, swept, steps, jobs FROM trials "
                           "ORDER BY position");
  while (select.executeStep()) {
    Trial trial;
    trial.name = select.getColumn(0).getString();
    trial.configuration = select.getColumn(1).getString();
    trial.label = select.getColumn(2).getString();
    trial.repeat = select.getColumn(3).getInt();
    trial.seed = static_cast<std::uint64_t>(select.getColumn(4).getInt64());
    trial.swept = Json::parse(select.getColumn(5).getString()).get<std::vector<Json>>();
    const std::vector<JobId> jobs = unpack_ids(blob(select.getColumn(7)));
    std::size_t index = 0;
    for (const Json& step : fragments.get(select.getColumn(6).getInt64())) {
      const auto kind = parse_step_kind(step.at(1).get<std::string>());
      if (!kind) throw std::invalid_argument("unknown kind of step");
      trial.steps.push_back({step.at(0).get<std::string>(), *kind, jobs.at(index++)});
    }
    trials.push_back(std::move(trial));
  }
  return trials;
}

}  // namespace

std::string pack_ids(const std::vector<JobId>& ids) {
  std::string bytes;
  bytes.reserve(ids.size() * 16);
  for (const JobId& id : ids) bytes.append(reinterpret_cast<const char*>(id.bytes().data()), 16);
  return bytes;
}

std::vector<JobId> unpack_ids(std::string_view bytes) {
  if (bytes.size() % 16 != 0) throw std::invalid_argument("ids of a job that are not 16 bytes long");
  std::vector<JobId> ids;
  for (std::size_t at = 0; at < bytes.size(); at += 16)
    ids.push_back(*JobId::parse(to_hex(reinterpret_cast<const std::uint8_t*>(bytes.data()) + at, 16)));
  return ids;
}

void write_plan(SQLite::Database& database, Fragments& fragments, const Plan& plan, const std::string& sweep_text) {
  write_jobs(database, fragments, plan.jobs);
  write_trials(database, fragments, plan.trials);
  SQLite::Statement set(database, "INSERT OR REPLACE INTO meta VALUES(?, ?)");
  for (const auto& [key, value] :
       {std::pair{"plan", header_of(plan).dump()}, std::pair{"sweep_text", sweep_text}}) {
    set.reset();
    set.bind(1, key);
    set.bind(2, value);
    set.exec();
  }
}

bool has_plan(SQLite::Database& database) {
  return database.execAndGet("SELECT count(*) FROM meta WHERE key='plan'").getInt() > 0;
}

Plan read_plan(SQLite::Database& database, Fragments& fragments) {
  const std::string header = database.execAndGet("SELECT value FROM meta WHERE key='plan'").getString();
  Plan plan = Json::parse(header).get<Plan>();
  plan.jobs = read_jobs(database, fragments);
  plan.trials = read_trials(database, fragments);
  return plan;
}

}  // namespace finesweep::storage
