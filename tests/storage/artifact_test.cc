#include "storage/artifact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "jobs/settings_table.h"
#include "jobs/version.h"
#include "storage/files.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const JobId kJob = sample_id("finetune 0");

/// Seals two files as the artifact of kJob.
Manifest sealed(const fs::path& folder) {
  fs::create_directories(folder / "adapter");
  write_plainly(folder / "adapter" / "adapter_model.safetensors", "weights");
  write_plainly(folder / "head", "");
  Manifest manifest;
  manifest.job = kJob;
  manifest.attempt = 2;
  manifest.model = {{"base", "/models/tiny"}};
  manifest.outcome = sample_outcome(0.1 + 0.2);
  EXPECT_TRUE(seal_artifact(folder, manifest).ok());
  return manifest;
}

/// Replaces the manifest by one that lists `path`, checksum and all.
void forge(const fs::path& folder, const std::string& path, const std::string& content) {
  Json json = Json::parse(*read_file(folder / kManifestName));
  write_plainly(folder / "content", content);
  json["files"] = {{path, {{"bytes", content.size()}, {"sha256", *sha256_of_file(folder / "content")}}}};
  write_plainly(folder / kManifestName, with_checksum(json).dump());
}

TEST(Artifact, a_sealed_one_comes_back_with_files_model_and_outcome) {
  TemporaryFolder folder;
  const Manifest written = sealed(folder.path());
  const Result<Manifest> read = verify_artifact(folder.path(), kJob);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->attempt, 2);
  EXPECT_EQ(read->model, written.model);
  EXPECT_EQ(Json(read->outcome), Json(written.outcome));
  ASSERT_EQ(read->files.size(), 2u);
  EXPECT_EQ(read->files.at("adapter/adapter_model.safetensors").bytes, 7u);
  EXPECT_EQ(Json::parse(*read_file(folder / kManifestName))["result_version"], kResultVersion);
}

TEST(Artifact, one_of_another_job_is_refused) {
  TemporaryFolder folder;
  sealed(folder.path());
  EXPECT_THAT(verify_artifact(folder.path(), sample_id("other")).error().message, HasSubstr("is for job"));
}

TEST(Artifact, a_changed_torn_or_missing_file_is_named) {
  TemporaryFolder folder;
  sealed(folder.path());
  const fs::path weights = folder / "adapter" / "adapter_model.safetensors";
  write_plainly(weights, "weighty");
  EXPECT_THAT(verify_artifact(folder.path(), kJob).error().message,
              HasSubstr("adapter_model.safetensors does not match its SHA-256"));
  write_plainly(weights, "weight");
  EXPECT_THAT(verify_artifact(folder.path(), kJob).error().message, HasSubstr("has 6 bytes instead of 7"));
  fs::remove(weights);
  EXPECT_THAT(verify_artifact(folder.path(), kJob).error().message, HasSubstr("No such file"));
}

TEST(Artifact, a_flipped_number_in_the_manifest_is_noticed) {
  TemporaryFolder folder;
  sealed(folder.path());
  std::string text = *read_file(folder / kManifestName);
  text.replace(text.find("1.25"), 4, "1.75");
  write_plainly(folder / kManifestName, text);
  EXPECT_THAT(read_manifest(folder.path()).error().message, HasSubstr("does not match its checksum"));
}

TEST(Artifact, a_manifest_of_another_version_is_refused) {
  TemporaryFolder folder;
  sealed(folder.path());
  Json json = Json::parse(*read_file(folder / kManifestName));
  json["version"] = 2;
  write_plainly(folder / kManifestName, with_checksum(json).dump());
  EXPECT_THAT(read_manifest(folder.path()).error().message, HasSubstr("has version 2"));
}

TEST(Artifact, paths_that_leave_the_folder_are_refused) {
  TemporaryFolder parent;
  const fs::path folder = parent / "artifact";
  sealed(folder);
  write_plainly(parent / "secret", "secret");
  const std::vector<std::string> paths{"../secret", "adapter/../../secret", parent / "secret", "",
                                       ".",         "adapter//x",           "./head",          "adapter/"};
  for (const std::string& path : paths) {
    forge(folder, path, "secret");
    EXPECT_THAT(verify_artifact(folder, kJob).error().message, HasSubstr("leaves")) << path;
  }
}

TEST(Artifact, links_and_special_files_are_refused_where_they_are_read_and_where_they_are_sealed) {
  TemporaryFolder parent;
  const fs::path folder = parent / "artifact";
  sealed(folder);
  fs::create_directory(parent / "outside");
  write_plainly(parent / "outside" / "secret", "secret");
  fs::create_symlink(parent / "outside" / "secret", folder / "link");
  fs::create_directory_symlink(parent / "outside", folder / "folder");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  forge(folder, "link", "secret");
  EXPECT_THAT(verify_artifact(folder, kJob).error().message, HasSubstr("is a link"));
  forge(folder, "folder/secret", "secret");
  EXPECT_FALSE(verify_artifact(folder, kJob).ok());
  forge(folder, "pipe", "");
  EXPECT_THAT(verify_artifact(folder, kJob).error().message, HasSubstr("is not a plain file"));
  Manifest manifest;
  EXPECT_THAT(seal_artifact(folder, manifest).error().message, HasSubstr("is not a plain file"));
}

TEST(Artifact, a_manifest_that_is_no_manifest_is_an_error_and_nothing_worse) {
  TemporaryFolder folder;
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), std::string("{\"sha256\": 1}"),
        std::string(2'000'000, '['), with_checksum(Json::object()).dump(),
        with_checksum({{"version", 1}, {"job", 3}}).dump()}) {
    write_plainly(folder / kManifestName, text);
    EXPECT_FALSE(read_manifest(folder.path()).ok()) << text.substr(0, 40);
  }
}

TEST(Version, is_the_one_that_the_build_states) {
  const std::string cmake = *read_file(fs::path(FINESWEEP_SOURCE_DIR) / "CMakeLists.txt");
  EXPECT_THAT(cmake, HasSubstr("project(finesweep VERSION " + std::string(kVersion) + " "));
}

}  // namespace
}  // namespace finesweep::storage
