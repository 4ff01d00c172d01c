#pragma once

#include <filesystem>
#include <string>

#include "jobs/job.h"
#include "jobs/json.h"
#include "jobs/outcome.h"
#include "jobs/result.h"
#include "storage/sealed_files.h"

namespace finesweep::storage {

/// artifacts/<job id>/manifest.json: the list of files with sizes and SHA-256, what the artifact is, and the
/// outcome of the job, so that a published artifact whose commit was lost can be adopted from the folder alone.
///
///   {"version": 1, "job": "<id>", "attempt": 2, "kind": "finetune", "result_version": 1,
///    "model": {…},               what later steps need to load it; written and read by the worker's engine
///    "outcome": {…},             jobs/outcome.h
///    "files": {"adapter/adapter_model.safetensors": {"bytes": 123, "sha256": "…"}, …},
///    "sha256": "…"}              over the canonical text of all the rest
struct Manifest {
  JobId job;
  AttemptNumber attempt = 0;
  StepKind kind = StepKind::finetune;
  Json model = Json::object();
  Outcome outcome;
  SealedFiles files;  // by path relative to the artifact's folder, with '/'
};

inline constexpr const char* kManifestName = "manifest.json";

/// Called by the runner when every file of `folder` is written: takes sizes and checksums, syncs the files, and
/// writes manifest.json last. `manifest.files` is filled in.
Status seal_artifact(const std::filesystem::path& folder, Manifest& manifest);

/// Reads manifest.json alone.
Result<Manifest> read_manifest(const std::filesystem::path& folder);

/// Reads the manifest and checks that it is for `job` and that every file is there with its size and checksum, and
/// that no path leaves the folder. The Error names the file.
Result<Manifest> verify_artifact(const std::filesystem::path& folder, const JobId& job);

}  // namespace finesweep::storage
