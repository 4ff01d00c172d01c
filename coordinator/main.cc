// finesweep: one program, whose processes are supervisor, coordinator or worker. The command line is here; what the
// commands do is in the other files of this folder, and what a worker does in worker/agent.

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/supervisor.h"
#include "jobs/lifeline.h"
#include "jobs/version.h"
#include "worker/agent/agent.h"
#include "worker/agent/joined_worker.h"
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
    spdlog::info("rank {} is a spare: its node has no GPU left for it", world.rank());
    return 0;
  }
  worker::RunnerPool runners(io, {(program.parent_path() / "finesweep-runner").string(), device});
  worker::Agent agent(io, link, runners, {Hello{world.host(), getpid(), world.node_index(), device}});
  agent.start();
  io.run();
  if (!agent.deserted()) return 0;
  if (agent.run_directory().empty()) return 4;
  if (world.node_index() > 0) {
    // One worker of each node is enough; but where another exits without the rest, Slurm's PMIx ends the whole
    // step.
    std::this_thread::sleep_for(std::chrono::seconds(60));
    return 4;
  }
  return coordinator::slurm_life_command({"desert", agent.run_directory(), 0});
}

int join_main(const coordinator::WorkerOptions& options) {
  const auto devices = coordinator::choose_devices(options.device, coordinator::read_host_resources());
  if (!devices) {
    std::cerr << "finesweep: " << devices.error().message << "\n";
    return 2;
  }
  if (devices->size() > 1 && options.device != "auto") {
    std::cerr << "finesweep: --device: a worker has one device; start one worker for each\n";
    return 2;
  }
  worker::JoinedWorkerOptions joined;
  joined.ticket = fs::absolute(options.ticket);
  joined.host = coordinator::host_name();
  joined.device = devices->front();
  joined.runner = (options.program.parent_path() / "finesweep-runner").string();
  joined.patience = std::chrono::seconds(options.patience_s);
  return worker::work_joined(joined);
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
  finesweep submit sweep.yaml --gpus-per-node 4          as a job of Slurm
  finesweep worker --join runs/my-sweep/join.json        one more worker for a sweep that runs with --join-port
  finesweep status runs/my-sweep --watch                 how a sweep stands, from any terminal
  finesweep cancel runs/my-sweep 1a2b3c4d.0              end a trial, or without one the sweep
  finesweep report runs/my-sweep                         its tables and plots, made anew
  finesweep compare runs/lora runs/qlora                 one table over several sweeps
  finesweep export runs/my-sweep TRIAL --to my-adapter   what a trial trained
  finesweep generate --model M --adapter my-adapter --prompt "Once upon"

A sweep that was stopped or killed goes on where it stood: run the same command again.

Exit codes: 0 all trials succeeded, 1 some failed (the report names them), 2 the input is wrong,
3 interrupted and resumable, 4 the system failed.)";

void add_model_options(CLI::App* command, ModelChoice& choice, std::string& precision, std::string& device,
                       int& threads) {
  command->add_option("--model", choice.model, "Hugging Face directory, or a GGUF file")->required();
  command->add_option("--adapter", choice.adapter, "PEFT adapter over it");
  command->add_option("--quantize", choice.quantize, "Keep the model's weights in nf4 or int8")
      ->check(CLI::IsMember({"nf4", "int8"}));
  command->add_option("--precision", precision, "fp32, bf16 or fp16 (default: fp32)")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  command->add_option("--device", device, "auto, cpu, or the index of a GPU (default: auto)");
  command->add_option("--threads", threads, "On a CPU (default: its cores)")->check(CLI::Range(1, 1024));
}

void add_generate(CLI::App& app, coordinator::GenerateOptions& options, int& exit_code) {
  auto* command = app.add_subcommand("generate", "Continue a text, or write the target of a source.");
  add_model_options(command, options.choice, options.precision, options.device, options.threads);
  command->add_option("--prompt", options.prompt, "The text to go on from");
  command->add_option("--prompts", options.prompts, "JSON Lines with a prompt in each row");
  command->add_option("--field", options.field, "Field of the rows that holds it (default: prompt)");
  auto& generation = options.generation;
  command->add_option("--max-new-tokens", generation.max_new_tokens, "Where to stop at the latest (default: 64)")
      ->check(CLI::Range(1, 1048576));
  command->add_option("--num-beams", generation.num_beams, "Beams of a search (default: 1, greedy)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--sample", generation.do_sample, "Draw tokens instead of taking the best");
  command->add_option("--temperature", generation.temperature, "Of the draws (default: 1)")
      ->check(CLI::PositiveNumber);
  command->add_option("--top-k", generation.top_k, "Draw from so many tokens; 0: from all (default: 50)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-p", generation.top_p, "Draw from those that hold so much probability (default: 1)")
      ->check(CLI::Range(1e-6, 1.0));
  command->add_option("--kv-cache", generation.kv_cache, "Keep keys and values of tokens (default: true)");
  command->add_option("--seed", options.seed, "Of the draws (default: 0)");
  command->add_option("--batch-size", options.batch_size, "Prompts at a time (default: 8)")
      ->check(CLI::Range(1, 65536));
  command->add_flag("--json", options.json, "One JSON object for each prompt");
  command->footer("Example:\n  finesweep generate --model models/gpt2 --prompt \"The sea was\" --sample --seed 1");
  command->callback([&] { exit_code = coordinator::generate_command(options); });
}

void add_evaluate(CLI::App& app, coordinator::EvaluateOptions& options, int& exit_code) {
  auto* command = app.add_subcommand("evaluate", "Measure a model on a file of rows.");
  add_model_options(command, options.choice, options.precision, options.device, options.threads);
  command->add_option("--task", options.task, "classification, causal_lm or seq2seq")
      ->required()
      ->check(CLI::IsMember({"classification", "causal_lm", "seq2seq"}));
  command->add_option("--data", options.data, "Rows: .jsonl, .csv or .tsv")->required();
  command->add_option("--fields", options.fields, "Which field is what: text=review,label=stars");
  command->add_option("--labels", options.labels, "The classes in the order of their numbers, with commas");
  command->add_option("--metrics", options.metrics, "With commas (default: those of the task)");
  command->add_option("--batch-size", options.batch_size, "Rows at a time (default: 32)")
      ->check(CLI::Range(1, 65536));
  command->add_option("--sequence-length", options.sequence_length, "Longer rows are cut (default: 128 tokens)")
      ->check(CLI::Range(2, 1048576));
  const auto generation = [&, command](const char* option, const char* key, const char* help) {
    command->add_option_function<std::int64_t>(
        option, [&options, key](std::int64_t value) { options.generation[key] = value; }, help);
  };
  generation("--max-new-tokens", "max_new_tokens", "Where generated text stops at the latest (default: 64)");
  generation("--num-beams", "num_beams", "Beams of a search (default: 1, greedy)");
  command
      ->add_option("--set", options.overrides,
                   "Any other setting, as in a sweep file: evaluate.KEY=VALUE, data.KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--seed", options.seed, "Of what is drawn (default: 0)");
  command->add_flag("--json", options.json, "One JSON object");
  command->footer(
      "Example:\n  finesweep evaluate --model models/t5-small --task seq2seq --data test.jsonl --num-beams 4\n"
      "  finesweep evaluate --model M --adapter A --task classification --data test.csv --fields text=review");
  command->callback([&] { exit_code = coordinator::evaluate_command(options); });
}

void add_worker(CLI::App& app, coordinator::WorkerOptions& options, int& exit_code) {
  auto* command = app.add_subcommand("worker", "Join a running sweep as one more worker.");
  command->add_option("--join", options.ticket, "join.json of the run directory: the sweep runs with --join-port")
      ->required();
  command->add_option("--device", options.device,
                      "auto (the first GPU, else the CPU), cpu, or the index of a GPU (default: auto)");
  command
      ->add_option("--patience", options.patience_s,
                   "Seconds for which a coordinator that is not there is looked for (default: 120)")
      ->check(CLI::Range(0, 1000000));
  command->footer(
      "Ctrl-C: what runs writes a checkpoint, then the worker leaves; again: it ends at once.\n"
      "Exit codes: 0 the sweep ended or the worker left, 2 the input is wrong, 3 ended at once, 4 no coordinator.\n"
      "Example:\n  finesweep worker --join runs/quickstart/join.json --device cpu");
  command->callback([&] { exit_code = join_main(options); });
}

void add_listening(CLI::App* command, coordinator::ListenOptions& listen) {
  command
      ->add_option("--join-port", listen.join_port,
                   "Let workers join by `finesweep worker` at this port, 0: any free one (default: none may join)")
      ->check(CLI::Range(0, 65535));
  command->add_option("--join-address", listen.join_address,
                      "IP address to listen on for them; 0.0.0.0: all of the host's (default: 127.0.0.1)");
  command
      ->add_option("--status-port", listen.status_port,
                   "Show how the sweep stands on a page at this port, 0: any free one (default: no page)")
      ->check(CLI::Range(0, 65535));
  command->add_option("--status-address", listen.status_address,
                      "IP address to serve it at; 0.0.0.0: all of the host's (default: 127.0.0.1)");
}

void add_submit(CLI::App& app, coordinator::SubmitOptions& options, int& exit_code) {
  auto* command = app.add_subcommand("submit", "Run a sweep as a job of Slurm, or go on with one.");
  command->add_option("sweep", options.sweep, "The sweep file")->required();
  command->add_option("--out", options.out, "Run directory (default: runs/NAME); every node must see it");
  command->add_option("--set", options.overrides, "Override a setting: PATH=VALUE; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--nodes", options.nodes, "Nodes (default: 1)")->check(CLI::Range(1, 100000));
  command
      ->add_option("--gpus-per-node", options.gpus_per_node,
                   "GPUs of each node, one worker each (default: 0, CPUs)")
      ->check(CLI::Range(0, 1000));
  command->add_option("--workers", options.workers, "On CPUs: workers of each node (default: 1)")
      ->check(CLI::Range(1, 100000));
  command->add_option("--time", options.time, "Time limit as sbatch takes it: minutes, h:mm:ss, d-hh:mm:ss");
  command->add_flag("--dry-run", options.dry_run, "Print the batch script; submit and write nothing");
  add_listening(command, options.listen);
  command->add_option("sbatch", options.sbatch_arguments, "After --: arguments for sbatch, which go before ours");
  command->footer(
      "Examples:\n  finesweep submit sweep.yaml --nodes 2 --gpus-per-node 4 --time 2:00:00\n"
      "  finesweep submit sweep.yaml --workers 8 --time 30 -- --partition=short --mem=32G");
  command->callback([&] { exit_code = coordinator::submit_command(options); });
}

void add_export(CLI::App& app, coordinator::ExportOptions& options, int& exit_code) {
  auto* command = app.add_subcommand("export", "Copy what a trial trained out of a run directory.");
  command->add_option("directory", options.directory, "The run directory")->required();
  command->add_option("trial", options.trial, "Name of the trial, the beginning of one, or its label")->required();
  command->add_option("--to", options.to, "A folder that does not exist yet")->required();
  command->add_flag("--merge", options.merge, "Merge the adapter into its base: a whole Hugging Face directory");
  command->add_option("--device", options.device, "Where to merge: cpu, or the index of a GPU (default: cpu)");
  command->footer("Example:\n  finesweep export runs/quickstart 1a2b3c4d.0 --to my-adapter");
  command->callback([&] { exit_code = coordinator::export_command(options); });
}

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
  add_listening(run_app, run.listen);
  run_app->footer("Example:\n  finesweep run examples/quickstart.yaml --workers 2");
  run_app->callback([&] {
    exit_code = coordinator::run_command(run, [&](coordinator::MpiWorld& world, const std::string& device) {
      return worker_main(world, device, program);
    });
  });

  coordinator::WorkerOptions worker;
  worker.program = program;
  add_worker(app, worker, exit_code);

  coordinator::PlanOptions plan;
  auto* plan_app = app.add_subcommand("plan", "Show trials, shared jobs and estimated memory; start nothing.");
  plan_app->add_option("sweep", plan.sweep, "The sweep file")->required();
  plan_app->add_option("--set", plan.overrides, "Override a setting: PATH=VALUE; may be repeated")
      ->allow_extra_args(false);
  plan_app->add_flag("--json", plan.json, "As JSON");
  plan_app->footer("Example:\n  finesweep plan examples/quickstart.yaml --set sweep.repeats=3");
  plan_app->callback([&] { exit_code = coordinator::plan_command(plan); });

  coordinator::SubmitOptions submit;
  submit.program = program;
  add_submit(app, submit, exit_code);
  coordinator::CancelOptions cancel;
  auto* cancel_app = app.add_subcommand("cancel", "Cancel a running sweep, or some of its trials.");
  cancel_app->add_option("directory", cancel.directory, "The run directory")->required();
  cancel_app->add_option("trials", cancel.trials,
                         "Names of trials, beginnings of them, or labels (all repeats); none: the whole sweep");
  cancel_app->footer("Example:\n  finesweep cancel runs/quickstart 1a2b3c4d.0 \"LoRA rank 2\"");
  cancel_app->callback([&] { exit_code = coordinator::cancel_command(cancel); });
  coordinator::SlurmLifeOptions life;
  auto* life_app = app.add_subcommand("slurm-life", "For the batch script of `submit`.");
  life_app->group("");
  life_app->add_option("moment", life.moment)
      ->required()
      ->check(CLI::IsMember({"begin", "await", "end", "desert"}));
  life_app->add_option("directory", life.directory)->required();
  life_app->add_option("number", life.number);
  life_app->callback([&] { exit_code = coordinator::slurm_life_command(life); });

  coordinator::StatusOptions status;
  auto* status_app = app.add_subcommand("status", "Show how a sweep stands.");
  status_app->add_option("directory", status.directory, "The run directory")->required();
  status_app->add_flag("--watch", status.watch, "Again every second, until the sweep ends");
  status_app->add_flag("--json", status.json, "As JSON");
  status_app->footer("Example:\n  finesweep status runs/quickstart --watch");
  status_app->callback([&] { exit_code = coordinator::status_command(status); });

  coordinator::ReportOptions report;
  auto* report_app = app.add_subcommand("report", "Write the tables and plots of a sweep, running or not.");
  report_app->add_option("directory", report.directory, "The run directory")->required();
  report_app->add_option("--format", report.formats, "md, csv, html, json, or several with commas (default: all)");
  report_app->footer("Example:\n  finesweep report runs/quickstart --format md,csv");
  report_app->callback([&] { exit_code = coordinator::report_command(report); });

  coordinator::CompareOptions compare;
  auto* compare_app = app.add_subcommand("compare", "One table over several sweeps, finished or not.");
  compare_app->add_option("directories", compare.directories, "The run directories")->required()->expected(2, -1);
  compare_app->add_option("--out", compare.out, "A folder for the reports (default: Markdown on standard output)");
  compare_app->add_option("--format", compare.formats,
                          "md, csv, html or json; several with commas and --out (default there: all)");
  compare_app->add_option("--metric", compare.metric, "STEP.METRIC to compare by (default: what the sweeps show)");
  compare_app->footer("Example:\n  finesweep compare runs/lora runs/qlora --out comparison");
  compare_app->callback([&] { exit_code = coordinator::compare_command(compare); });

  coordinator::GenerateOptions generate;
  generate.program = program;
  add_generate(app, generate, exit_code);
  coordinator::EvaluateOptions evaluate;
  evaluate.program = program;
  add_evaluate(app, evaluate, exit_code);
  coordinator::ExportOptions exported;
  exported.program = program;
  add_export(app, exported, exit_code);

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

/// An answer that could not be written is none: then an exit code that says "all is well" becomes 4.
int once_written(int exit_code) {
  errno = 0;
  const bool flushed = std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (flushed) return exit_code;
  std::cerr << "finesweep: not all could be written to standard output"
            << (errno != 0 ? std::string(": ") + std::strerror(errno) : "") << "\n";
  return exit_code == 0 ? 4 : exit_code;
}

}  // namespace
}  // namespace finesweep

int main(int argc, char** argv) {
  using namespace finesweep;
  // Internal: the supervisor starts mpirun through this, so that it ends when the supervisor does.
  if (argc > 3 && std::string(argv[1]) == "exec-with-lifeline") {
    const Error error = exec_with_lifeline(std::atoi(argv[2]), std::vector<std::string>(argv + 3, argv + argc));
    std::cerr << "finesweep: " << error.message << "\n";
    return coordinator::kLauncherMissing;
  }
  // Only what another process of ours started has somebody to end with: a user's shell is not it.
  if (announced_parent() > 0 || coordinator::under_mpi_launcher()) end_with_parent(announced_parent());
  spdlog::set_default_logger(spdlog::stderr_logger_st("finesweep"));
  spdlog::set_pattern("%H:%M:%S %l: %v");
  try {
    return once_written(run(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "finesweep: internal error: " << error.what() << "\n";
    return 4;
  }
}
