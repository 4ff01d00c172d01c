#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "slurm/command.h"

namespace finesweep::tests {

/// A real Slurm of two nodes, n1 and n2, on this machine (slurm-lab). One at a time: it is told to programs by the
/// environment of this process.
class Cluster {
 public:
  /// What is missing for one: packages, or being root. Empty: nothing.
  static std::string missing();

  Cluster();
  ~Cluster();
  const std::string& problem() const { return problem_; }  // why it did not start

  void kill_node(const std::string& node) { lab({"kill-node", node}); }
  void restart_node(const std::string& node) { lab({"restart-node", node}); }

  /// "RUNNING", "PENDING", "COMPLETED", …
  static std::string state(const std::string& job);
  static std::string field(const std::string& job, const std::string& name);  // of scontrol show job
  static bool is_over(const std::string& job);
  /// The last state, or nullopt where it was not over in time.
  static std::optional<std::string> wait(const std::string& job, std::chrono::seconds deadline);

 private:
  slurm::CommandResult lab(std::vector<std::string> arguments);
  std::filesystem::path folder_;
  std::string problem_;
};

}  // namespace finesweep::tests
