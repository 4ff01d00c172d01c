#include "storage/store.h"

#include <SQLiteCpp/Column.h>
#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>
#include <SQLiteCpp/Transaction.h>

#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "jobs/crash_point.h"
#include "jobs/version.h"
#include "storage/database.h"
#include "storage/event_file.h"
#include "storage/fragments.h"
#include "storage/plan_table.h"
#include "storage/recorder.h"
#include "storage/run_directory.h"

namespace finesweep::storage {

namespace {

EventFile::Source events_of(SQLite::Database& database) {
  const auto line_at = [](SQLite::Statement& row) {
    return EventFile::Line{row.getColumn(0).getInt64(), row.getColumn(1).getInt64(), row.getColumn(2).getString()};
  };
  return {.last_before = [&database, line_at](std::int64_t byte) -> std::optional<EventFile::Line> {
            SQLite::Statement select(database,
                                     "SELECT n, end, json FROM events WHERE end<=? ORDER BY n DESC LIMIT 1");
            select.bind(1, byte);
            if (!select.executeStep()) return std::nullopt;
            return line_at(select);
          },
          .after =
              [&database, line_at](std::int64_t n, const std::function<void(const EventFile::Line&)>& line) {
                SQLite::Statement select(database, "SELECT n, end, json FROM events WHERE n>? ORDER BY n");
                select.bind(1, n);
                while (select.executeStep()) line(line_at(select));
              }};
}

StoredJob read_job(SQLite::Statement& row, Fragments& fragments) {
  StoredJob job;
  job.id = unpack_ids({static_cast<const char*>(row.getColumn(0).getBlob()), 16}).at(0);
  const auto state = parse_job_state(row.getColumn(1).getString());
  if (!state) throw std::runtime_error("unknown state of a job: " + row.getColumn(1).getString());
  job.state = *state;
  job.attempts = row.getColumn(2).getInt();
  job.failures = row.getColumn(3).getInt();
  job.losses = row.getColumn(4).getInt();
  job.error = row.getColumn(5).getString();
  job.in_plan = !row.isColumnNull(6);
  if (row.isColumnNull(7)) return job;
  Json outcome = fragments.get(row.getColumn(10).getInt64());
  outcome["metrics"] = Json::parse(row.getColumn(7).getString());
  outcome["history"] = row.isColumnNull(8) ? Json::array() : Json::parse(row.getColumn(8).getString());
  outcome["environment"] = fragments.get(row.getColumn(9).getInt64());
  job.outcome = outcome.get<Outcome>();
  return job;
}

}  // namespace

struct Store::Impl {
  std::filesystem::path path;
  std::unique_ptr<SQLite::Database> database;
  std::unique_ptr<Fragments> fragments;
  // Where it is open for writing:
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<EventFile> events;
  std::int64_t generation = 0;

  /// Runs `work` in a durable transaction of our generation; all of it or nothing.
  Status change(const std::string& action, const std::function<void()>& work) {
    if (!recorder) return Error{path.string() + " is open for reading alone"};
    Status status = in_database(path, action, [&] {
      SQLite::Transaction transaction(*database, SQLite::TransactionBehavior::IMMEDIATE);
      if (generation == 0) throw std::logic_error("no generation was begun");
      if (recorder->generation() != generation)
        throw std::runtime_error("another coordinator has taken over this run; this one stops");
      crash_point("commit.begun");
      work();
      crash_point("commit.before");
      transaction.commit();
      crash_point("commit.done");
    });
    if (!status) {
      recorder->rollback();
      fragments->rollback();
      return status;
    }
    events->append(recorder->new_lines_begin(), recorder->new_lines());
    recorder->commit();
    fragments->commit();
    crash_point("commit.logged");
    return {};
  }
};

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

Result<Store> Store::create_or_open(const std::filesystem::path& run_directory) {
  return create_or_open(run_directory, Options());
}

Result<Store> Store::create_or_open(const std::filesystem::path& run_directory, Options options) {
  const RunDirectory run(run_directory);
  auto impl = std::make_unique<Impl>();
  impl->path = run.database();
  auto database = open_for_writing(impl->path, options.network_file_system);
  if (!database) return database.error();
  impl->database = std::move(*database);
  impl->fragments = std::make_unique<Fragments>(*impl->database);
  impl->events = std::make_unique<EventFile>(run.events_file());
  Status repaired;
  Status read = in_database(impl->path, "read the events of", [&] {
    impl->recorder = std::make_unique<Recorder>(*impl->database, *impl->fragments);
    repaired = impl->events->open_and_repair(events_of(*impl->database));
  });
  if (!read) return read.error();
  if (!repaired) return repaired.error();
  return Store(std::move(impl));
}

Result<Store> Store::open_read_only(const std::filesystem::path& run_directory) {
  auto impl = std::make_unique<Impl>();
  impl->path = RunDirectory(run_directory).database();
  auto database = open_for_reading(impl->path);
  if (!database) return database.error();
  impl->database = std::move(*database);
  impl->fragments = std::make_unique<Fragments>(*impl->database);
  return Store(std::move(impl));
}

Result<std::int64_t> Store::begin_generation(const std::string& host, int pid, std::int64_t time_ms) {
  if (!impl_->recorder) return Error{impl_->path.string() + " is open for reading alone"};
  std::int64_t number = 0;
  Status begun = in_database(impl_->path, "begin a new generation in", [&] {
    SQLite::Database& database = *impl_->database;
    SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
    database.exec("UPDATE meta SET value=value+1 WHERE key='generation'");
    number = impl_->recorder->generation();
    SQLite::Statement insert(database, "INSERT INTO generations VALUES(?, ?, ?, ?, ?)");
    insert.bind(1, number);
    insert.bind(2, host);
    insert.bind(3, pid);
    insert.bind(4, time_ms);
    insert.bind(5, "finesweep " + std::string(kVersion));
    insert.exec();
    crash_point("generation.before_commit");
    transaction.commit();
    crash_point("generation.committed");
  });
  if (!begun) return begun.error();
  impl_->generation = number;
  return number;
}

Status Store::save_plan(const Plan& plan, const std::string& sweep_text) {
  if (impl_->recorder) impl_->recorder->forget_jobs();
  return impl_->change("save the plan in",
                       [&] { write_plan(*impl_->database, *impl_->fragments, plan, sweep_text); });
}

bool Store::has_plan() const {
  bool found = false;
  const Status read = in_database(impl_->path, "read", [&] { found = storage::has_plan(*impl_->database); });
  return read.ok() && found;
}

Result<Plan> Store::load_plan() const {
  std::optional<Plan> plan;
  Status read = in_database(impl_->path, "read the plan in", [&] {
    if (storage::has_plan(*impl_->database)) plan = read_plan(*impl_->database, *impl_->fragments);
  });
  if (!read) return read.error();
  if (!plan) return Error{impl_->path.string() + " holds no sweep yet"};
  return std::move(*plan);
}

Result<std::string> Store::load_sweep_text() const {
  std::optional<std::string> text;
  Status read = in_database(impl_->path, "read the sweep in", [&] {
    if (storage::has_plan(*impl_->database))
      text = impl_->database->execAndGet("SELECT value FROM meta WHERE key='sweep_text'").getString();
  });
  if (!read) return read.error();
  if (!text) return Error{impl_->path.string() + " holds no sweep yet"};
  return std::move(*text);
}

Result<std::vector<StoredJob>> Store::load_jobs() const {
  std::vector<StoredJob> jobs;
  Status read = in_database(impl_->path, "read the jobs in", [&] {
    const std::string columns =
        "SELECT j.id, j.state, j.attempts, j.failures, j.losses, j.error, j.position, o.metrics, o.history, "
        "o.environment, o.rest FROM jobs j LEFT JOIN outcomes o USING(seq) ";
    for (const char* which :
         {"WHERE j.position IS NOT NULL ORDER BY j.position", "WHERE j.position IS NULL ORDER BY j.seq"}) {
      SQLite::Statement select(*impl_->database, columns + which);
      while (select.executeStep()) jobs.push_back(read_job(select, *impl_->fragments));
    }
  });
  if (!read) return read.error();
  return jobs;
}

Status Store::apply(const std::vector<Change>& changes) {
  if (changes.empty()) return {};
  return impl_->change("record results in", [&] {
    for (const Change& change : changes) impl_->recorder->record(change);
  });
}

}  // namespace finesweep::storage
