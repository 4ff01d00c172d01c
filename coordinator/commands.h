#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/mpi_link.h"

namespace finesweep::coordinator {

// What each command of `finesweep` does. All return the exit code: 0 all trials succeeded, 1 some failed, 2 the
// input is wrong, 3 interrupted and resumable, 4 the system failed.

struct RunOptions {
  std::filesystem::path sweep;
  std::filesystem::path out;           // empty: runs/<sweep's name>
  std::vector<std::string> overrides;  // P=V
  int workers = 0;                     // 0: as devices, cores and memory allow
  std::string devices = "auto";        // auto, cpu, or indices of GPUs: "0,1"
  bool json = false;
  std::filesystem::path program;  // this executable
};

/// The ranks that are workers; the program brings it, since the coordinator knows nothing of the worker's code.
using WorkerMain = std::function<int(MpiWorld& world, const std::string& device)>;

/// Under an MPI launcher: rank 0 coordinates, the others are workers (never returns there). Otherwise starts mpirun
/// and watches over it.
int run_command(const RunOptions& options, const WorkerMain& worker_main);

struct PlanOptions {
  std::filesystem::path sweep;
  std::vector<std::string> overrides;
  bool json = false;
};
int plan_command(const PlanOptions& options);

struct StatusOptions {
  std::filesystem::path directory;
  bool watch = false;
  bool json = false;
};
int status_command(const StatusOptions& options);

struct ReportOptions {
  std::filesystem::path directory;
  std::string formats;  // "md,csv,json"; empty: all
};
int report_command(const ReportOptions& options);

struct DoctorOptions {
  std::filesystem::path directory = ".";
  std::filesystem::path program;
};
int doctor_command(const DoctorOptions& options);

struct InitOptions {
  std::string name;  // of the template; empty: the first
};
int init_command(const InitOptions& options);

}  // namespace finesweep::coordinator
