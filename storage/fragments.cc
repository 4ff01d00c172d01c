#include "storage/fragments.h"

#include <SQLiteCpp/Column.h>
#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>

#include <stdexcept>

namespace finesweep::storage {

Fragments::Fragments(SQLite::Database& database) : database_(database) {
  const auto prepare = [&](const char* sql) { return std::make_unique<SQLite::Statement>(database, sql); };
  find_ = prepare("SELECT id FROM fragments WHERE digest=?");
  insert_ = prepare("INSERT INTO fragments(digest, json) VALUES(?, ?)");
  load_ = prepare("SELECT json FROM fragments WHERE id=?");
}

Fragments::~Fragments() = default;

std::int64_t Fragments::put(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  const JobId digest = JobId::of(text);
  if (const auto known = numbers_.find(digest); known != numbers_.end()) return known->second;
  std::int64_t number;
  find_->tryReset();
  find_->bind(1, digest.bytes().data(), 16);
  const bool found = find_->executeStep();
  if (found) number = find_->getColumn(0).getInt64();
  find_->reset();
  if (!found) {
    insert_->tryReset();
    insert_->bind(1, digest.bytes().data(), 16);
    insert_->bind(2, text);
    insert_->exec();
    insert_->reset();
    number = database_.getLastInsertRowid();
    uncommitted_.push_back(digest);
  }
  numbers_.emplace(digest, number);
  return number;
}

void Fragments::rollback() {
  for (const JobId& digest : uncommitted_) numbers_.erase(digest);
  uncommitted_.clear();
}

const Json& Fragments::get(std::int64_t number) {
  if (const auto known = loaded_.find(number); known != loaded_.end()) return known->second;
  load_->tryReset();
  load_->bind(1, number);
  const bool found = load_->executeStep();
  Json json = found ? Json::parse(load_->getColumn(0).getString()) : Json();
  load_->reset();
  if (!found) throw std::runtime_error("fragment " + std::to_string(number) + " is missing");
  return loaded_.emplace(number, std::move(json)).first->second;
}

}  // namespace finesweep::storage
