#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/mpi_link.h"
#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/runner_request.h"
#include "jobs/settings.h"

namespace finesweep::coordinator {

// What each command of `finesweep` does. All return the exit code: 0 all trials succeeded, 1 some failed, 2 the
// input is wrong, 3 interrupted and resumable, 4 the system failed.

/// What a sweep that runs lets in.
struct ListenOptions {
  /// Workers may join over TCP at this port (0: any that is free); -1: they may not.
  int join_port = -1;
  std::string join_address = "127.0.0.1";  // an IP address of this host, or 0.0.0.0
  /// A page in a browser shows how the sweep stands (coordinator/status_page.h); -1: none.
  int status_port = -1;
  std::string status_address = "127.0.0.1";

  /// As arguments of `finesweep run`.
  std::vector<std::string> arguments() const;
};

struct RunOptions {
  std::filesystem::path sweep;
  std::filesystem::path out;           // empty: runs/<sweep's name>
  std::vector<std::string> overrides;  // P=V
  int workers = 0;                     // 0: as devices, cores and memory allow
  std::string devices = "auto";        // auto, cpu, or indices of GPUs: "0,1"
  bool json = false;
  ListenOptions listen;
  std::filesystem::path program;  // this executable
};

/// The ranks that are workers; the program brings it, since the coordinator knows nothing of the worker's code.
using WorkerMain = std::function<int(MpiWorld& world, const std::string& device)>;

/// Under an MPI launcher: rank 0 coordinates, the others are workers (never returns there). Otherwise starts mpirun
/// and watches over it.
int run_command(const RunOptions& options, const WorkerMain& worker_main);

struct WorkerOptions {
  std::filesystem::path ticket;  // DIR/join.json
  std::string device = "auto";   // auto, cpu, or the index of a GPU
  int patience_s = 120;          // how long a coordinator is looked for
  std::filesystem::path program;
};

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
  std::string formats;  // "md,csv,html,json"; empty: all
};
int report_command(const ReportOptions& options);

struct CompareOptions {
  std::vector<std::filesystem::path> directories;
  std::filesystem::path out;  // empty: one report on standard output
  std::string formats;        // as of a report; empty: all, on standard output Markdown
  std::string metric;         // "test.accuracy"; empty: as the sweeps say
};
int compare_command(const CompareOptions& options);

struct SubmitOptions {
  std::filesystem::path sweep;
  std::filesystem::path out;  // empty: runs/<sweep's name>
  std::vector<std::string> overrides;
  int nodes = 1;
  int gpus_per_node = 0;  // 0: on CPUs
  int workers = 1;        // of each node, on CPUs
  std::string time;       // empty: the partition's default
  bool dry_run = false;   // print the batch script, submit and write nothing
  ListenOptions listen;
  std::vector<std::string> sbatch_arguments;
  std::filesystem::path program;
};
int submit_command(const SubmitOptions& options);

struct CancelOptions {
  std::filesystem::path directory;
  std::vector<std::string> trials;  // names, beginnings of them, or labels; empty: all
};
int cancel_command(const CancelOptions& options);

/// For the batch script, and for workers that their coordinator has left alone.
struct SlurmLifeOptions {
  std::string moment;  // begin, await, end, desert
  std::filesystem::path directory;
  int number = 0;  // await: srun's pid; end: its exit code
};
int slurm_life_command(const SlurmLifeOptions& options);

struct DoctorOptions {
  std::filesystem::path directory = ".";
  std::filesystem::path program;
};
int doctor_command(const DoctorOptions& options);

// Commands that need a model start a runner for themselves alone.

struct GenerateOptions {
  ModelChoice choice;
  std::optional<std::string> prompt;
  std::filesystem::path prompts;  // JSON Lines, in place of `prompt`
  std::string field = "prompt";   // of a row of it
  GenerationSettings generation;
  std::int64_t batch_size = 8;
  std::uint64_t seed = 0;
  std::string precision = "fp32";
  std::string device = "auto";  // auto, cpu, or the index of a GPU
  int threads = 0;              // on a CPU; 0: its cores
  bool json = false;
  std::filesystem::path program;
};
int generate_command(const GenerateOptions& options);

struct EvaluateOptions {
  ModelChoice choice;
  std::string task;
  std::filesystem::path data;
  std::string fields, labels, metrics;  // with commas; empty: as a sweep file has them by default
  std::int64_t batch_size = 0;          // 0: likewise
  std::int64_t sequence_length = 0;
  Json generation = Json::object();    // keys of evaluate.generation
  std::vector<std::string> overrides;  // P=V, as of a sweep file: evaluate.…, data.…
  std::uint64_t seed = 0;
  std::string precision = "fp32";
  std::string device = "auto";
  int threads = 0;
  bool json = false;
  std::filesystem::path program;
};
int evaluate_command(const EvaluateOptions& options);

/// With absolute paths. The Error names the option whose path is not there.
Result<ModelChoice> absolute_choice(const ModelChoice& choice);

struct ExportOptions {
  std::filesystem::path directory;
  std::string trial;  // name, beginning of one, or label
  std::filesystem::path to;
  bool merge = false;
  std::string device = "cpu";
  std::filesystem::path program;
};
int export_command(const ExportOptions& options);

struct InitOptions {
  std::string name;  // of the template; empty: the first
};
int init_command(const InitOptions& options);

}  // namespace finesweep::coordinator
