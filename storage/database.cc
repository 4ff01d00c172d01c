#include "storage/database.h"

#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Exception.h>
#include <SQLiteCpp/Statement.h>
#include <SQLiteCpp/Transaction.h>
#include <sqlite3.h>

#include <cstdio>
#include <system_error>
#include <utility>

#include "jobs/crash_point.h"
#include "jobs/version.h"
#include "storage/file_system.h"
#include "storage/files.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

constexpr int kApplicationId = 0x46535750;  // "FSWP"
constexpr int kBusyTimeoutMs = 5000;

// Ids of jobs are 16 bytes. What many rows repeat (settings, contexts, environments) stands once in fragments. What
// changes while a sweep runs is in small rows of its own.
constexpr const char* kSchema = R"sql(
CREATE TABLE meta(
  key TEXT PRIMARY KEY,            -- written_by, generation, plan, sweep_text
  value NOT NULL) WITHOUT ROWID;
CREATE TABLE generations(          -- lives of the coordinator
  number INTEGER PRIMARY KEY,
  host TEXT NOT NULL, pid INTEGER NOT NULL, started_ms INTEGER NOT NULL, program TEXT NOT NULL);
CREATE TABLE fragments(
  id INTEGER PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,     -- first 128 bits of the SHA-256 of json
  json TEXT NOT NULL);
CREATE TABLE jobs(
  seq INTEGER PRIMARY KEY,         -- in the order in which jobs were first planned
  id BLOB NOT NULL UNIQUE,
  position INTEGER,                -- in the current plan; NULL: it needs the job no longer
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL,       -- the highest number given
  failures INTEGER NOT NULL, losses INTEGER NOT NULL,
  error TEXT NOT NULL);
CREATE INDEX jobs_by_position ON jobs(position) WHERE position IS NOT NULL;
CREATE TABLE job_specs(
  seq INTEGER PRIMARY KEY,
  title TEXT NOT NULL,
  seed INTEGER,                    -- the bits of an unsigned number
  inputs BLOB NOT NULL,            -- ids, one after the other
  continues BLOB,
  settings INTEGER NOT NULL, context INTEGER NOT NULL, rest INTEGER NOT NULL);  -- fragments
CREATE TABLE trials(               -- of the current plan
  position INTEGER PRIMARY KEY,
  name TEXT NOT NULL, configuration TEXT NOT NULL, label TEXT NOT NULL, repeat INTEGER NOT NULL,
  seed INTEGER NOT NULL, swept TEXT NOT NULL,
  steps INTEGER NOT NULL,          -- fragment: [[name, kind], …]
  jobs BLOB NOT NULL);             -- ids, one a step
CREATE TABLE attempts(
  job INTEGER NOT NULL, number INTEGER NOT NULL,
  worker INTEGER NOT NULL, host TEXT NOT NULL, started_ms INTEGER NOT NULL,
  ended_ms INTEGER, reason TEXT, error TEXT,
  PRIMARY KEY(job, number)) WITHOUT ROWID;
CREATE TABLE outcomes(
  seq INTEGER PRIMARY KEY,
  attempt INTEGER NOT NULL, metrics TEXT NOT NULL, history TEXT,
  environment INTEGER NOT NULL, rest INTEGER NOT NULL);  -- fragments
CREATE TABLE events(
  n INTEGER PRIMARY KEY,
  end INTEGER NOT NULL,            -- byte after its line in events.jsonl
  json TEXT NOT NULL);
)sql";

std::string advice(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return "; free space on this file system, then run again";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return "; another process uses it: a sweep that runs here?";
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return "; check the owner and permissions of the folder";
    case SQLITE_CANTOPEN:
      return "; check that the folder is there and can be written to";
    case SQLITE_CORRUPT:
      return "; it is damaged: restore it from a backup, or start a new run with --out";
    case SQLITE_IOERR:
      return "; the disk or network failed: see the system's log";
    default:
      return "";
  }
}

/// Thrown inside in_database() where SQLite itself has nothing to complain about.
struct Refusal {
  std::string message;
};

int pragma_number(SQLite::Database& database, const char* name) {
  return database.execAndGet(std::string("PRAGMA ") + name).getInt();
}

/// Whether our schema is there. Throws Refusal where another's, or a newer one, is.
bool has_our_schema(SQLite::Database& database, const fs::path& path) {
  if (database.execAndGet("SELECT count(*) FROM sqlite_master").getInt64() == 0) return false;
  if (pragma_number(database, "application_id") != kApplicationId)
    throw Refusal{path.string() + " is not a database of finesweep; choose another folder with --out"};
  const int version = pragma_number(database, "user_version");
  if (version > kSchemaVersion) {
    const std::string writer =
        database.execAndGet("SELECT coalesce((SELECT value FROM meta WHERE key='written_by'), 'a newer finesweep')")
            .getString();
    throw Refusal{path.string() + " was written by " + writer + " (schema " + std::to_string(version) +
                  "); this is finesweep " + std::string(kVersion) + ", which reads up to schema " +
                  std::to_string(kSchemaVersion) +
                  ": use that version or a newer one, or start a new run with --out"};
  }
  return true;
}

void create_schema(SQLite::Database& database) {
  SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
  database.exec(kSchema);
  database.exec("PRAGMA application_id=" + std::to_string(kApplicationId));
  database.exec("PRAGMA user_version=" + std::to_string(kSchemaVersion));
  SQLite::Statement insert(database, "INSERT INTO meta VALUES('written_by', ?), ('generation', 0)");
  insert.bind(1, "finesweep " + std::string(kVersion));
  insert.exec();
  transaction.commit();
}

void set_journal(SQLite::Database& database, bool network) {
  database.exec("PRAGMA synchronous=FULL");
  database.exec("PRAGMA cache_size=-32768");  // KiB
  if (!network && database.execAndGet("PRAGMA journal_mode=WAL").getString() == "wal") {
    database.exec("PRAGMA wal_autocheckpoint=4000");  // pages
    return;
  }
  // In this order: the exclusive lock keeps SQLite from wanting shared memory, which such a file system lacks.
  database.execAndGet("PRAGMA locking_mode=EXCLUSIVE");
  database.execAndGet("PRAGMA journal_mode=DELETE");
}

/// A path as a file: URI.
std::string file_uri(const fs::path& path, const std::string& parameters) {
  std::string uri = "file:";
  for (const unsigned char c : fs::absolute(path).string()) {
    if (std::isalnum(c) || c == '/' || c == '-' || c == '_' || c == '.') {
      uri += static_cast<char>(c);
    } else {
      char hex[4];
      std::snprintf(hex, sizeof hex, "%%%02X", c);
      uri += hex;
    }
  }
  return uri + "?" + parameters;
}

std::unique_ptr<SQLite::Database> open_checked(const std::string& name, int flags, const fs::path& path) {
  auto database = std::make_unique<SQLite::Database>(name, flags, kBusyTimeoutMs);
  if (!has_our_schema(*database, path)) throw Refusal{path.string() + " holds no run"};
  return database;
}

}  // namespace

Status in_database(const fs::path& path, const std::string& action, const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Refusal& refusal) {
    return Error{refusal.message};
  } catch (const SQLite::Exception& e) {
    if (e.getErrorCode() == SQLITE_NOTADB)
      return Error{path.string() + " is not a database of finesweep; choose another folder with --out"};
    return Error{"cannot " + action + " " + path.string() + ": " + e.what() + advice(e.getErrorCode())};
  } catch (const std::exception& e) {  // JSON that is not as we write it
    return Error{"cannot " + action + " " + path.string() + ": " + e.what()};
  }
}

Result<std::unique_ptr<SQLite::Database>> open_for_writing(const fs::path& path,
                                                           std::optional<bool> network_file_system) {
  if (!network_file_system) {
    const Result<FileSystem> file_system = file_system_of(path.parent_path());
    if (!file_system) return file_system.error();
    network_file_system = file_system->network;
  }
  std::unique_ptr<SQLite::Database> database;
  bool created = false;
  Status opened = in_database(path, "open", [&] {
    database = std::make_unique<SQLite::Database>(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE,
                                                  kBusyTimeoutMs);
    const bool ours = has_our_schema(*database, path);
    set_journal(*database, *network_file_system);
    if (ours) return;
    create_schema(*database);
    created = true;
  });
  if (!opened) return opened.error();
  if (created) {
    crash_point("store.created");
    if (Status synced = sync_path(path.parent_path()); !synced) return synced.error();
  }
  return database;
}

Result<std::unique_ptr<SQLite::Database>> open_for_reading(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    return Error{path.parent_path().string() + " holds no run: it has no finesweep.db"};
  std::unique_ptr<SQLite::Database> database;
  // What a killed coordinator left in the journal can only be read after recovery, which writes.
  Status opened = in_database(path, "open", [&] {
    database = open_checked(path.string(), SQLite::OPEN_READWRITE, path);
    database->exec("PRAGMA query_only=ON");
  });
  if (opened.ok()) return database;
  const auto journal_left = [&](const char* suffix) {
    return fs::exists(path.string() + suffix, ignored) && fs::file_size(path.string() + suffix, ignored) > 0;
  };
  if (journal_left("-wal") || journal_left("-journal")) return opened.error();
  // A folder that cannot be written to, and nothing to recover.
  const Status immutable = in_database(path, "open", [&] {
    database = open_checked(file_uri(path, "immutable=1"), SQLite::OPEN_READONLY | SQLite::OPEN_URI, path);
  });
  if (!immutable) return opened.error();
  return database;
}

}  // namespace finesweep::storage
