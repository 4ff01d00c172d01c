#include "coordinator/local_scratch.h"

#include <gtest/gtest.h>

#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

TEST(LocalScratch, the_first_folder_that_is_there_and_local_is_taken) {
  const storage::TemporaryFolder network, local;
  const auto is_local = [&](const std::filesystem::path& path) { return path != network.path(); };
  EXPECT_EQ(choose_scratch({"", "/no/such/folder", network.path(), local.path(), "/tmp"}, is_local), local.path());
  EXPECT_EQ(choose_scratch({network.path()}, is_local), std::nullopt);
  EXPECT_EQ(choose_scratch({}, is_local), std::nullopt);
}

}  // namespace
}  // namespace finesweep::coordinator
