#include "coordinator/mpi_link.h"

#include <mpi.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <set>
#include <thread>

#include "coordinator/devices.h"
#include "jobs/crash_point.h"

namespace finesweep::coordinator {

namespace {

constexpr int kTag = 1;
/// Messages that one call takes.
constexpr std::size_t kMostAtOnce = 512;
/// Every MPI call passes here: the code in words, the call and the rank. Without MPI nothing of ours can go on, so
/// an error ends the process; the sweep is resumed from the store.
void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, rank = -1;
  MPI_Error_string(code, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  spdlog::critical("{} failed on rank {}: {}", call, rank, text);
  _exit(4);
}

}  // namespace

struct MpiWorld::Impl {
  int rank = 0, size = 1, node_index = 0;
};

MpiWorld::MpiWorld(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MpiWorld::MpiWorld(MpiWorld&&) noexcept = default;
MpiWorld::~MpiWorld() = default;

Result<MpiWorld> MpiWorld::start() {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
    return Error{
        "MPI did not start: is this process run by the mpirun of the Open MPI that finesweep was built with?"};
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  auto impl = std::make_unique<Impl>();
  check(MPI_Comm_rank(MPI_COMM_WORLD, &impl->rank), "MPI_Comm_rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, &impl->size), "MPI_Comm_size");

  // Which device a worker owns follows from its place among the workers of its node. The only collectives there
  // are.
  MPI_Comm workers = MPI_COMM_NULL, node = MPI_COMM_NULL;
  check(MPI_Comm_split(MPI_COMM_WORLD, impl->rank == 0 ? MPI_UNDEFINED : 0, impl->rank, &workers),
        "MPI_Comm_split");
  if (workers != MPI_COMM_NULL) {
    check(MPI_Comm_split_type(workers, MPI_COMM_TYPE_SHARED, impl->rank, MPI_INFO_NULL, &node),
          "MPI_Comm_split_type");
    check(MPI_Comm_rank(node, &impl->node_index), "MPI_Comm_rank");
    MPI_Comm_free(&node);
    MPI_Comm_free(&workers);
  }
  return MpiWorld(std::move(impl));
}

int MpiWorld::rank() const {
  return impl_->rank;
}
int MpiWorld::size() const {
  return impl_->size;
}
int MpiWorld::node_index() const {
  return impl_->node_index;
}

std::string MpiWorld::host() const {
  return host_name();
}

void MpiWorld::exit(int exit_code) {
  fflush(nullptr);
  // MPI_Finalize waits for the other ranks, and for ever where one of them is dead.
  const bool awaits_coordinator = impl_->rank > 0 && exit_code == 0;
  if (!awaits_coordinator)
    std::thread([exit_code] {
      std::this_thread::sleep_for(std::chrono::seconds(3));
      _exit(exit_code);
    }).detach();
  MPI_Finalize();
  _exit(exit_code);
}

bool under_mpi_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(variable)) return true;
  return false;
}

struct MpiLink::Impl {
  struct Sending {
    int rank;
    Bytes frame;
    MPI_Request request;
  };
  struct Receiving {
    int rank;
    Bytes frame;
    MPI_Request request;
  };
  std::deque<Sending> sending;
  std::deque<Receiving> receiving;  // in order of arrival: handed out from the front only
  std::set<int> forgotten;
};

MpiLink::MpiLink() : impl_(std::make_unique<Impl>()) {}
// Buffers of sends that never completed must outlive MPI, which ends with the process.
MpiLink::~MpiLink() {
  static_cast<void>(impl_.release());
}

void MpiLink::send(int rank, Bytes frame) {
  if (impl_->forgotten.contains(rank)) return;
  crash_point("mpi.before_send");
  impl_->sending.push_back({rank, std::move(frame), MPI_REQUEST_NULL});
  auto& sending = impl_->sending.back();
  check(MPI_Isend(sending.frame.data(), static_cast<int>(sending.frame.size()), MPI_BYTE, rank, kTag,
                  MPI_COMM_WORLD, &sending.request),
        "MPI_Isend");
  crash_point("mpi.sent");
}

void MpiLink::forget(int rank) {
  impl_->forgotten.insert(rank);
}

std::vector<MpiLink::Received> MpiLink::receive() {
  for (auto it = impl_->sending.begin(); it != impl_->sending.end();) {
    int done = 0;
    check(MPI_Test(&it->request, &done, MPI_STATUS_IGNORE), "MPI_Test of a send");
    it = done ? impl_->sending.erase(it) : std::next(it);
  }
  while (impl_->receiving.size() < kMostAtOnce) {
    int found = 0;
    MPI_Message message;
    MPI_Status status;
    check(MPI_Improbe(MPI_ANY_SOURCE, kTag, MPI_COMM_WORLD, &found, &message, &status), "MPI_Improbe");
    if (!found) break;
    int bytes = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    impl_->receiving.push_back({status.MPI_SOURCE, Bytes(static_cast<std::size_t>(bytes)), MPI_REQUEST_NULL});
    auto& receiving = impl_->receiving.back();
    check(MPI_Imrecv(receiving.frame.data(), bytes, MPI_BYTE, &message, &receiving.request), "MPI_Imrecv");
  }
  // A rank that dies in mid-message leaves its receive pending for ever: it must not hold up the others'.
  std::vector<Received> arrived;
  std::set<int> waiting;
  for (auto it = impl_->receiving.begin(); it != impl_->receiving.end();) {
    int done = 0;
    if (!waiting.contains(it->rank))
      check(MPI_Test(&it->request, &done, MPI_STATUS_IGNORE), "MPI_Test of a receive");
    if (!done) {
      waiting.insert(it->rank);
      ++it;
      continue;
    }
    arrived.push_back({it->rank, std::move(it->frame)});
    it = impl_->receiving.erase(it);
  }
  if (!arrived.empty()) crash_point("mpi.received");
  return arrived;
}

std::size_t MpiLink::pending_sends() const {
  return impl_->sending.size();
}

}  // namespace finesweep::coordinator
