#include <fmt/format.h>
#include <mpi.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "jobs/json.h"
#include "jobs/version.h"
#include "storage/files.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

struct Output {
  int exit_code = -1;
  std::string text;
};

/// Runs a fixed command of ours (nothing of a user's reaches a shell through it) and takes its output.
Output run_quietly(const std::string& command) {
  Output output;
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return output;
  char buffer[4096];
  while (std::fgets(buffer, sizeof buffer, pipe)) output.text += buffer;
  output.exit_code = pclose(pipe);
  return output;
}

std::string shell_word(const fs::path& path) {
  std::string text = "'";
  for (char c : path.string()) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

/// statfs(2) magic numbers of file systems on which runs are likely to lie.
std::string file_system_name(long type) {
  switch (static_cast<unsigned long>(type)) {
    case 0xEF53:
      return "ext4, local";
    case 0x58465342:
      return "xfs, local";
    case 0x9123683E:
      return "btrfs, local";
    case 0x794C7630:
      return "overlayfs, local";
    case 0x01021994:
      return "tmpfs, local: lost at a reboot";
    case 0x2FC12FC1:
      return "zfs, local";
    case 0x6969:
      return "NFS, network";
    case 0x0BD00BD0:
      return "Lustre, network";
    case 0x47504653:
      return "GPFS, network";
    case 0x19830326:
      return "BeeGFS, network";
    case 0x65735546:
      return "FUSE";
    default:
      return fmt::format("type 0x{:x}", type);
  }
}

struct Checkup {
  bool healthy = true;
  void line(bool good, const std::string& what, const std::string& found, const std::string& remedy = "") {
    healthy &= good;
    std::cout << fmt::format("{} {:<12} {}\n", good ? "ok  " : "BAD ", what, found);
    if (!good && !remedy.empty()) std::cout << fmt::format("     {:<12} → {}\n", "", remedy);
  }
};

/// How the processes of a training on several GPUs reach each other.
void check_nccl(Checkup& checkup, const std::string& version) {
  const char* interface = std::getenv("NCCL_SOCKET_IFNAME");
  checkup.line(true, "NCCL",
               version.empty() ? "not found: no training on several GPUs"
                               : fmt::format("{}, on interface {}", version, interface ? interface : "lo"));
}

/// Which sockets of ours and of the libraries listen while a sweep runs.
void say_what_listens(Checkup& checkup) {
  checkup.line(true, "listening",
               "MPI's ranks, for each other; with resources.gpus > 1 Gloo on 127.0.0.1, and NCCL on lo; with "
               "--join-port and --status-port those ports, on 127.0.0.1 where no address is given; nothing else");
}

void check_runner(Checkup& checkup, const fs::path& runner, const HostResources& host) {
  if (access(runner.c_str(), X_OK) != 0) {
    checkup.line(false, "runner", runner.string() + " is missing", "build it: scripts/build");
    return;
  }
  const Output cpu = run_quietly(shell_word(runner) + " --describe cpu");
  const Json described = Json::parse(cpu.text, nullptr, false);
  if (cpu.exit_code != 0 || !described.is_object()) {
    checkup.line(false, "libtorch", first_line(cpu.text),
                 "run scripts/setup, or set FINESWEEP_LIBTORCH and LD_LIBRARY_PATH to a libtorch 2.11");
    return;
  }
  checkup.line(true, "libtorch", described.value("libtorch", "?"));
  checkup.line(true, "cpu",
               fmt::format("{}, {} cores, {} MB of memory free{}", described.value("name", "?"), host.cores,
                           host.available_memory_mb, described.value("bf16", false) ? ", bf16" : ""));
  if (host.gpus.empty()) {
    checkup.line(true, "gpu", "none found: sweeps run on the CPU");
    return;
  }
  std::string nccl;
  for (const std::string& gpu : host.gpus) {
    const Output output =
        run_quietly("CUDA_VISIBLE_DEVICES=" + shell_word(gpu) + " " + shell_word(runner) + " --describe cuda:0");
    const Json device = Json::parse(output.text, nullptr, false);
    if (device.is_object()) nccl = device.value("nccl", nccl);
    if (output.exit_code == 0 && device.is_object())
      checkup.line(true, "gpu " + gpu,
                   fmt::format("{}, {} MB, CUDA {}", device.value("name", "?"), device.value("memory_mb", 0),
                               device.value("cuda", "?")));
    else
      checkup.line(
          false, "gpu " + gpu, first_line(output.text),
          "is the driver new enough (nvidia-smi), and libtorch with its CUDA libraries installed (scripts/setup)?");
  }
  if (host.gpus.size() > 1) check_nccl(checkup, nccl);
}

void check_directory(Checkup& checkup, fs::path directory) {
  std::error_code error;
  directory = fs::absolute(directory);
  while (!fs::exists(directory, error) && directory.has_parent_path() && directory != directory.parent_path())
    directory = directory.parent_path();
  struct statfs info {};
  if (statfs(directory.c_str(), &info) != 0) {
    checkup.line(false, "directory", directory.string() + " cannot be looked at", "give a folder that exists");
    return;
  }
  const bool writable = access(directory.c_str(), W_OK) == 0;
  const double free_gb = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_bsize) / 1e9;
  checkup.line(writable, "directory",
               fmt::format("{} on {}, {:.1f} GB free", directory.string(), file_system_name(info.f_type), free_gb),
               "it is not writable: give another with --out");
  if (free_gb < 1)
    checkup.line(false, "disk", "less than 1 GB free", "make room: artifacts and checkpoints need it");
}

}  // namespace

int doctor_command(const DoctorOptions& options) {
  Checkup checkup;
  checkup.line(true, "finesweep", std::string(kVersion) + ", " + options.program.string());
  const HostResources host = read_host_resources();

  char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(library, &length);
  checkup.line(true, "MPI library", first_line(std::string(library)).substr(0, std::string(library).find(',')));
  const Output mpirun = run_quietly("mpirun --version");
  checkup.line(mpirun.exit_code == 0, "mpirun", first_line(mpirun.text),
               "install Open MPI (Debian: openmpi-bin), or start workers with srun");
  check_runner(checkup, options.program.parent_path() / "finesweep-runner", host);
  const Output slurm = run_quietly("sbatch --version");
  checkup.line(true, "Slurm", slurm.exit_code == 0 ? first_line(slurm.text) : "not here");
  say_what_listens(checkup);
  check_directory(checkup, options.directory);
  return checkup.healthy ? 0 : 4;
}

}  // namespace finesweep::coordinator
