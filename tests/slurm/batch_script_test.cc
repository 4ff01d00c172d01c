#include "slurm/batch_script.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <optional>
#include <thread>

#include "slurm/command.h"
#include "tests/slurm/fake_programs.h"

extern char** environ;

namespace finesweep::slurm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

BatchJob job_of(const fs::path& run, const fs::path& program = "/opt/bin/finesweep") {
  BatchJob job;
  job.sweep = "lora ranks";
  job.program = program;
  job.run = run;
  job.file = run / "submitted/the sweep's.yaml";
  return job;
}

TEST(BatchScript, asks_for_a_rank_more_than_gpus_on_each_node) {
  BatchJob job = job_of("/runs/x");
  job.nodes = 3;
  job.gpus_per_node = 4;
  job.time = "2:00:00";
  const std::string script = batch_script(job);
  for (const char* line :
       {"#SBATCH --job-name=finesweep-lora-ranks\n", "#SBATCH --nodes=3\n", "#SBATCH --ntasks-per-node=5\n",
        "#SBATCH --gpus-per-node=4\n", "#SBATCH --time=2:00:00\n", "#SBATCH --signal=B:USR1@120\n",
        "#SBATCH --requeue\n", "#SBATCH --open-mode=append\n", "#SBATCH --no-kill\n",
        "#SBATCH --output=/runs/x/logs/slurm-%j.log\n", "\ndevices=auto\n", "srun --mpi=pmix --no-kill -K0 "})
    EXPECT_THAT(script, HasSubstr(line));
  EXPECT_THAT(script, Not(HasSubstr("cpus-per-task=0")));
}

TEST(BatchScript, on_cpus_asks_for_workers_and_no_gpu) {
  BatchJob job = job_of("/runs/x");
  job.workers_per_node = 7;
  job.cpus_per_task = 4;
  const std::string script = batch_script(job);
  EXPECT_THAT(script, HasSubstr("#SBATCH --ntasks-per-node=8\n#SBATCH --cpus-per-task=4\n"));
  EXPECT_THAT(script, HasSubstr("\ndevices=cpu\n"));
  EXPECT_THAT(script, Not(HasSubstr("gpus-per-node")));
  EXPECT_THAT(script, Not(HasSubstr("--time"))) << "the partition's default";
}

TEST(BatchScript, what_sbatch_would_refuse_is_named) {
  for (const char* good : {"30", "30:00", "2:00:00", "1-12", "1-12:30", "1-12:30:59"}) {
    BatchJob job = job_of("/runs/x");
    job.time = good;
    EXPECT_TRUE(check(job)) << good;
  }
  for (const char* bad : {"2h", "1:2:3:4", "-5", "30\n#SBATCH --exclusive", "$(x)", "1-"}) {
    BatchJob job = job_of("/runs/x");
    job.time = bad;
    const Status checked = check(job);
    ASSERT_FALSE(checked) << bad;
    EXPECT_THAT(checked.error().message, HasSubstr("--time"));
  }
  BatchJob job = job_of("/runs/x");
  job.nodes = 0;
  EXPECT_FALSE(check(job));
}

/// The script, run by a real bash, with programs that note what they are given in place of srun and finesweep.
class RunningScript : public FakePrograms {
 protected:
  void SetUp() override {
    FakePrograms::SetUp();
    setenv("SLURM_JOB_ID", "17", 1);
    unsetenv("SLURM_CPUS_PER_TASK");
    run_ = folder_ / "run";
    // begin and end are noted; await waits for srun as the real one does.
    program_body_ = R"(
printf '%s\0' "$@" >>"$FAKE/calls"; echo >>"$FAKE/calls"
if [ "$2" = await ]; then
  trap '' TERM USR1
  while kill -0 "$4" 2>/dev/null && ! grep -q '^State:.Z' /proc/$4/status 2>/dev/null; do sleep 0.05; done
fi
[ "$2" != end ] || exit "$4"
)";
    fake_command("srun", R"(printf '%s\0' "$@" >"$FAKE/srun"; exit 0)");
  }
  void TearDown() override {
    unsetenv("SLURM_JOB_ID");
    FakePrograms::TearDown();
  }

  pid_t start() {
    fs::create_directories(run_ / "logs");
    fs::create_directories(program_.parent_path());
    fake(program_, program_body_);
    const fs::path script = folder_ / "script.sh";
    BatchJob job = job_of(run_, program_);
    job.arguments = arguments_;
    std::ofstream(script, std::ios::binary) << batch_script(job);
    const auto checked = run_command({"bash", "-n", script.string()});
    EXPECT_TRUE(checked && checked->exit_code == 0) << (checked ? checked->errors : checked.error().message);
    std::string words[] = {"bash", script.string()};
    char* arguments[] = {words[0].data(), words[1].data(), nullptr};
    pid_t pid = -1;
    EXPECT_EQ(posix_spawnp(&pid, "bash", nullptr, nullptr, arguments, environ), 0);
    return pid;
  }

  static int exit_code_of(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

  static bool wait_for(const std::function<bool()>& condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  fs::path run_, program_ = fs::path();
  std::vector<std::string> arguments_;
  std::string program_body_;
};

const std::string kNul(1, '\0');

TEST_F(RunningScript, hands_over_paths_as_they_are_whatever_is_in_them) {
  for (const std::string name :
       {"plain", "it's \"a\" $(touch pwned) `touch pwned` \\ %j", "a\n#SBATCH --x\r\n'$'\n"}) {
    run_ = folder_ / name;
    program_ = folder_ / (name + " bin") / "finesweep";
    fs::remove(folder_ / "calls");
    EXPECT_EQ(exit_code_of(start()), 0);
    const auto words = [&](std::initializer_list<std::string> list) {
      std::string all;
      for (const std::string& word : list) all += word + kNul;
      return all;
    };
    EXPECT_EQ(seen("srun"),
              words({"--mpi=pmix", "--no-kill", "-K0", "--wait=0", "--export=ALL", program_.string(), "run",
                     (run_ / "submitted/the sweep's.yaml").string(), "--out", run_.string(), "--devices", "cpu"}));
    const std::string calls = seen("calls");
    EXPECT_THAT(calls, HasSubstr(words({"slurm-life", "begin", run_.string()}) + "\n"));
    EXPECT_THAT(calls, HasSubstr(words({"slurm-life", "end", run_.string(), "0"}) + "\n"));
    EXPECT_FALSE(fs::exists("pwned"));
    EXPECT_FALSE(fs::exists(run_ / "pwned"));
  }
}

TEST_F(RunningScript, further_arguments_reach_the_program_as_they_are) {
  program_ = folder_ / "finesweep";
  arguments_ = {"--join-port", "0", "--join-address", "it's $(touch pwned) *", ""};
  EXPECT_EQ(exit_code_of(start()), 0);
  std::string all = "--devices" + kNul + "cpu" + kNul;
  for (const std::string& word : arguments_) all += word + kNul;
  EXPECT_THAT(seen("srun"), testing::EndsWith(all));
  EXPECT_FALSE(fs::exists("pwned"));
}

TEST_F(RunningScript, cores_of_each_rank_are_handed_on_to_srun) {
  program_ = folder_ / "finesweep";
  setenv("SLURM_CPUS_PER_TASK", "4", 1);
  exit_code_of(start());
  unsetenv("SLURM_CPUS_PER_TASK");
  EXPECT_THAT(seen("srun"), HasSubstr("--export=ALL" + kNul + "--cpus-per-task=4" + kNul));
}

TEST_F(RunningScript, the_end_hears_of_sruns_exit_code) {
  program_ = folder_ / "finesweep";
  fake_command("srun", "exit 1");
  EXPECT_EQ(exit_code_of(start()), 1);
  EXPECT_THAT(seen("calls"), HasSubstr("end" + kNul + run_.string() + kNul + "1" + kNul));
}

TEST_F(RunningScript, a_life_that_cannot_begin_starts_nothing) {
  program_ = folder_ / "finesweep";
  program_body_ += "[ \"$2\" != begin ] || exit 4\n";
  EXPECT_EQ(exit_code_of(start()), 4);
  EXPECT_FALSE(fs::exists(folder_ / "srun"));
}

// A step that runs until it is told to stop, as the real one does.
const char* const kStoppableStep = R"(
trap 'echo stopped >"$FAKE/step"; exit 3' USR1
echo running >"$FAKE/step"
while :; do sleep 0.05; done
)";

TEST_F(RunningScript, usr1_reaches_the_step_and_the_script_waits_for_its_end) {
  program_ = folder_ / "finesweep";
  fake_command("srun", kStoppableStep);
  const pid_t script = start();
  ASSERT_TRUE(
      wait_for([&] { return seen("step") == "running\n" && seen("calls").find("await") != std::string::npos; }));
  kill(script, SIGUSR1);
  EXPECT_EQ(exit_code_of(script), 3);
  EXPECT_EQ(seen("step"), "stopped\n");
  EXPECT_THAT(seen("calls"), HasSubstr("end" + kNul + run_.string() + kNul + "3" + kNul));
}

TEST_F(RunningScript, a_cancelled_job_waits_for_its_step_and_asks_for_no_requeue) {
  program_ = folder_ / "finesweep";
  fake_command("srun", R"(
trap 'echo stopped >"$FAKE/step"; exit 3' TERM
echo $$ >"$FAKE/pid"
echo running >"$FAKE/step"
while :; do sleep 0.05; done
)");
  const pid_t script = start();
  ASSERT_TRUE(
      wait_for([&] { return seen("step") == "running\n" && seen("calls").find("await") != std::string::npos; }));
  // As Slurm does it: every process is told.
  kill(script, SIGTERM);
  kill(std::stoi(seen("pid")), SIGTERM);
  EXPECT_EQ(exit_code_of(script), 3);
  EXPECT_EQ(seen("step"), "stopped\n");
  EXPECT_THAT(seen("calls"), Not(HasSubstr("end" + kNul)));
}

TEST_F(RunningScript, an_srun_that_never_returns_is_left_behind) {
  program_ = folder_ / "finesweep";
  program_body_ = R"(
printf '%s\0' "$@" >>"$FAKE/calls"
case $2 in
  await) while ! [ -s "$FAKE/step" ]; do sleep 0.05; done; echo "$4" >"$FAKE/pid"; exit 1 ;;
  end) exit 0 ;;
esac
)";
  fake_command("srun", "trap '' USR1 TERM; echo running >\"$FAKE/step\"; exec sleep 60");
  EXPECT_EQ(exit_code_of(start()), 0);
  EXPECT_THAT(seen("calls"), HasSubstr("end" + kNul + run_.string() + kNul + "4" + kNul));
  kill(std::stoi(seen("pid")), SIGKILL);  // Slurm does it when the script ends
}

}  // namespace
}  // namespace finesweep::slurm
