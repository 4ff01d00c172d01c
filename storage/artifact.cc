#include "storage/artifact.h"

#include <exception>
#include <stdexcept>
#include <utility>

#include "jobs/crash_point.h"
#include "jobs/settings_table.h"
#include "storage/files.h"

namespace finesweep::storage {

namespace {

constexpr int kManifestVersion = 1;

Json to_json_text(const Manifest& manifest) {
  return with_checksum({{"version", kManifestVersion},
                        {"job", manifest.job},
                        {"attempt", manifest.attempt},
                        {"kind", std::string(step_kind_name(manifest.kind))},
                        {"result_version", kResultVersion},
                        {"model", manifest.model},
                        {"outcome", manifest.outcome},
                        {"files", files_to_json(manifest.files)}});
}

/// Throws on ill-typed input.
Manifest manifest_from(const Json& json) {
  Manifest manifest;
  manifest.job = json.at("job").get<JobId>();
  manifest.attempt = json.at("attempt").get<AttemptNumber>();
  const auto kind = parse_step_kind(json.at("kind").get<std::string>());
  if (!kind) throw std::invalid_argument("unknown kind of step");
  manifest.kind = *kind;
  manifest.model = json.at("model");
  manifest.outcome = json.at("outcome").get<Outcome>();
  manifest.files = files_from_json(json.at("files"));
  return manifest;
}

}  // namespace

Status seal_artifact(const std::filesystem::path& folder, Manifest& manifest) {
  crash_point("artifact.written");
  Result<SealedFiles> files = seal_files(folder, kManifestName);
  if (!files) return files.error();
  crash_point("artifact.synced");
  manifest.files = std::move(*files);
  std::string text;
  try {
    text = to_json_text(manifest).dump(2) + "\n";
  } catch (const std::exception& e) {  // a file name or message that is no UTF-8
    return Error{"cannot write the manifest of " + folder.string() + ": " + e.what()};
  }
  const Status written = write_file_atomically(folder / kManifestName, text);
  crash_point("artifact.sealed");
  return written;
}

Result<Manifest> read_manifest(const std::filesystem::path& folder) {
  const std::string name = (folder / kManifestName).string();
  const Result<std::string> text = read_file(name);
  if (!text) return text.error();
  const Result<Json> json = parse_with_checksum(*text, name);
  if (!json) return json.error();
  try {
    const int version = json->at("version").get<int>();
    if (version != kManifestVersion)
      return Error{name + " has version " + std::to_string(version) + "; this finesweep reads version " +
                   std::to_string(kManifestVersion) + ": use the finesweep that wrote it"};
    return manifest_from(*json);
  } catch (const std::exception& e) {
    return Error{name + " is not a manifest: " + e.what()};
  }
}

Result<Manifest> verify_artifact(const std::filesystem::path& folder, const JobId& job) {
  Result<Manifest> manifest = read_manifest(folder);
  if (!manifest) return manifest;
  if (manifest->job != job)
    return Error{(folder / kManifestName).string() + " is for job " + manifest->job.hex() + ", not for " +
                 job.hex()};
  if (Status verified = verify_files(folder, manifest->files); !verified) return verified.error();
  return manifest;
}

}  // namespace finesweep::storage
