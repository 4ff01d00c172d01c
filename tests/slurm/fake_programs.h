#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace finesweep::slurm {

/// A folder of its own, first in PATH, for shell scripts that stand in for Slurm's programs.
class FakePrograms : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "finesweep-slurm-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::filesystem::create_directories(folder_ / "bin");
    path_ = getenv("PATH");
    setenv("PATH", ((folder_ / "bin").string() + ":" + path_).c_str(), 1);
    setenv("FAKE", folder_.c_str(), 1);  // where a script may leave what it saw
  }
  void TearDown() override {
    setenv("PATH", path_.c_str(), 1);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void fake(const std::filesystem::path& program, const std::string& body) {
    std::ofstream(program) << "#!/bin/bash\n" << body << "\n";
    chmod(program.c_str(), 0755);
  }
  void fake_command(const std::string& name, const std::string& body) { fake(folder_ / "bin" / name, body); }

  static std::string text_of(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::stringstream text;
    text << stream.rdbuf();
    return text.str();
  }
  std::string seen(const std::string& name) const { return text_of(folder_ / name); }

  std::filesystem::path folder_;

 private:
  std::string path_;
};

}  // namespace finesweep::slurm
