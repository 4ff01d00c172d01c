#include "tests/browser/browser.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "storage/files.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::tests {

std::string browser() {
  if (const char* chosen = std::getenv("FINESWEEP_BROWSER")) return chosen;
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    if (std::system(("command -v " + std::string(name) + " >/dev/null 2>&1").c_str()) == 0) return name;
  return "";
}

std::string loaded_page(const std::string& address) {
  const storage::TemporaryFolder folder;
  const std::string command =
      browser() +
      " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --virtual-time-budget=3000"
      " --window-size=1280,2400 --user-data-dir=" +
      (folder / "profile").string() + " --dump-dom '" + address + "' 2>" + (folder / "errors").string();
  std::string dom;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  std::array<char, 65536> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) dom.append(buffer.data(), n);
  EXPECT_EQ(pclose(pipe), 0) << *storage::read_file(folder / "errors");
  return dom;
}

}  // namespace finesweep::tests
