#include "storage/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <system_error>
#include <utility>

#include "jobs/crash_point.h"
#include "storage/files.h"
#include "storage/posix.h"
#include "storage/sealed_files.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

constexpr int kCheckpointVersion = 1;
constexpr const char* kSealName = "checkpoint.json";
constexpr std::string_view kPrefix = "step-";
constexpr const char* kTemporaryName = ".writing";
constexpr std::size_t kKept = 2;

/// n of a folder's name step-<n>, written as we write it.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size();
  const auto [stopped, failure] = std::from_chars(begin, end, step);
  if (failure != std::errc() || stopped != end || step < 0) return std::nullopt;
  return step;
}

struct Found {
  std::int64_t step;
  fs::path folder;
};

/// The folders step-<n> in `checkpoints`, highest step first; none where there is no such folder.
std::vector<Found> list_checkpoints(const fs::path& checkpoints) {
  std::vector<Found> found;
  std::error_code failure;
  fs::directory_iterator entries(checkpoints, failure);
  for (; !failure && entries != fs::directory_iterator(); entries.increment(failure))
    if (const auto step = step_of(entries->path().filename().string())) found.push_back({*step, entries->path()});
  std::ranges::sort(found, [](const Found& a, const Found& b) { return a.step > b.step; });
  return found;
}

Result<Checkpoint> verify_checkpoint(const Found& found) {
  const std::string name = (found.folder / kSealName).string();
  const Result<std::string> text = read_file(name);
  if (!text) return text.error();
  const Result<Json> json = parse_with_checksum(*text, name);
  if (!json) return json.error();
  try {
    if (json->at("version").get<int>() != kCheckpointVersion)
      return Error{name + " was written by another version of finesweep"};
    if (json->at("step").get<std::int64_t>() != found.step)
      return Error{name + " is of step " + json->at("step").dump() + ": the folder was renamed"};
    if (Status verified = verify_files(found.folder, files_from_json(json->at("files"))); !verified)
      return verified.error();
    return Checkpoint{found.folder, found.step, json->at("state")};
  } catch (const std::exception& e) {
    return Error{name + " is not a checkpoint's: " + e.what()};
  }
}

Status remove_folder(const fs::path& folder) {
  std::error_code failure;
  fs::remove_all(folder, failure);
  if (failure) return system_error("remove", folder, failure.value());
  return {};
}

Status fill_and_seal(const fs::path& folder, std::int64_t step, const Json& state,
                     const std::function<Status(const fs::path&)>& write) {
  crash_point("checkpoint.begun");
  if (Status written = write(folder); !written) return written;
  crash_point("checkpoint.written");
  const Result<SealedFiles> files = seal_files(folder, kSealName);
  if (!files) return files.error();
  std::string text;
  try {
    text =
        with_checksum(
            {{"version", kCheckpointVersion}, {"step", step}, {"state", state}, {"files", files_to_json(*files)}})
            .dump();
  } catch (const std::exception& e) {
    return Error{"cannot write the state of a checkpoint: " + std::string(e.what())};
  }
  return write_file_atomically(folder / kSealName, text);
}

}  // namespace

Status write_checkpoint(const fs::path& checkpoints, std::int64_t step, const Json& state,
                        const std::function<Status(const fs::path& folder)>& write) {
  std::error_code failure;
  fs::create_directories(checkpoints, failure);
  if (failure) return system_error("create", checkpoints, failure.value());

  // One attempt alone writes here, so what is left under this name is of an interrupted write.
  const fs::path temporary = checkpoints / kTemporaryName;
  if (Status removed = remove_folder(temporary); !removed) return removed;
  fs::create_directory(temporary, failure);
  if (failure) return system_error("create", temporary, failure.value());
  if (Status sealed = fill_and_seal(temporary, step, state, write); !sealed) {
    (void)remove_folder(temporary);  // gives the space back; the reason for the failure is what matters
    return sealed;
  }
  crash_point("checkpoint.sealed");

  const fs::path final_folder = checkpoints / (std::string(kPrefix) + std::to_string(step));
  if (fs::exists(fs::symlink_status(final_folder, failure))) {
    // The same step of the same attempt is the same training state: a valid one may stay.
    if (verify_checkpoint({step, final_folder})) return remove_folder(temporary);
    if (Status removed = remove_folder(final_folder); !removed) return removed;
  }
  if (Status renamed = rename_durably(temporary, final_folder); !renamed) return renamed;
  crash_point("checkpoint.renamed");

  std::size_t kept = 1;
  for (const Found& found : list_checkpoints(checkpoints)) {
    if (found.step == step) continue;
    if (found.step < step && kept++ < kKept) continue;
    if (Status removed = remove_folder(found.folder); !removed) return removed;
  }
  crash_point("checkpoint.tidied");
  return {};
}

std::optional<Checkpoint> newest_valid_checkpoint(const std::vector<fs::path>& checkpoint_folders,
                                                  std::vector<std::string>* rejected) {
  std::vector<Found> found;
  for (const fs::path& folder : checkpoint_folders)
    std::ranges::move(list_checkpoints(folder), std::back_inserter(found));
  std::ranges::stable_sort(found, [](const Found& a, const Found& b) { return a.step > b.step; });
  for (const Found& candidate : found) {
    Result<Checkpoint> checkpoint = verify_checkpoint(candidate);
    if (checkpoint) return std::move(*checkpoint);
    if (rejected) rejected->push_back(checkpoint.error().message);
  }
  return std::nullopt;
}

}  // namespace finesweep::storage
