#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "jobs/plan.h"
#include "jobs/result.h"

namespace finesweep::coordinator {

/// What this host offers, read from /proc, /dev and the environment; neither CUDA nor libtorch is loaded for it.
struct HostResources {
  int cores = 1;
  std::int64_t available_memory_mb = 0;
  /// Values for CUDA_VISIBLE_DEVICES, one for each GPU that this process may use.
  std::vector<std::string> gpus;
};
HostResources read_host_resources();

/// Workers of one name share a machine. Slurm's name of the node where there is one: several nodes may share a host
/// name.
std::string host_name();

/// The devices of the workers of one host by `--devices`: "auto" (all GPUs, else the CPU), "cpu", or "0,1".
/// Each entry is "cpu" or "cuda:<index>"; a worker whose index is beyond the list of GPUs has no device.
Result<std::vector<std::string>> choose_devices(const std::string& devices, const HostResources& host);

/// Threads of a worker on a CPU where the sweep does not say: 1 on up to 8 cores, else 4.
int default_threads(int cores);

/// Workers where the user does not say: one for each GPU; on a CPU cores ÷ threads, as far as memory allows with
/// `memory_mb` for each, at least as many as a job needs together and never more than all jobs do.
int default_workers(const std::vector<std::string>& devices, const HostResources& host, int threads,
                    std::int64_t memory_mb, const Plan& plan);

/// Devices of one host that the plan's most demanding job needs together.
int devices_needed(const Plan& plan);
/// The Error says that a host with so many workers, on these devices, cannot run all jobs of the plan.
Status check_devices(const Plan& plan, const std::vector<std::string>& devices, int workers);

/// A generous guess of what a worker's runner needs on a CPU: libtorch, the weights four times over (values,
/// gradients, moments of a full fine-tune), activations.
std::int64_t estimate_worker_memory_mb(const Plan& plan);

}  // namespace finesweep::coordinator
