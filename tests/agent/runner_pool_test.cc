// Runners that misbehave, made up as scripts: the worker ends them, and their attempt with them.

#include "worker/agent/runner_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <fstream>
#include <optional>

#include "tests/storage/temporary_folder.h"

namespace finesweep::worker {
namespace {

using testing::HasSubstr;

class RunnerPoolTest : public testing::Test {
 protected:
  struct Ended {
    Outcome outcome;
    bool crashed;
  };
  /// `script` is the runner: its socket is descriptor 3. Returns how its attempt ended.
  std::optional<Ended> run(const std::string& script, const std::function<void(RunnerPool&)>& meanwhile = {}) {
    const auto program = folder / "runner";
    storage::write_plainly(program, "#!/bin/sh\necho $$ > " + (folder / "pid").string() + "\n" + script + "\n");
    ::chmod(program.c_str(), 0755);
    boost::asio::io_context io;
    RunnerPool pool(io, {program.string(), "cuda:0"});  // one runner for all jobs, no spare
    std::optional<Ended> ended;
    pool.set_callbacks({{},
                        [](const AttemptKey&, const Progress&) {},
                        [&](const AttemptKey& attempt, Outcome outcome, bool crashed) {
                          EXPECT_EQ(attempt.number, 3);
                          ended = Ended{std::move(outcome), crashed};
                          io.stop();
                        }});
    Execute execute;
    execute.pack.emplace_back().attempt = 3;
    pool.start(execute);
    if (meanwhile) meanwhile(pool);
    io.run_for(std::chrono::seconds(20));
    return ended;
  }
  bool runner_is_gone() const {
    std::ifstream file(folder / "pid");
    pid_t pid = 0;
    file >> pid;
    return pid > 0 && ::kill(pid, 0) != 0;
  }

  storage::TemporaryFolder folder;
};

TEST_F(RunnerPoolTest, one_that_sends_garbage_is_ended) {
  const auto ended = run("printf 'this is no frame at all' >&3; exec sleep 100");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("sent bytes that are no frame"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_announces_an_absurd_length_is_ended_before_it_is_believed) {
  const auto ended = run(R"(printf 'FSWP\002\000\041\000\377\377\377\377\000\000\000\000' >&3; exec sleep 100)");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("frame of 4294967295 bytes"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_of_another_version_is_ended_with_what_to_do) {
  const auto ended = run(R"(printf 'FSWP\007\000\041\000\000\000\000\000\000\000\000\000' >&3; exec sleep 100)");
  ASSERT_TRUE(ended.has_value());
  EXPECT_THAT(ended->outcome.error, HasSubstr("protocol version 7"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_hangs_and_closes_its_socket_is_ended) {
  const auto ended = run("exec 3>&-; exec sleep 100");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_ends_by_itself_tells_how) {
  EXPECT_THAT(run("exit 3")->outcome.error, HasSubstr("exit code 3"));
  EXPECT_THAT(run("kill -SEGV $$")->outcome.error, HasSubstr("signal 11"));
}

TEST_F(RunnerPoolTest, one_that_is_killed_for_a_reason_ends_with_that_reason_though_it_ignores_signals) {
  const auto ended = run("trap '' TERM INT HUP; while :; do sleep 1; done", [](RunnerPool& pool) {
    pool.kill({JobId(), 3}, "made no progress for 7 s");
  });
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_EQ(ended->outcome.error, "made no progress for 7 s");
}

TEST_F(RunnerPoolTest, a_program_that_is_not_there_fails_the_attempt) {
  boost::asio::io_context io;
  RunnerPool pool(io, {(folder / "nothing").string(), "cpu"});
  std::string error;
  std::optional<Json> device;
  pool.set_callbacks({[&](const Json& said) { device = said; },
                      {},
                      [&](const AttemptKey&, Outcome outcome, bool) { error = outcome.error; }});
  Execute execute;
  execute.pack.emplace_back();
  pool.start(execute);
  io.run_for(std::chrono::seconds(5));
  EXPECT_THAT(error, HasSubstr("cannot be started"));
  EXPECT_EQ(device, Json::object()) << "nobody waits for its description";
}

/// The bytes of a message as a script of sh prints them.
std::string printed(const Message& message) {
  std::string text = "printf '";
  for (const std::uint8_t byte : encode(message)) {
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\%03o", byte);
    text += escaped;
  }
  return text + "' >&3";
}

TEST_F(RunnerPoolTest, one_that_dies_in_a_pack_crashes_what_is_not_done_and_each_member_ends_once) {
  const AttemptKey a{JobId::of("a"), 1}, b{JobId::of("b"), 2}, c{JobId::of("c"), 1};
  Outcome success;
  success.kind = OutcomeKind::succeeded;
  const auto program = folder / "runner";
  storage::write_plainly(program, "#!/bin/sh\n" + printed(RunnerReady{{{"memory_mb", 81559}}}) + "\n" +
                                      printed(Executed{b, success}) + "\n" + printed(Executed{b, success}) + "\n" +
                                      printed(ExecuteProgress{c, {1, 2, "training", 0}}) +
                                      "\nsleep 0.3; kill -KILL $$\n");
  ::chmod(program.c_str(), 0755);
  boost::asio::io_context io;
  RunnerPool pool(io, {program.string(), "cuda:0"});
  std::vector<std::pair<AttemptKey, bool>> ended;
  std::vector<AttemptKey> moved;
  std::vector<Json> devices;
  pool.set_callbacks({[&](const Json& device) { devices.push_back(device); },
                      [&](const AttemptKey& attempt, const Progress&) { moved.push_back(attempt); },
                      [&](const AttemptKey& attempt, Outcome, bool crashed) {
                        ended.emplace_back(attempt, crashed);
                        if (ended.size() == 3) io.stop();
                      }});
  Execute execute;
  for (const AttemptKey& key : {a, b, c}) {
    auto& member = execute.pack.emplace_back();
    member.job.id = key.job;
    member.attempt = key.number;
  }
  pool.start(execute);
  io.run_for(std::chrono::seconds(20));
  EXPECT_THAT(ended, testing::ElementsAre(std::pair(b, false), std::pair(a, true), std::pair(c, true)));
  EXPECT_THAT(moved, testing::ElementsAre(c));
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0]["memory_mb"], 81559);
}

// ---- the next pack, made ready beside the one that runs

/// Runners that keep what they are told in in.1, in.2, … in the order in which they were started. All but the first
/// are told to rehearse first, and have done so at once.
class PreparedRunnersTest : public RunnerPoolTest {
 protected:
  void SetUp() override {
    const auto program = folder / "runner";
    storage::write_plainly(program, "#!/bin/sh\ncd " + folder.path().string() + R"sh(
n=1; until mkdir runner.$n 2>/dev/null; do n=$((n+1)); done
echo $$ > pid.$n
cat <&3 > in.$n &
reader=$!
wait_for() { while [ "$(cat in.$n 2>/dev/null | wc -c)" -lt "$1" ]; do sleep 0.01; done; }
if [ ! -e cold.$n ]; then )sh" + printed(RunnerReady{Json::object()}) +
                                        "\nif [ $n -gt 1 ]; then while [ ! -s in.$n ]; do sleep 0.01; done; " +
                                        printed(RunnerReady{Json::object()}) +
                                        "; fi; fi\n. ./script.$n\nexec sleep 100\n");
    ::chmod(program.c_str(), 0755);
  }
  static Execute pack_of(const char* job, bool ahead = false) {
    Execute execute;
    execute.pack.emplace_back().job.id = JobId::of(job);
    execute.ahead = ahead;
    return execute;
  }
  static Execute rehearsal_of(const char* job) {
    Execute execute = pack_of(job, true);
    execute.rehearsal = true;
    return execute;
  }
  /// In a script: waits until another runner has been told these.
  static std::string wait_until_told(int number, const std::vector<Message>& messages) {
    return "while [ \"$(cat in." + std::to_string(number) + " 2>/dev/null | wc -c)\" -lt " +
           std::to_string(bytes(messages).size()) + " ]; do sleep 0.01; done\n";
  }
  static Message done(const char* job) {
    Executed message{{JobId::of(job), 1}, {}};
    message.outcome.kind = OutcomeKind::succeeded;
    return message;
  }
  static std::string bytes(const std::vector<Message>& messages) {
    std::string all;
    for (const Message& message : messages) {
      const Bytes frame = encode(message);
      all.append(frame.begin(), frame.end());
    }
    return all;
  }
  /// In the script of a runner: waits until it has been told these, then says `answer`.
  static std::string answers(const std::vector<Message>& told, const Message& answer) {
    return "wait_for " + std::to_string(bytes(told).size()) + "\n" + printed(answer) + "\n";
  }
  void script(int number, const std::string& text) {
    storage::write_plainly(folder / ("script." + std::to_string(number)), text);
  }
  std::string told(int number) const {
    std::ifstream file(folder / ("in." + std::to_string(number)));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool is_there(int number) const {
    std::ifstream file(folder / ("pid." + std::to_string(number)));
    pid_t pid = 0;
    file >> pid;
    return pid > 0 && ::kill(pid, 0) == 0;
  }
  /// Runs these packs one after the other; `before` is called before each, with how many are done.
  std::vector<JobId> run(const std::vector<Execute>& packs, const std::function<void(std::size_t)>& before) {
    pool.emplace(io, RunnerPool::Options{(folder / "runner").string(), "cuda:0"});
    for (int i = 0; i < 1000 && !is_there(1); ++i) usleep(10000);  // before another takes its number
    std::vector<JobId> ended;
    const auto next = [&] {
      before(ended.size());
      if (ended.size() == packs.size()) return io.stop();
      pool->start(packs[ended.size()]);
    };
    pool->set_callbacks({{},
                         [](const AttemptKey&, const Progress&) {},
                         [&](const AttemptKey& attempt, Outcome outcome, bool crashed) {
                           EXPECT_FALSE(crashed) << outcome.error;
                           ended.push_back(attempt.job);
                           next();
                         }});
    next();
    io.run_for(std::chrono::seconds(20));
    return ended;
  }
  /// The same as an agent does it: each is made ready while the one before it runs, and begins once that has
  /// computed.
  std::vector<JobId> run_handing_over(const std::vector<Execute>& packs, bool are_brief = false) {
    RunnerPool::Options options{(folder / "runner").string(), "cuda:0"};
    options.brief = are_brief ? std::chrono::hours(1) : std::chrono::hours(0);
    pool.emplace(io, options);
    for (int i = 0; i < 1000 && !is_there(1); ++i) usleep(10000);
    std::vector<JobId> ended;
    std::size_t begun = 0;
    std::vector<AttemptKey> running;
    const auto prepare_next = [&] {
      const std::size_t end = std::min(begun + 2, packs.size());
      pool->prepare(
          {packs.begin() + static_cast<std::ptrdiff_t>(begun), packs.begin() + static_cast<std::ptrdiff_t>(end)},
          true);
    };
    const auto start_next = [&] {
      if (begun == packs.size()) return;
      running = {packs[begun].pack.front().key()};
      pool->start(packs[begun++]);
    };
    pool->set_callbacks({{},
                         [](const AttemptKey&, const Progress&) {},
                         [&](const AttemptKey& attempt, const Outcome&, bool has_crashed) {
                           ended.push_back(attempt.job);
                           if (has_crashed) crashed.push_back(attempt.job);
                           if (ended.size() == packs.size()) return io.stop();
                           if (std::erase(running, attempt) > 0) start_next();
                           prepare_next();
                         },
                         {},
                         [&] {
                           ++handed_over;
                           start_next();
                           prepare_next();
                         }});
    start_next();
    boost::asio::post(io, prepare_next);
    io.run_for(std::chrono::seconds(20));
    return ended;
  }
  void wait_until_told(int number, std::size_t size) {
    for (int i = 0; i < 500 && told(number).size() < size; ++i) usleep(10000);
  }

  boost::asio::io_context io;
  std::optional<RunnerPool> pool;
  int handed_over = 0;
  std::vector<JobId> crashed;
};

TEST_F(PreparedRunnersTest, it_begins_in_the_process_that_made_it_ready_and_the_other_lets_go) {
  const auto a = pack_of("a"), b = pack_of("b"), b_ahead = pack_of("b", true);
  script(1, wait_until_told(2, {rehearsal_of("b"), b_ahead}) + printed(done("a")));
  script(2, answers({rehearsal_of("b"), b_ahead, Begin{}}, done("b")));
  const auto ended = run({a, b}, [&](std::size_t done) {
    if (done > 0) return;
    boost::asio::post(io, [&] { pool->prepare({b}, true); });
    boost::asio::post(io, [&] { pool->prepare({b}, true); });  // again: nothing new
  });
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b")));
  wait_until_told(1, bytes({a, LetGo{}}).size());
  EXPECT_EQ(told(1), bytes({a, LetGo{}}));
  EXPECT_EQ(told(2), bytes({rehearsal_of("b"), b_ahead, Begin{}}));
  EXPECT_TRUE(is_there(1) && is_there(2));
}

TEST_F(PreparedRunnersTest, while_the_other_process_still_loads_the_next_pack_begins_where_the_last_one_ran) {
  const auto a = pack_of("a"), b = pack_of("b");
  storage::write_plainly(folder / "cold.2", "");
  script(1, "while [ ! -s pid.2 ]; do sleep 0.01; done\n" + printed(done("a")) + "\n" + answers({a, b}, done("b")));
  script(2, "");
  const auto ended = run({a, b}, [&](std::size_t done) {
    if (done == 0) boost::asio::post(io, [&] { pool->prepare({b}, true); });
  });
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b")));
  EXPECT_EQ(told(2), "");
  EXPECT_TRUE(is_there(2));
}

TEST_F(PreparedRunnersTest, a_new_process_rehearses_before_a_pack_depends_on_it) {
  const auto a = pack_of("a"), b = pack_of("b");
  // It never comes to the end of its rehearsal.
  storage::write_plainly(folder / "cold.2", "");
  script(1, wait_until_told(2, {rehearsal_of("b")}) + printed(done("a")) + "\n" + answers({a, b}, done("b")));
  script(2, printed(RunnerReady{Json::object()}));
  const auto ended = run({a, b}, [&](std::size_t done) {
    if (done == 0) boost::asio::post(io, [&] { pool->prepare({b}, true); });
  });
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b")));
  EXPECT_EQ(told(2), bytes({rehearsal_of("b")}));
  EXPECT_TRUE(is_there(2));
}

TEST_F(PreparedRunnersTest, what_was_made_ready_for_nothing_is_ended) {
  const auto a = pack_of("a"), c = pack_of("c");
  script(1, wait_until_told(2, {rehearsal_of("b"), pack_of("b", true)}) + printed(done("a")) + "\n" +
                answers({a, c}, done("c")));
  script(2, "");
  const auto ended = run({a, c}, [&](std::size_t done) {
    if (done == 0) boost::asio::post(io, [&] { pool->prepare({pack_of("b")}, true); });
  });
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("c")));
  EXPECT_FALSE(is_there(2));
}

TEST_F(PreparedRunnersTest, where_the_process_died_over_it_another_runs_it) {
  const auto a = pack_of("a"), b = pack_of("b");
  script(1,
         "while [ ! -s in.2 ]; do sleep 0.01; done; while kill -0 $(cat pid.2) 2>/dev/null; do sleep 0.01; done\n" +
             printed(done("a")) + "\n" + answers({a, b}, done("b")));
  script(2, wait_until_told(2, {rehearsal_of("b"), pack_of("b", true)}) + "kill -KILL $reader $$");
  const auto ended = run({a, b}, [&](std::size_t done) {
    if (done == 0) boost::asio::post(io, [&] { pool->prepare({b}, true); });
  });
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b")));
}

TEST_F(PreparedRunnersTest, the_next_pack_begins_while_the_last_one_is_written_and_the_writer_takes_the_one_after) {
  const auto a = pack_of("a"), b = pack_of("b"), c = pack_of("c"), c_ahead = pack_of("c", true);
  const auto b_ahead = pack_of("b", true);
  script(1, wait_until_told(2, {rehearsal_of("b"), b_ahead}) + printed(Computed{}) + "\n" +
                wait_until_told(2, {rehearsal_of("b"), b_ahead, Begin{}}) + printed(done("a")) + "\n" +
                answers({a, LetGo{}, c_ahead, Begin{}}, done("c")));
  script(2, wait_until_told(1, {a, LetGo{}, c_ahead}) + printed(done("b")));
  const std::vector<JobId> ended = run_handing_over({a, b, c});
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b"), JobId::of("c")));
  EXPECT_EQ(told(1), bytes({a, LetGo{}, c_ahead, Begin{}}));
  EXPECT_TRUE(is_there(1) && is_there(2) && !is_there(3));
}

TEST_F(PreparedRunnersTest, where_packs_are_brief_three_processes_take_turns) {
  const auto a = pack_of("a"), b = pack_of("b", true), c = pack_of("c", true), d = pack_of("d", true);
  // The first one that takes little makes place for a third; it makes d ready while b runs and c is ready.
  Executed little{{JobId::of("a"), 1}, {}};
  little.outcome.kind = OutcomeKind::succeeded;
  little.memory_share = 0.01;
  script(1, wait_until_told(2, {rehearsal_of("b"), b}) + printed(Computed{}) + "\n" +
                wait_until_told(2, {rehearsal_of("b"), b, Begin{}}) + printed(little) + "\n" +
                answers({a, LetGo{}, c, Begin{}}, done("c")));
  script(2, wait_until_told(1, {a, LetGo{}, c}) + wait_until_told(3, {rehearsal_of("d"), d}) + printed(done("b")));
  script(3, answers({rehearsal_of("d"), d, Begin{}}, done("d")));
  const std::vector<JobId> ended = run_handing_over({a, b, c, d}, true);
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b"), JobId::of("c"), JobId::of("d")));
  EXPECT_EQ(told(1).substr(0, bytes({a, LetGo{}, c, Begin{}}).size()), bytes({a, LetGo{}, c, Begin{}}));
  EXPECT_EQ(told(3), bytes({rehearsal_of("d"), d, Begin{}}));
  EXPECT_TRUE(is_there(1) && is_there(2) && is_there(3) && !is_there(4));
}

TEST_F(PreparedRunnersTest, a_writer_that_dies_crashes_its_own_pack_alone) {
  const auto a = pack_of("a"), b = pack_of("b"), b_ahead = pack_of("b", true);
  script(1, wait_until_told(2, {rehearsal_of("b"), b_ahead}) + printed(Computed{}) + "\n" +
                wait_until_told(2, {rehearsal_of("b"), b_ahead, Begin{}}) + "kill -KILL $reader $$");
  script(2, "while kill -0 $(cat pid.1) 2>/dev/null; do sleep 0.01; done; sleep 0.1\n" + printed(done("b")));
  const std::vector<JobId> ended = run_handing_over({a, b});
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a"), JobId::of("b")));
  EXPECT_THAT(crashed, testing::ElementsAre(JobId::of("a")));
}

TEST_F(PreparedRunnersTest, where_nothing_is_ready_the_device_is_not_handed_over) {
  const auto a = pack_of("a");
  script(1, printed(Computed{}) + "\nsleep 0.1\n" + printed(done("a")));
  const std::vector<JobId> ended = run_handing_over({a});
  EXPECT_THAT(ended, testing::ElementsAre(JobId::of("a")));
  EXPECT_EQ(handed_over, 0);
}

// ---- one job, several processes

/// Two of them, whose scripts tell themselves apart by the GPU that they see.
class SeveralRunnersTest : public RunnerPoolTest {
 protected:
  std::optional<Ended> run_both(const std::string& leader, const std::string& helper,
                                std::chrono::milliseconds silence = std::chrono::seconds(15)) {
    const auto program = folder / "runner";
    storage::write_plainly(
        program, "#!/bin/sh\ncd " + folder.path().string() + "\necho $$ > pid.$CUDA_VISIBLE_DEVICES\n" +
                     "if [ $CUDA_VISIBLE_DEVICES = 0 ]; then\n" + leader + "\nelse\n" + helper + "\nfi\n");
    ::chmod(program.c_str(), 0755);
    boost::asio::io_context io;
    RunnerPool pool(io, {program.string(), "cuda:0", silence});
    std::optional<Ended> ended;
    pool.set_callbacks({{},
                        [](const AttemptKey&, const Progress&) {},
                        [&](const AttemptKey&, Outcome outcome, bool crashed) {
                          EXPECT_FALSE(ended.has_value()) << "it ended twice";
                          ended = Ended{std::move(outcome), crashed};
                          helper_was_gone = is_gone("1");
                          leader_was_gone = is_gone("0");
                          io.stop();
                        }});
    Execute execute;
    execute.pack.emplace_back().attempt = 3;
    execute.devices = {"cuda:0", "cuda:1"};
    pool.start(execute);
    io.run_for(std::chrono::seconds(20));
    return ended;
  }
  /// A frame as a file, for a script to send.
  void prepare(const std::string& name, const Message& message) {
    const Bytes bytes = encode(message);
    storage::write_plainly(folder / name, std::string(bytes.begin(), bytes.end()));
  }
  static Executed executed(OutcomeKind kind, const std::string& error = "", bool peer_lost = false) {
    Executed message{{JobId{}, 3}, {}, peer_lost};
    message.outcome.kind = kind;
    message.outcome.error = error;
    return message;
  }
  bool is_gone(const std::string& device) const {
    std::ifstream file(folder / ("pid." + device));
    pid_t pid = 0;
    file >> pid;
    return pid > 0 && ::kill(pid, 0) != 0;
  }
  bool helper_was_gone = false, leader_was_gone = false;
};

// Waits until the other has started, so that its pid is known.
constexpr const char* kBothAreThere = "while [ ! -s pid.0 ] || [ ! -s pid.1 ]; do sleep 0.01; done; ";

TEST_F(SeveralRunnersTest, where_one_dies_all_are_ended_and_the_failure_says_which) {
  const auto ended = run_both("exec sleep 100", kBothAreThere + std::string("kill -KILL $$"));
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("process 2 of 2"));
  EXPECT_THAT(ended->outcome.error, HasSubstr("signal 9"));
  EXPECT_TRUE(leader_was_gone && helper_was_gone);
}

TEST_F(SeveralRunnersTest, one_that_falls_silent_is_taken_for_dead) {
  prepare("pulse", Pulse{});
  const auto ended = run_both(kBothAreThere + std::string("while :; do cat pulse >&3; sleep 0.1; done"),
                              "cat pulse >&3; kill -STOP $$", std::chrono::milliseconds(1200));
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("process 2 of 2 of this job gave no sign of life"));
  EXPECT_TRUE(leader_was_gone && helper_was_gone);
}

TEST_F(SeveralRunnersTest, the_cause_is_what_befell_the_first_not_that_others_lost_it) {
  prepare("lost", executed(OutcomeKind::failed, "another process was lost", true));
  const auto ended = run_both(kBothAreThere + std::string("cat lost >&3; exec sleep 100"),
                              kBothAreThere + std::string("sleep 0.5; exit 9"));
  ASSERT_TRUE(ended.has_value());
  EXPECT_THAT(ended->outcome.error,
              HasSubstr("process 2 of 2 of this job: the runner process ended with exit code 9"));
}

TEST_F(SeveralRunnersTest, a_lost_peer_that_nobody_explains_is_the_cause_in_the_end) {
  prepare("lost", executed(OutcomeKind::failed, "another process was lost", true));
  const auto ended = run_both(kBothAreThere + std::string("cat lost >&3; exec sleep 100"), "exec sleep 100");
  ASSERT_TRUE(ended.has_value());
  EXPECT_FALSE(ended->crashed);
  EXPECT_EQ(ended->outcome.error, "another process was lost");
  EXPECT_TRUE(leader_was_gone && helper_was_gone);
}

TEST_F(SeveralRunnersTest, a_failure_that_one_reports_ends_all) {
  prepare("failed", executed(OutcomeKind::failed, "out of memory"));
  const auto ended = run_both("exec sleep 100", kBothAreThere + std::string("cat failed >&3; exec sleep 100"));
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->outcome.error, "out of memory");
  EXPECT_TRUE(leader_was_gone && helper_was_gone);
}

TEST_F(SeveralRunnersTest, the_leaders_result_is_the_jobs_and_its_process_stays_for_the_next) {
  prepare("done", executed(OutcomeKind::succeeded));
  const auto ended = run_both(kBothAreThere + std::string("sleep 0.3; cat done >&3; exec sleep 100"),
                              kBothAreThere + std::string("cat done >&3; exec sleep 100"));
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->outcome.kind, OutcomeKind::succeeded);
  EXPECT_TRUE(helper_was_gone);
  EXPECT_FALSE(leader_was_gone);
}

}  // namespace
}  // namespace finesweep::worker
