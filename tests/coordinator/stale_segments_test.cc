#include "coordinator/stale_segments.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <string>

#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

TEST(StaleSegments, what_is_old_and_mapped_by_nobody_is_removed) {
  storage::TemporaryFolder folder;
  const auto make = [&](const std::string& name, bool old) {
    const std::string path = (folder.path() / name).string();
    const int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    EXPECT_EQ(ftruncate(file, 4096), 0);
    const timespec times[2] = {{std::time(nullptr) - (old ? 120 : 1), 0},
                               {std::time(nullptr) - (old ? 120 : 1), 0}};
    EXPECT_EQ(futimens(file, times), 0);
    return file;
  };
  close(make("vader_segment.host.0.1.0", true));
  close(make("sm_segment.host.0.1.0", true));
  close(make("vader_segment.host.0.2.0", false));
  close(make("somebody_else", true));
  const int used = make("vader_segment.host.0.3.0", true);
  void* memory = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, used, 0);
  close(used);
  remove_stale_segments(folder.path());
  const auto stands = [&](const char* name) { return std::filesystem::exists(folder.path() / name); };
  EXPECT_FALSE(stands("vader_segment.host.0.1.0"));
  EXPECT_FALSE(stands("sm_segment.host.0.1.0"));
  EXPECT_TRUE(stands("vader_segment.host.0.2.0")) << "its processes may be starting";
  EXPECT_TRUE(stands("vader_segment.host.0.3.0")) << "in use";
  EXPECT_TRUE(stands("somebody_else"));
  munmap(memory, 4096);
  remove_stale_segments(folder.path());
  EXPECT_FALSE(stands("vader_segment.host.0.3.0"));
}

}  // namespace
}  // namespace finesweep::coordinator
