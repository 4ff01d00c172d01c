#include "storage/recorder.h"

#include <SQLiteCpp/Column.h>
#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace finesweep::storage {

namespace {

/// Resets a kept statement when its use ends, also by an exception: a statement in progress would hold the
/// transaction open.
class Use {
 public:
  explicit Use(SQLite::Statement& statement) : statement_(statement) {}
  ~Use() { statement_.tryReset(); }
  Use(const Use&) = delete;
  SQLite::Statement* operator->() { return &statement_; }

  template <typename... Values>
  int run(const Values&... values) {
    int index = 0;
    (statement_.bind(++index, values), ...);
    return statement_.exec();
  }

 private:
  SQLite::Statement& statement_;
};

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Messages come from libraries and files; the database keeps UTF-8.
std::string as_utf8(const std::string& message) {
  if (std::ranges::all_of(message, [](unsigned char c) { return c < 0x80; })) return message;
  return Json::parse(text_of(message)).get<std::string>();
}

/// One line of events.jsonl, written straight as text: there are several to every job.
class EventLine {
 public:
  EventLine(std::int64_t n, std::int64_t time_ms) {
    text_.reserve(160);
    text_ += "{\"n\":" + std::to_string(n) + ",\"time\":" + std::to_string(time_ms);
  }
  EventLine& add(std::string_view key, const std::string& value) {
    const bool plain =
        std::ranges::all_of(value, [](unsigned char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; });
    return add_json(key, plain ? "\"" + value + "\"" : text_of(value));
  }
  EventLine& add(std::string_view key, std::int64_t value) { return add_json(key, std::to_string(value)); }
  EventLine& add_json(std::string_view key, const std::string& json) {
    text_.append(",\"").append(key).append("\":").append(json);
    return *this;
  }
  std::string finish() { return std::move(text_) + "}"; }

 private:
  std::string text_;
};

}  // namespace

struct Recorder::Impl {
  SQLite::Database& database;
  Fragments& fragments;
  std::unordered_map<JobId, std::int64_t> rows;  // of jobs, as they are needed

  // The last event, committed and of the running transaction.
  std::int64_t last_event = 0, last_end = 0;
  std::int64_t committed_event = 0, committed_end = 0;
  std::string lines;
  std::array<std::optional<std::int64_t>, 2> rests;

  SQLite::Statement select_generation{database, "SELECT value FROM meta WHERE key='generation'"};
  SQLite::Statement select_row{database, "SELECT seq FROM jobs WHERE id=?"};
  SQLite::Statement select_state{database, "SELECT state, attempts FROM jobs WHERE seq=?"};
  SQLite::Statement start_job{database,
                              "UPDATE jobs SET state='running', attempts=?2 "
                              "WHERE seq=?1 AND attempts<?2 AND state<>'succeeded'"};
  SQLite::Statement start_attempt{
      database, "INSERT INTO attempts(job, number, worker, host, started_ms) VALUES(?, ?, ?, ?, ?)"};
  SQLite::Statement end_attempt{database,
                                "UPDATE attempts SET ended_ms=?3, reason=?4, error=?5 WHERE job=?1 AND number=?2"};
  SQLite::Statement release_job{database,
                                "UPDATE jobs SET state='pending' WHERE seq=? AND attempts=? AND state='running'"};
  SQLite::Statement succeed_job{
      database, "UPDATE jobs SET state='succeeded', error='' WHERE seq=? AND attempts=? AND state<>'succeeded'"};
  SQLite::Statement insert_outcome{database,
                                   "INSERT INTO outcomes(seq, attempt, metrics, history, environment, rest) "
                                   "VALUES(?, ?, ?, ?, ?, ?)"};
  SQLite::Statement end_job{database, "UPDATE jobs SET state=?2, error=?3 WHERE seq=?1 AND state<>'succeeded'"};
  SQLite::Statement reset_job{database,
                              "UPDATE jobs SET state='pending', failures=0, losses=0, error='' "
                              "WHERE seq=? AND state IN ('failed', 'cancelled')"};
  SQLite::Statement forget_success{
      database,
      "UPDATE jobs SET state='pending', failures=0, losses=0, error='' WHERE seq=? AND state='succeeded'"};
  SQLite::Statement delete_outcome{database, "DELETE FROM outcomes WHERE seq=?"};
  SQLite::Statement count_job{database, "UPDATE jobs SET failures=?2, losses=?3 WHERE seq=?1"};
  SQLite::Statement insert_event{database, "INSERT INTO events(n, end, json) VALUES(?, ?, ?)"};

  Impl(SQLite::Database& db, Fragments& shared) : database(db), fragments(shared) {
    SQLite::Statement last(database, "SELECT n, end FROM events ORDER BY n DESC LIMIT 1");
    if (!last.executeStep()) return;
    committed_event = last_event = last.getColumn(0).getInt64();
    committed_end = last_end = last.getColumn(1).getInt64();
  }

  std::int64_t row_of(const JobId& job) {
    if (const auto known = rows.find(job); known != rows.end()) return known->second;
    Use select(select_row);
    select->bindNoCopy(1, job.bytes().data(), 16);
    if (!select->executeStep()) throw std::runtime_error("job " + job.hex() + " was never planned");
    return rows.emplace(job, select->getColumn(0).getInt64()).first->second;
  }

  [[noreturn]] void refuse(const JobId& job, const std::string& what) {
    Use select(select_state);
    select->bind(1, row_of(job));
    select->executeStep();
    throw std::runtime_error(what + " of job " + job.hex() + " is refused: the job is " +
                             select->getColumn(0).getString() + " and its newest attempt is " +
                             std::to_string(select->getColumn(1).getInt()));
  }

  /// `describe` adds what the event is to its line.
  template <typename Describe>
  void log_event(std::int64_t time_ms, Describe&& describe) {
    EventLine line(++last_event, time_ms);
    describe(line);
    const std::string text = line.finish();
    last_end += static_cast<std::int64_t>(text.size()) + 1;
    Use(insert_event).run(last_event, last_end, text);
    lines.append(text).append("\n");
  }

  /// The fragment of what all successful outcomes with or without an artifact have in common.
  std::int64_t rest_of(bool has_artifact) {
    std::optional<std::int64_t>& known = rests[has_artifact ? 1 : 0];
    if (!known) {
      Outcome outcome;
      outcome.kind = OutcomeKind::succeeded;
      outcome.has_artifact = has_artifact;
      Json rest = outcome;
      for (const char* elsewhere : {"metrics", "history", "environment"}) rest.erase(elsewhere);
      known = fragments.put(rest);
    }
    return *known;
  }

  void operator()(const AttemptStarted& change) {
    const JobId& job = change.attempt.job;
    const AttemptNumber number = change.attempt.number;
    const std::int64_t row = row_of(job);
    if (Use(start_job).run(row, number) == 0) refuse(job, "attempt " + std::to_string(number));
    Use(start_attempt).run(row, number, change.worker_rank, change.host, change.time_ms);
    log_event(change.time_ms, [&](EventLine& line) {
      line.add("event", "attempt_started").add("job", job.hex()).add("attempt", number);
      line.add("worker", change.worker_rank).add("host", change.host);
      if (change.pack_jobs > 1) line.add("pack", change.pack_jobs).add("pack_first", change.pack_first.hex());
    });
  }

  void operator()(const AttemptEnded& change) {
    const JobId& job = change.attempt.job;
    const AttemptNumber number = change.attempt.number;
    const std::int64_t row = row_of(job);
    const std::string reason(attempt_end_name(change.reason));
    const std::string error = as_utf8(change.error);
    if (Use(end_attempt).run(row, number, change.time_ms, reason, error) == 0)
      refuse(job, "the end of attempt " + std::to_string(number) + ", which was never started,");
    Use(release_job).run(row, number);
    log_event(change.time_ms, [&](EventLine& line) {
      line.add("event", "attempt_ended").add("job", job.hex()).add("attempt", number).add("reason", reason);
      if (!error.empty()) line.add("error", error);
    });
  }

  void operator()(const JobSucceeded& change) {
    const JobId& job = change.attempt.job;
    const AttemptNumber number = change.attempt.number;
    if (change.outcome.kind != OutcomeKind::succeeded) refuse(job, "an outcome that is no success");
    const std::int64_t row = row_of(job);
    if (Use(succeed_job).run(row, number) == 0) refuse(job, "the result of attempt " + std::to_string(number));

    Json metrics = Json::object();
    for (const auto& [name, value] : change.outcome.metrics)
      if (std::isfinite(value)) metrics[name] = value;
    Json history = Json::array();
    for (const HistoryPoint& point : change.outcome.history)
      if (std::isfinite(point.epoch) && std::isfinite(point.value)) history.push_back(point);
    const std::string metrics_text = text_of(metrics);

    Use insert(insert_outcome);
    insert->clearBindings();
    insert->bind(1, row);
    insert->bind(2, number);
    insert->bindNoCopy(3, metrics_text);
    if (!history.empty()) insert->bind(4, text_of(history));
    insert->bind(5, fragments.put(change.outcome.environment));
    insert->bind(6, rest_of(change.outcome.has_artifact));
    insert->exec();
    log_event(change.time_ms, [&](EventLine& line) {
      line.add("event", "job_succeeded").add("job", job.hex()).add("attempt", number);
      line.add_json("metrics", metrics_text);
    });
  }

  void end(const JobId& job, JobState state, const std::string& message, std::int64_t time_ms) {
    const std::string name(job_state_name(state));
    const std::string error = as_utf8(message);
    if (Use(end_job).run(row_of(job), name, error) == 0) refuse(job, "'" + name + "'");
    log_event(time_ms,
              [&](EventLine& line) { line.add("event", "job_" + name).add("job", job.hex()).add("error", error); });
  }
  void operator()(const JobFailed& change) { end(change.job, JobState::failed, change.error, change.time_ms); }
  void operator()(const JobCancelled& change) {
    end(change.job, JobState::cancelled, change.error, change.time_ms);
  }

  void operator()(const JobReset& change) {
    if (Use(reset_job).run(row_of(change.job)) == 0) refuse(change.job, "another run");
    log_event(change.time_ms,
              [&](EventLine& line) { line.add("event", "job_reset").add("job", change.job.hex()); });
  }

  void operator()(const ArtifactLost& change) {
    const std::int64_t row = row_of(change.job);
    if (Use(forget_success).run(row) == 0) refuse(change.job, "the loss of the artifact");
    Use(delete_outcome).run(row);
    log_event(change.time_ms,
              [&](EventLine& line) { line.add("event", "artifact_lost").add("job", change.job.hex()); });
  }

  void operator()(const JobCounters& change) {
    Use(count_job).run(row_of(change.job), change.failures, change.losses);
  }

  void operator()(const EventLogged& change) {
    if (!change.event.is_object()) throw std::logic_error("an event that is no JSON object");
    log_event(change.time_ms, [&](EventLine& line) {
      for (const auto& [key, value] : change.event.items()) {
        if (key == "n" || key == "time") continue;
        const std::string quoted = text_of(key);
        line.add_json(quoted.substr(1, quoted.size() - 2), text_of(value));
      }
    });
  }
};

Recorder::Recorder(SQLite::Database& database, Fragments& fragments)
    : impl_(std::make_unique<Impl>(database, fragments)) {}
Recorder::~Recorder() = default;

std::int64_t Recorder::generation() {
  Use select(impl_->select_generation);
  select->executeStep();
  return select->getColumn(0).getInt64();
}

void Recorder::forget_jobs() {
  impl_->rows.clear();
}
void Recorder::record(const Change& change) {
  std::visit(*impl_, change);
}
const std::string& Recorder::new_lines() const {
  return impl_->lines;
}
std::int64_t Recorder::new_lines_begin() const {
  return impl_->committed_end;
}

void Recorder::commit() {
  impl_->committed_event = impl_->last_event;
  impl_->committed_end = impl_->last_end;
  impl_->lines.clear();
}

void Recorder::rollback() {
  impl_->last_event = impl_->committed_event;
  impl_->last_end = impl_->committed_end;
  impl_->lines.clear();
  impl_->rests = {};
}

}  // namespace finesweep::storage
