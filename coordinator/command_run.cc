#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/console.h"
#include "coordinator/devices.h"
#include "coordinator/driver.h"
#include "coordinator/local_scratch.h"
#include "coordinator/mpi_link.h"
#include "coordinator/split_link.h"
#include "coordinator/status_page.h"
#include "coordinator/supervisor.h"
#include "coordinator/sweep_input.h"
#include "coordinator/tcp_link.h"
#include "coordinator/unix_time.h"
#include "jobs/join.h"
#include "jobs/messages.h"
#include "slurm/allocation.h"
#include "storage/coordinator_lock.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/store.h"
#include "sweeps/packing.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

std::optional<sweeps::ParsedSweep> parse(const RunOptions& options) {
  return parse_sweep_file(options.sweep, options.overrides);
}

/// Threads of each worker: what was chosen before, else the cores that Slurm gave each rank, else what suits the
/// host.
int threads_of(const storage::RunDirectory& run, const Plan& plan, const HostResources& host) {
  if (const auto chosen = chosen_threads(run, plan)) return *chosen;
  if (const auto allocation = slurm::read_allocation(); allocation && allocation->cpus_per_task > 0)
    return allocation->cpus_per_task;
  return default_threads(host.cores);
}

std::vector<PackTraits> packing_of(const Plan& plan) {
  const auto files = sweeps::make_sweep_files(sweeps::default_checksum_cache());
  sweeps::ModelCatalog models(*files);
  return sweeps::pack_traits(plan, models);
}

/// A number of seconds that tests make smaller than users would.
double seconds_of(const char* variable, double usual) {
  const char* text = std::getenv(variable);
  const double seconds = text ? std::atof(text) : 0;
  return seconds > 0 ? seconds : usual;
}

/// The life of this run under one supervisor or Slurm job, counted from 0; above 0 it was started again by itself.
int life() {
  if (const char* text = std::getenv("FINESWEEP_LIFE")) return std::atoi(text);
  const auto allocation = slurm::read_allocation();
  return allocation ? allocation->restarts : 0;
}

bool supervised() {
  return std::getenv("FINESWEEP_LIFE") != nullptr;
}

int run_supervised(const RunOptions& options) {
  const auto sweep = parse(options);
  if (!sweep) return 2;
  const HostResources host = read_host_resources();
  const auto devices = choose_devices(options.devices, host);
  if (!devices) {
    std::cerr << devices.error().message << "\n";
    return 2;
  }
  const storage::RunDirectory run(run_directory_of(options.out, sweep->plan));
  const int workers = options.workers > 0 ? options.workers
                                          : default_workers(*devices, host, threads_of(run, sweep->plan, host),
                                                            estimate_worker_memory_mb(sweep->plan), sweep->plan);
  if (const Status enough = check_devices(sweep->plan, *devices, workers); !enough) {
    std::cerr << "finesweep: " << enough.error().message << "\n";
    return 2;
  }
  if (const Status created = run.create(); !created) {
    std::cerr << "finesweep: " << created.error().message << "\n";
    return 4;
  }
  SupervisorOptions supervisor;
  supervisor.program = options.program;
  supervisor.run_directory = run.path();
  supervisor.workers = workers;
  supervisor.arguments = {
      "run", fs::absolute(options.sweep).string(), "--out", run.path().string(), "--devices", options.devices};
  for (const std::string& override : options.overrides)
    supervisor.arguments.insert(supervisor.arguments.end(), {"--set", override});
  const std::vector<std::string> listening = options.listen.arguments();
  supervisor.arguments.insert(supervisor.arguments.end(), listening.begin(), listening.end());
  Console console(options.json                 ? ConsoleMode::json
                  : isatty(STDOUT_FILENO) == 1 ? ConsoleMode::bars
                                               : ConsoleMode::lines);
  return supervise(supervisor, console);
}

Result<storage::CoordinatorLock> acquire_lock(const storage::RunDirectory& run) {
  // After a crash the last coordinator may still be on its way out. One that died with its node, under Slurm, is
  // known to be dead once its heartbeat is 30 s old.
  const int patience_s = slurm::read_allocation() ? 45 : life() > 0 ? 8 : 3;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  while (true) {
    auto lock = storage::CoordinatorLock::acquire(run);
    if (lock || std::chrono::steady_clock::now() > until) return lock;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

/// Says why nothing can be run. The supervisor, where there is one, hears it as a record and does not try again.
int give_up(int exit_code, const std::string& message) {
  if (supervised())
    Console(ConsoleMode::wire).show({{"event", "gave_up"}, {"exit_code", exit_code}, {"message", message}});
  else
    std::cerr << "finesweep: " << message << "\n";
  return exit_code;
}

/// Lets workers join while it lives: listens, and says in join.json where and with which token.
class Joining {
 public:
  static Result<std::unique_ptr<Joining>> allow(const RunOptions& options, const storage::RunDirectory& run,
                                                int first_rank) {
    const auto token = random_secret();
    if (!token) return token.error();
    TcpLinkOptions link_options;
    link_options.address = options.listen.join_address;
    link_options.port = options.listen.join_port;
    link_options.first_rank = first_rank;
    auto link = TcpLink::listen(link_options, *token);
    if (!link) return Error{"--join-port: " + link.error().message};
    JoinTicket ticket{options.listen.join_address, (*link)->port(), *token, run.path().string()};
    if (options.listen.join_address == "0.0.0.0" || options.listen.join_address == "::") ticket.host = host_name();
    auto joining = std::unique_ptr<Joining>(new Joining(run.join_file(), std::move(*link)));
    if (const Status written = storage::write_file_atomically(run.join_file(), write_join_ticket(ticket), 0600);
        !written)
      return written.error();
    joining->record_ = {{"event", "joining_allowed"},
                        {"host", ticket.host},
                        {"port", ticket.port},
                        {"file", run.join_file().string()}};
    return joining;
  }
  ~Joining() {
    std::error_code ignored;
    fs::remove(file_, ignored);
  }

  TcpLink& link() { return *link_; }
  const Json& record() const { return record_; }

 private:
  Joining(fs::path file, std::unique_ptr<TcpLink> link) : file_(std::move(file)), link_(std::move(link)) {}

  fs::path file_;
  std::unique_ptr<TcpLink> link_;
  Json record_;
};

int coordinate(MpiWorld& world, const RunOptions& options, MpiLink& link) {
  if (world.size() < 2)
    return give_up(2,
                   "a sweep needs at least two ranks, a coordinator and a worker: mpirun -n 2 finesweep run …, or "
                   "`finesweep run` alone, which starts mpirun itself");
  auto sweep = parse(options);
  if (!sweep) return 2;
  if (world.size() - 1 < devices_needed(sweep->plan))
    return give_up(2, check_devices(sweep->plan, {"cpu"}, world.size() - 1).error().message);
  const HostResources host = read_host_resources();
  const storage::RunDirectory run(run_directory_of(options.out, sweep->plan));
  if (const Status created = run.create(); !created) return give_up(4, created.error().message);
  auto lock = acquire_lock(run);
  if (!lock) return give_up(4, lock.error().message);
  sweep->plan.resources.threads = threads_of(run, sweep->plan, host);

  auto store = storage::Store::create_or_open(run.path());
  if (!store) return give_up(4, store.error().message);
  const auto time_ms = unix_ms();
  if (const auto generation = store->begin_generation(world.host(), getpid(), time_ms); !generation)
    return give_up(4, generation.error().message);
  if (const Status saved = store->save_plan(sweep->plan, sweep->resolved_text); !saved)
    return give_up(4, saved.error().message);
  if (const Status written = storage::write_file_atomically(run.sweep_file(), sweep->resolved_text); !written)
    return give_up(4, written.error().message);

  std::unique_ptr<Joining> joining;
  std::optional<SplitLink> both;
  std::error_code ignored;
  fs::remove(run.join_file(), ignored);  // of a coordinator that was killed
  if (options.listen.join_port >= 0) {
    auto allowed = Joining::allow(options, run, world.size());
    if (!allowed) return give_up(2, allowed.error().message);
    joining = std::move(*allowed);
    both.emplace(link, joining->link(), world.size());
  }

  std::unique_ptr<OpenStatusPage> page;
  if (options.listen.status_port >= 0) {
    StatusPageOptions page_options;
    page_options.address = options.listen.status_address;
    page_options.port = options.listen.status_port;
    auto opened = OpenStatusPage::open(run, page_options);
    if (!opened) return give_up(2, "--status-port: " + opened.error().message);
    page = std::move(*opened);
  } else {
    fs::remove(run.status_page_file(), ignored);
  }

  Console console(supervised() ? ConsoleMode::wire : options.json ? ConsoleMode::json : ConsoleMode::lines);
  DriverOptions driver_options;
  driver_options.threads = sweep->plan.resources.threads;
  driver_options.workers = world.size() - 1;
  driver_options.host = world.host();
  driver_options.retry_failed = life() == 0;
  driver_options.no_progress_s = seconds_of("FINESWEEP_NO_PROGRESS_S", driver_options.no_progress_s);
  const sweeps::PackSizes packs = sweeps::pack_sizes(sweep->plan.resources);
  driver_options.reactor.max_pack_jobs = packs.on_gpu;
  driver_options.reactor.max_pack_jobs_on_cpu = packs.on_cpu;
  driver_options.packing = packing_of(sweep->plan);
  driver_options.reactor.lease = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
      seconds_of("FINESWEEP_LEASE_S", std::chrono::duration<double>(driver_options.reactor.lease).count())));
  if (joining) console.show(joining->record());
  if (page)
    console.show(
        {{"event", "status_page"}, {"url", page->ticket().url}, {"file", run.status_page_file().string()}});
  Driver driver(
      *store, &*lock, run, std::move(sweep->plan), both ? static_cast<WorkerLink&>(*both) : link,
      [&](const Json& record) { console.show(record); }, std::move(driver_options));
  return driver.run();
}

}  // namespace

std::vector<std::string> ListenOptions::arguments() const {
  std::vector<std::string> all;
  if (join_port >= 0)
    all.insert(all.end(), {"--join-port", std::to_string(join_port), "--join-address", join_address});
  if (status_port >= 0)
    all.insert(all.end(), {"--status-port", std::to_string(status_port), "--status-address", status_address});
  return all;
}

int run_command(const RunOptions& options, const WorkerMain& worker_main) {
  if (!under_mpi_launcher()) return run_supervised(options);

  // From the first moment: a time limit may be near.
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, [](int) { Driver::request_stop(); });
  use_local_scratch();
  auto world = MpiWorld::start();
  if (!world) return give_up(4, world.error().message);
  if (world->rank() > 0) {
    // The coordinator alone stops a sweep. Slurm sends SIGTERM to every process some time before SIGKILL, mpirun to
    // the ranks alone, when they are to end at once.
    for (int signal : {SIGINT, SIGUSR1}) std::signal(signal, SIG_IGN);
    std::signal(SIGTERM, slurm::read_allocation() ? SIG_IGN : SIG_DFL);
    const auto devices = choose_devices(options.devices, read_host_resources());
    const auto index = static_cast<std::size_t>(world->node_index());
    std::string device = "cpu";
    if (devices && devices->front() != "cpu") device = index < devices->size() ? (*devices)[index] : "";
    world->exit(worker_main(*world, device));
  }
  MpiLink link;
  const int exit_code = coordinate(*world, options, link);
  if (exit_code == 2 || exit_code == 4) {
    for (int rank = 1; rank < world->size(); ++rank) link.send(rank, encode(Stop{}));
    for (int i = 0; i < 50; ++i) {
      link.receive();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  // mpirun makes a noise about exit codes; the supervisor reads ours from status.json.
  world->exit(supervised() ? 0 : exit_code);
}

}  // namespace finesweep::coordinator
