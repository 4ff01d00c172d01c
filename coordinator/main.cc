// finesweep: one program, whose processes are supervisor, coordinator or worker. The command line is here; what the
// commands do is in the other files of this folder, and what a worker does in worker/agent.

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <iostream>

#include "coordinator/commands.h"
#include "jobs/lifeline.h"
#include "jobs/version.h"
#include "worker/agent/agent.h"
#include "worker/agent/runner_pool.h"

namespace finesweep {
namespace {

namespace fs = std::filesystem;

/// A worker's frames go to rank 0 by MPI.
class MpiCoordinatorLink final : public worker::CoordinatorLink {
 public:
  void send(Bytes frame) override { link_.send(0, std::move(frame)); }
  std::vector<Bytes> receive() override {
    std::vector<Bytes> frames;
    for (auto& received : link_.receive())
      if (received.rank == 0) frames.push_back(std::move(received.frame));
    return frames;
  }

 private:
  coordinator::MpiLink link_;
};

int worker_main(coordinator::MpiWorld& world, const std::string& device, const fs::path& program) {
  boost::asio::io_context io;
  MpiCoordinatorLink link;
  if (device.empty()) {
    spdlog::info("rank {} finds no GPU left on its node and stays idle", world.rank());
    return 0;
  }
  worker::RunnerPool runners(io, {(program.parent_path() / "finesweep-runner").string(), device});
  worker::Agent agent(io, link, runners, {Hello{world.host(), getpid(), world.node_index(), device}});
  agent.start();
  io.run();
  return 0;
}

fs::path this_program() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error);
}

constexpr const char* kFooter = R"(Examples:
  finesweep init > sweep.yaml                            a commented starter sweep
  finesweep plan sweep.yaml                              what it would run; starts nothing
  finesweep run sweep.yaml                               all GPUs of this machine, or its cores
  finesweep run sweep.yaml --set finetune.epochs=1       with another value for one setting
  mpirun -n 5 finesweep run sweep.yaml                   one coordinator and four workers
  finesweep status runs/my-sweep --watch                 how a sweep stands, from any terminal
  finesweep report runs/my-sweep                         its tables, made anew

A sweep that was stopped or killed goes on where it stood: run the same command again.

Exit codes: 0 all trials succeeded, 1 some failed (the report names them), 2 the input is wrong,
3 interrupted and resumable, 4 the system failed.)";

int run(int argc, char** argv) {
  CLI::App app{
      "Compares ways of fine-tuning and compressing language models: one YAML file in, comparison tables out."};
  app.name("finesweep");
  app.footer(kFooter);
  app.set_version_flag("--version", "finesweep " + std::string(kVersion));
  app.require_subcommand(1);
  int exit_code = 0;
  const fs::path program = this_program();

  coordinator::RunOptions run;
  run.program = program;
  auto* run_app = app.add_subcommand("run", "Run a sweep, or go on with one that was stopped.");
  run_app->add_option("sweep", run.sweep, "The sweep file")->required();
  run_app->add_option("--out", run.out, "Run directory (default: runs/NAME, with the sweep's name)");
  run_app->add_option("--set", run.overrides, "Override a setting: PATH=VALUE; may be repeated")
      ->allow_extra_args(false);
  run_app->add_option("--workers", run.workers, "Workers (default: one for each GPU, or cores / threads)")
      ->check(CLI::Range(1, 100000));
  run_app->add_option("--devices", run.devices, "auto, cpu, or indices of GPUs such as 0,1");
  run_app->add_flag("--json", run.json, "One JSON object for each event");
  run_app->footer("Example:\n  finesweep run examples/quickstart.yaml --workers 2");
  run_app->callback([&] {
    exit_code = coordinator::run_command(run, [&](coordinator::MpiWorld& world, const std::string& device) {
      return worker_main(world, device, program);
    });
  });

  coordinator::PlanOptions plan;
  auto* plan_app = app.add_subcommand("plan", "Show trials, shared jobs and estimated memory; start nothing.");
  plan_app->add_option("sweep", plan.sweep, "The sweep file")->required();
  plan_app->add_option("--set", plan.overrides, "Override a setting: PATH=VALUE; may be repeated")
      ->allow_extra_args(false);
  plan_app->add_flag("--json", plan.json, "As JSON");
  plan_app->footer("Example:\n  finesweep plan examples/quickstart.yaml --set sweep.repeats=3");
  plan_app->callback([&] { exit_code = coordinator::plan_command(plan); });

  coordinator::StatusOptions status;
  auto* status_app = app.add_subcommand("status", "Show how a sweep stands.");
  status_app->add_option("directory", status.directory, "The run directory")->required();
  status_app->add_flag("--watch", status.watch, "Again every second, until the sweep ends");
  status_app->add_flag("--json", status.json, "As JSON");
  status_app->footer("Example:\n  finesweep status runs/quickstart --watch");
  status_app->callback([&] { exit_code = coordinator::status_command(status); });

  coordinator::ReportOptions report;
  auto* report_app = app.add_subcommand("report", "Write the tables of a sweep, running or not.");
  report_app->add_option("directory", report.directory, "The run directory")->required();
  report_app->add_option("--format", report.formats, "md, csv, json, or several with commas (default: all)");
  report_app->footer("Example:\n  finesweep report runs/quickstart --format md,csv");
  report_app->callback([&] { exit_code = coordinator::report_command(report); });

  coordinator::DoctorOptions doctor;
  doctor.program = program;
  auto* doctor_app = app.add_subcommand("doctor", "Check devices, drivers, MPI, file system and versions.");
  doctor_app->add_option("directory", doctor.directory, "Where runs are to be kept (default: here)");
  doctor_app->footer("Example:\n  finesweep doctor runs");
  doctor_app->callback([&] { exit_code = coordinator::doctor_command(doctor); });

  coordinator::InitOptions init;
  auto* init_app = app.add_subcommand("init", "Print a commented starter sweep.");
  init_app->add_option("template", init.name, "Which one (default: classification; `list` names them)");
  init_app->footer("Example:\n  finesweep init classification > sweep.yaml");
  init_app->callback([&] { exit_code = coordinator::init_command(init); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_code;
}

}  // namespace
}  // namespace finesweep

int main(int argc, char** argv) {
  using namespace finesweep;
  // Internal: the supervisor starts mpirun through this, so that it ends when the supervisor does.
  if (argc > 3 && std::string(argv[1]) == "exec-with-lifeline") {
    const Error error = exec_with_lifeline(std::atoi(argv[2]), std::vector<std::string>(argv + 3, argv + argc));
    std::cerr << "finesweep: " << error.message << "\n";
    return 4;
  }
  // Only what another process of ours started has somebody to end with: a user's shell is not it.
  if (announced_parent() > 0 || coordinator::under_mpi_launcher()) end_with_parent(announced_parent());
  spdlog::set_default_logger(spdlog::stderr_logger_st("finesweep"));
  spdlog::set_pattern("%H:%M:%S %l: %v");
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "finesweep: internal error: " << error.what() << "\n";
    return 4;
  }
}
