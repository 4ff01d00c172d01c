#include "storage/run_directory.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>
#include <utility>

#include "jobs/crash_point.h"
#include "storage/files.h"
#include "storage/posix.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

std::string name_of(const AttemptKey& attempt) {
  return attempt.job.hex() + "." + std::to_string(attempt.number);
}

std::optional<AttemptKey> parse_attempt(const std::string& name) {
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos) return std::nullopt;
  const Result<JobId> job = JobId::parse(name.substr(0, dot));
  if (!job) return std::nullopt;
  AttemptKey attempt{*job, 0};
  const char* end = name.data() + name.size();
  const auto [stopped, failure] = std::from_chars(name.data() + dot + 1, end, attempt.number);
  if (failure != std::errc() || stopped != end || attempt.number < 1) return std::nullopt;
  return attempt;
}

Status make_folder(const fs::path& folder) {
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) return system_error("create", folder, failure.value());
  return {};
}

Status remove_tree(const fs::path& path) {
  std::error_code failure;
  fs::remove_all(path, failure);
  if (failure) return system_error("remove", path, failure.value());
  return {};
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& path) : path_(fs::absolute(path).lexically_normal()) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // "runs/x/" is "runs/x"
}

fs::path RunDirectory::staging(const AttemptKey& attempt) const {
  return path_ / "staging" / name_of(attempt);
}

fs::path RunDirectory::artifact(const JobId& job) const {
  return path_ / "artifacts" / job.hex();
}

fs::path RunDirectory::log(const AttemptKey& attempt) const {
  return path_ / "logs" / (name_of(attempt) + ".log");
}

Status RunDirectory::create() const {
  if (Status made = make_folder(path_); !made) return made;
  for (const char* name : {"control", "staging", "artifacts", "logs", "reports"})
    if (Status made = make_folder(path_ / name); !made) return made;
  if (Status synced = sync_path(path_); !synced) return synced;
  return sync_path(path_.parent_path());
}

bool RunDirectory::holds_run() const {
  std::error_code ignored;
  return fs::is_regular_file(database(), ignored);
}

Status RunDirectory::prepare_staging(const AttemptKey& attempt) const {
  if (Status removed = remove_tree(staging(attempt)); !removed) return removed;
  return make_folder(staging(attempt));
}

std::vector<AttemptKey> RunDirectory::staged_attempts() const {
  std::vector<AttemptKey> attempts;
  std::error_code failure;
  fs::directory_iterator entries(path_ / "staging", failure);
  for (; !failure && entries != fs::directory_iterator(); entries.increment(failure))
    if (const auto attempt = parse_attempt(entries->path().filename().string())) attempts.push_back(*attempt);
  std::ranges::sort(attempts);
  return attempts;
}

std::vector<fs::path> RunDirectory::earlier_checkpoints(const AttemptKey& attempt) const {
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (int number = attempt.number - 1; number >= 1; --number) {
    const fs::path folder = checkpoints({attempt.job, number});
    if (fs::is_directory(folder, ignored)) folders.push_back(folder);
  }
  return folders;
}

Status RunDirectory::remove_staging(const JobId& job) const {
  for (const AttemptKey& attempt : staged_attempts()) {
    if (attempt.job != job) continue;
    if (Status removed = remove_tree(staging(attempt)); !removed) return removed;
  }
  return {};
}

Result<Manifest> RunDirectory::publish(const AttemptKey& attempt) const {
  const fs::path published = artifact(attempt.job);
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(published, ignored))) {
    Result<Manifest> there = verify_artifact(published, attempt.job);
    if (there) return there;
    return Error{there.error().message + "; remove the folder " + published.string() + " and run again"};
  }
  const fs::path staged = staged_artifact(attempt);
  Result<Manifest> manifest = verify_artifact(staged, attempt.job);
  if (!manifest) return manifest;
  if (manifest->attempt != attempt.number)
    return Error{(staged / kManifestName).string() + " is of attempt " + std::to_string(manifest->attempt) +
                 ", not of attempt " + std::to_string(attempt.number)};
  if (Status made = make_folder(published.parent_path()); !made) return made.error();
  crash_point("publish.verified");
  if (Status renamed = rename_durably(staged, published); !renamed) return renamed.error();
  crash_point("publish.renamed");
  return manifest;
}

std::vector<Manifest> RunDirectory::unrecorded_artifacts(const std::function<bool(const JobId&)>& is_recorded,
                                                         std::vector<std::string>* rejected) const {
  std::vector<Manifest> found;
  std::error_code failure;
  fs::directory_iterator entries(path_ / "artifacts", failure);
  for (; !failure && entries != fs::directory_iterator(); entries.increment(failure)) {
    const Result<JobId> job = JobId::parse(entries->path().filename().string());
    if (!job || is_recorded(*job)) continue;
    Result<Manifest> manifest = verify_artifact(entries->path(), *job);
    if (manifest) {
      found.push_back(std::move(*manifest));
    } else if (rejected) {
      rejected->push_back(manifest.error().message);
    }
  }
  std::ranges::sort(found, {}, &Manifest::job);
  return found;
}

}  // namespace finesweep::storage
