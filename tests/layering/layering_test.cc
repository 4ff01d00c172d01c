#include "tests/layering/layering.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace finesweep::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Layering, every_folder_includes_only_what_its_row_allows) {
  const LayeringReport report = check_layering(FINESWEEP_SOURCE_DIR, layering_rules());
  EXPECT_GT(report.files, 50);
  EXPECT_GT(report.includes, 200);
  EXPECT_THAT(report.violations, IsEmpty());
}

/// A small tree of its own, in which one thing at a time is wrong.
class PlantedTree : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(root_);
    write("jobs/job.h", "#pragma once\n#include <string>\n");
    write("storage/files.h", "#include \"jobs/job.h\"\n");
    write("storage/store.h", "#include \"jobs/job.h\"\n");
    write("storage/store.cc", "#include \"storage/store.h\"\n#include <SQLiteCpp/SQLiteCpp.h>\n");
    write("sweeps/sweep.cc", "#include <yaml-cpp/yaml.h>\n#include \"jobs/job.h\"\n");
    write("worker/executor.h", "#include \"jobs/job.h\"\n");
    write("worker/models/bert.h", "#include <ATen/core/Tensor.h>\n");
    write("worker/agent/agent.cc", "#include \"worker/executor.h\"\n#include \"storage/files.h\"\n");
    write("coordinator/main.cc", "#include <mpi.h>\n#include \"worker/agent/agent.h\"\n");
    write("worker/agent/agent.h", "#pragma once\n");
    write("tests/anything.cc", "#include <ATen/ATen.h>\n#include \"storage/store.h\"\n");
    write("build/release/generated.cc", "#include \"nowhere.h\"\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::vector<std::string> violations() { return check_layering(root_, layering_rules()).violations; }

  fs::path root_ = fs::temp_directory_path() / ("finesweep_layering_" + std::to_string(::getpid()));
};

TEST_F(PlantedTree, a_tree_that_keeps_the_rules_has_no_violation) {
  EXPECT_THAT(violations(), IsEmpty());
}

TEST_F(PlantedTree, an_arrow_against_the_table_is_found_with_file_and_line) {
  write("jobs/plan.cc", "\n  #  include \"sweeps/sweep.h\"\n");
  write("sweeps/sweep.h", "");
  EXPECT_THAT(violations(),
              ElementsAre(AllOf(HasSubstr("jobs/plan.cc:2: jobs may not include \"sweeps/sweep.h\""))));
}

TEST_F(PlantedTree, a_worker_that_includes_the_store_is_found) {
  write("worker/engine/execute.cc", "#include \"storage/files.h\"\n#include \"storage/store.h\"\n");
  EXPECT_THAT(violations(), ElementsAre(HasSubstr("worker/engine/execute.cc:2: worker may not include")));
}

TEST_F(PlantedTree, an_agent_that_includes_the_engine_is_found_twice_as_arrow_and_as_library) {
  write("worker/agent/runner_pool.cc", "#include \"worker/models/bert.h\"\n");
  EXPECT_THAT(violations(),
              ElementsAre(HasSubstr("worker/agent may not include \"worker/models/bert.h\""),
                          HasSubstr("reaches libtorch (worker/models/bert.h → <ATen/core/Tensor.h>)")));
}

TEST_F(PlantedTree, only_the_program_may_include_the_agent) {
  write("coordinator/driver.cc", "#include \"worker/agent/agent.h\"\n");
  EXPECT_THAT(violations(), ElementsAre(HasSubstr("coordinator/driver.cc:1: coordinator may not include")));
}

TEST_F(PlantedTree, a_library_that_leaks_through_a_header_is_found_at_both_ends) {
  write("sweeps/node.h", "#include <yaml-cpp/node/node.h>\n");
  write("coordinator/command.cc", "#include \"sweeps/node.h\"\n");
  EXPECT_THAT(violations(),
              ElementsAre(HasSubstr("coordinator/command.cc: reaches yaml-cpp (sweeps/node.h → <yaml-cpp/node")));
}

TEST_F(PlantedTree, every_heavy_library_is_found_outside_its_folder) {
  for (const std::string header : {"yaml-cpp/yaml.h", "SQLiteCpp/Database.h", "sqlite3.h", "mpi.h", "torch/torch.h",
                                   "c10/core/Device.h", "cuda_runtime.h", "cublasLt.h", "nccl.h"}) {
    write("reports/report.cc", "#include <" + header + ">\n");
    EXPECT_THAT(violations(), ElementsAre(HasSubstr("reports/report.cc: reaches"))) << header;
  }
}

TEST_F(PlantedTree, headers_that_include_each_other_in_a_circle_end) {
  write("jobs/a.h", "#include \"jobs/b.h\"\n");
  write("jobs/b.h", "#include \"jobs/a.h\"\n#include <yaml-cpp/yaml.h>\n");
  EXPECT_THAT(violations(),
              ElementsAre(HasSubstr("jobs/a.h: reaches yaml-cpp"), HasSubstr("jobs/b.h: reaches yaml-cpp")));
}

TEST_F(PlantedTree, a_folder_without_a_row_is_found) {
  write("plugins/plugin.cc", "");
  EXPECT_THAT(violations(), ElementsAre(HasSubstr("plugins/plugin.cc: its folder has no row")));
}

TEST_F(PlantedTree, an_include_that_is_no_path_from_the_root_is_found) {
  write("jobs/ids.cc", "#include \"ids.h\"\n");
  EXPECT_THAT(violations(), ElementsAre(HasSubstr("\"ids.h\" is no path from the root")));
}

}  // namespace
}  // namespace finesweep::tests
