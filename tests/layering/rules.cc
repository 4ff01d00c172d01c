#include "tests/layering/layering.h"

namespace finesweep::tests {

const LayeringRules& layering_rules() {
  static const LayeringRules rules{
      .folders =
          {
              {"jobs", {"jobs/"}},
              {"sweeps", {"sweeps/", "jobs/"}},
              {"storage", {"storage/", "jobs/"}},
              {"reports", {"reports/", "storage/", "jobs/"}},
              {"slurm", {"slurm/", "jobs/"}},
              {"coordinator", {"coordinator/", "sweeps/", "storage/", "reports/", "slurm/", "jobs/"}},
              // The program: by its MPI rank the same executable is the coordinator or a worker's agent.
              {"coordinator/main.cc",
               {"coordinator/", "sweeps/", "storage/", "reports/", "slurm/", "jobs/", "worker/agent/"}},
              // A worker reads and writes files; the database is the coordinator's.
              {"worker", {"worker/", "jobs/", "storage/files.h", "storage/artifact.h", "storage/checkpoint.h"}},
              // The agent knows of the engine only what a request to it looks like, and where an attempt's folder
              // lies.
              {"worker/agent",
               {"worker/agent/", "worker/executor.h", "jobs/", "storage/files.h", "storage/artifact.h",
                "storage/checkpoint.h", "storage/run_directory.h"}},
          },
      .libraries =
          {
              {"yaml-cpp", {"yaml-cpp/"}, {"sweeps"}, {}},
              {"SQLite", {"SQLiteCpp/", "sqlite3"}, {"storage"}, {}},
              {"MPI", {"mpi.h"}, {"coordinator"}, {}},
              {"libtorch",
               {"ATen/", "torch/", "c10/", "caffe2/"},
               {"worker"},
               {"worker/agent", "worker/executor.h"}},
              {"CUDA",
               {"cuda", "driver_types.h", "cublas", "cudnn", "cutlass/", "cute/", "cub/", "thrust/", "nvrtc",
                "nvtx"},
               {"worker"},
               {"worker/agent", "worker/executor.h"}},
              {"NCCL", {"nccl"}, {"worker"}, {"worker/agent", "worker/executor.h"}},
          },
      .outside = {"tests", "examples", "docs", "scripts", "cmake", "build", "models", "runs"},
  };
  return rules;
}

}  // namespace finesweep::tests
