// What a job costs besides its work: empty jobs through the real coordinator, MPI and store, every result committed
// durably.
//
//   dispatch_bench [JOBS] [WORKERS] [DIRECTORY]      default 10000 jobs, 2 workers, a fresh folder under /tmp
//
// Starts itself under mpirun. The workers are real agents; in place of a runner process stands one that answers at
// once, so nothing but dispatch is measured.

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "coordinator/driver.h"
#include "coordinator/mpi_link.h"
#include "storage/run_directory.h"
#include "storage/store.h"
#include "worker/agent/agent.h"

namespace {

using namespace finesweep;
namespace fs = std::filesystem;

class EmptyRunner final : public worker::JobRunner {
 public:
  explicit EmptyRunner(boost::asio::io_context& io) : io_(io) {}
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  void start(const Execute& execute) override {
    boost::asio::post(io_, [this, attempt = execute.pack.front().key()] {
      Outcome outcome;
      outcome.kind = OutcomeKind::succeeded;
      outcome.metrics["accuracy"] = 0.5;
      callbacks_.finished(attempt, std::move(outcome), false);
    });
  }
  void prepare(const std::vector<Execute>&, bool) override {}
  void request_stop(const std::vector<AttemptKey>&) override {}
  void kill(const std::string&) override {}
  void release_device() override {}
  void shut_down() override {}

 private:
  boost::asio::io_context& io_;
  Callbacks callbacks_;
};

class ToCoordinator final : public worker::CoordinatorLink {
 public:
  void send(Bytes frame) override { link_.send(0, std::move(frame)); }
  std::vector<Bytes> receive() override {
    std::vector<Bytes> frames;
    for (auto& received : link_.receive()) frames.push_back(std::move(received.frame));
    return frames;
  }

 private:
  coordinator::MpiLink link_;
};

Plan empty_plan(int jobs) {
  Plan plan;
  plan.name = "dispatch";
  for (int i = 0; i < jobs; ++i) {
    Job job;
    job.id = JobId::of("empty " + std::to_string(i));
    job.kind = StepKind::evaluate;
    job.settings = {{"split", "test"}, {"batch_size", 16}, {"sequence_length", 64}, {"index", i}};
    job.title = "empty " + std::to_string(i);
    Trial trial;
    trial.configuration = trial.name = job.id.hex().substr(0, 8);
    trial.name += ".0";
    trial.label = job.title;
    trial.steps.push_back({"evaluate", job.kind, job.id});
    plan.trials.push_back(std::move(trial));
    plan.jobs.push_back(std::move(job));
  }
  return plan;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int coordinate(coordinator::MpiWorld& world, int jobs, const fs::path& directory) {
  const storage::RunDirectory run(directory);
  if (!run.create()) return 4;
  auto store = storage::Store::create_or_open(directory);
  Plan plan = empty_plan(jobs);
  if (!store || !store->begin_generation(world.host(), getpid(), 0) || !store->save_plan(plan, "")) return 4;
  coordinator::MpiLink link;
  coordinator::DriverOptions options;
  options.workers = world.size() - 1;
  options.host = world.host();
  using Clock = std::chrono::steady_clock;
  Clock::time_point begun{}, done{};
  auto show = [&](const Json& record) {
    const std::string event = record.value("event", "");
    if (event == "sweep_started") begun = Clock::now();
    if (event == "job_succeeded") done = Clock::now();
  };
  const double cpu_before = cpu_seconds();
  coordinator::Driver driver(*store, nullptr, run, std::move(plan), link, show, options);
  const int exit_code = driver.run();
  const double seconds = std::chrono::duration<double>(done - begun).count();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::cout << fmt::format(
      "{} empty jobs over {} workers: {:.0f} jobs/s, {:.1f} µs a job; coordinator: {:.1f} µs of CPU a job (its "
      "reports "
      "included), {} MiB\n",
      jobs, world.size() - 1, jobs / seconds, 1e6 * seconds / jobs, 1e6 * (cpu_seconds() - cpu_before) / jobs,
      usage.ru_maxrss / 1024);
  return exit_code;
}

int work(coordinator::MpiWorld& world) {
  boost::asio::io_context io;
  ToCoordinator link;
  EmptyRunner runner(io);
  worker::Agent agent(io, link, runner, {Hello{world.host(), getpid(), world.node_index(), "cpu"}});
  agent.start();
  io.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int jobs = argc > 1 ? std::atoi(argv[1]) : 10000;
  const int workers = argc > 2 ? std::atoi(argv[2]) : 2;
  if (!coordinator::under_mpi_launcher()) {
    std::string directory = argc > 3 ? argv[3] : "/tmp/finesweep-dispatch-XXXXXX";
    if (argc <= 3 && !mkdtemp(directory.data())) return 4;
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    execlp("mpirun", "mpirun", "-n", std::to_string(workers + 1).c_str(), "--oversubscribe", "--bind-to", "none",
           argv[0], std::to_string(jobs).c_str(), std::to_string(workers).c_str(), directory.c_str(), nullptr);
    return 4;
  }
  auto world = coordinator::MpiWorld::start();
  if (!world) return 4;
  world->exit(world->rank() == 0 ? coordinate(*world, jobs, argv[3]) : work(*world));
}
