#include "coordinator/dispatch_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

JobTraits of_model(int model) {
  return {.model = model};
}
JobTraits packable(int model, std::int64_t tokens = 1, std::int64_t most_tokens = 0) {
  return {.model = model, .pack = {.key = model, .tokens = tokens, .most_tokens = most_tokens}};
}
JobTraits isolated() {
  return {.isolate = true};
}
JobTraits on_devices(int gpus) {
  JobTraits traits;
  traits.gpus = gpus;
  return traits;
}

class DispatchPolicyTest : public testing::Test {
 protected:
  void start(std::vector<JobTraits> jobs, DispatchOptions options = {}) {
    const int count = static_cast<int>(jobs.size());
    policy_.emplace(options, std::move(jobs));
    for (int job = 0; job < count; ++job) policy_->add_ready(job);
  }
  void start(int jobs) { start(std::vector<JobTraits>(jobs)); }

  /// Places all that can be placed now.
  void place_all() {
    while (policy_->next(now_)) policy_->sanity_check();
  }
  std::vector<int> queue(int worker) { return policy_->queue(worker); }
  /// The first job of the worker's queue ends after `duration`.
  void run_first(int worker, Duration duration) {
    now_ += duration;
    policy_->finished(queue(worker).front(), now_);
    policy_->sanity_check();
  }

  std::optional<DispatchPolicy> policy_;
  Instant now_{0};
};

TEST_F(DispatchPolicyTest, nothing_is_placed_without_workers_or_without_jobs) {
  start(2);
  EXPECT_FALSE(policy_->next(now_));
  policy_->remove_ready(0);
  policy_->remove_ready(1);
  policy_->add_worker(0, "a", true);
  EXPECT_FALSE(policy_->next(now_));
}

TEST_F(DispatchPolicyTest, jobs_go_out_in_plan_order_to_the_shortest_queue) {
  start(9);
  for (int worker = 0; worker < 3; ++worker) policy_->add_worker(worker, "a", true);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(0, 3));
  EXPECT_THAT(queue(1), ElementsAre(1, 4));
  EXPECT_THAT(queue(2), ElementsAre(2, 5));
}

TEST_F(DispatchPolicyTest, among_equally_short_queues_the_one_with_the_base_model_loaded_is_preferred) {
  start({of_model(1), of_model(2), of_model(2), of_model(1)});
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  policy_->remove_ready(2);
  policy_->remove_ready(3);
  place_all();
  run_first(0, 1s);
  run_first(1, 1s);
  policy_->add_ready(2);
  policy_->add_ready(3);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(3));
  EXPECT_THAT(queue(1), ElementsAre(2));
}

TEST_F(DispatchPolicyTest, near_the_end_no_worker_hoards_what_an_idle_one_could_take) {
  start(3);
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  place_all();
  // One job is left for two workers: whoever is done first gets it.
  EXPECT_THAT(queue(0), ElementsAre(0));
  EXPECT_THAT(queue(1), ElementsAre(1));
  run_first(1, 1s);
  place_all();
  EXPECT_THAT(queue(1), ElementsAre(2));
}

TEST_F(DispatchPolicyTest, the_backlog_grows_where_jobs_are_short) {
  start(2000);
  policy_->add_worker(0, "a", true);
  place_all();
  EXPECT_EQ(queue(0).size(), 2u);
  for (int i = 0; i < 100; ++i) {
    run_first(0, 10ms);
    place_all();
  }
  EXPECT_EQ(queue(0).size(), 1u + 50u) << "500 ms of jobs of 10 ms";
  for (int i = 0; i < 300; ++i) {
    run_first(0, 10us);
    place_all();
  }
  EXPECT_EQ(queue(0).size(), 1u + 256u) << "bounded";
  for (int i = 0; i < 400; ++i) {
    run_first(0, 20s);
    place_all();
  }
  EXPECT_EQ(queue(0).size(), 2u) << "and shrinks again";
}

TEST_F(DispatchPolicyTest, a_half_empty_pack_waits_for_more_while_the_worker_has_another_one_ahead) {
  std::vector<JobTraits> jobs(12, packable(1));
  jobs.insert(jobs.end(), 3, packable(2));
  jobs.insert(jobs.end(), 8, packable(3));
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start(jobs, options);
  policy_->remove_ready(13);
  policy_->remove_ready(14);
  policy_->add_worker(0, "a", false);
  place_all();
  for (int i = 0; i < 4; ++i) run_first(0, 10ms);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
  policy_->add_ready(13);
  policy_->add_ready(14);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14));
}

TEST_F(DispatchPolicyTest, a_waiting_job_is_stolen_for_an_idle_worker_when_nothing_is_ready) {
  start(4);
  policy_->add_worker(0, "a", true);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(0, 1));
  policy_->remove_ready(2);
  policy_->remove_ready(3);
  EXPECT_FALSE(policy_->theft(now_)) << "nobody is idle";
  policy_->add_worker(1, "a", true);
  const auto theft = policy_->theft(now_);
  ASSERT_TRUE(theft);
  EXPECT_EQ(theft->worker, 0);
  EXPECT_THAT(theft->jobs, ElementsAre(1));
  policy_->withdraw(1, now_);
  policy_->add_ready(1);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(0));
  EXPECT_THAT(queue(1), ElementsAre(1));
  EXPECT_FALSE(policy_->theft(now_)) << "what runs is never stolen";
}

TEST_F(DispatchPolicyTest, a_job_that_its_worker_has_begun_is_not_stolen) {
  start(3);
  policy_->add_worker(0, "a", true);
  place_all();
  policy_->remove_ready(2);
  policy_->mark_begun(1);
  policy_->add_worker(1, "a", true);
  EXPECT_FALSE(policy_->theft(now_));
}

TEST_F(DispatchPolicyTest, short_jobs_are_stolen_only_when_they_turn_out_to_be_stuck) {
  start(30);
  policy_->add_worker(0, "a", true);
  for (int i = 0; i < 20; ++i) {
    place_all();
    run_first(0, 1ms);
  }
  place_all();
  ASSERT_GT(queue(0).size(), 2u);
  while (queue(0).size() > 3) run_first(0, 1ms);
  policy_->add_worker(1, "a", true);
  for (int job = 0; job < 30; ++job) {
    if (policy_->waits(job)) policy_->remove_ready(job);
  }
  EXPECT_FALSE(policy_->theft(now_)) << "over in two milliseconds";
  now_ += 1s;
  EXPECT_TRUE(policy_->theft(now_)) << "the first job is a long one after all";
}

TEST_F(DispatchPolicyTest, an_isolated_job_waits_until_its_host_is_empty_and_is_alone_there) {
  start({{}, {}, isolated(), {}, {}});
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(0));
  EXPECT_THAT(queue(1), ElementsAre(1));
  EXPECT_TRUE(policy_->waits(2));
  run_first(0, 1s);
  place_all();
  EXPECT_THAT(queue(0), IsEmpty()) << "the host is reserved";
  run_first(1, 1s);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(2));
  EXPECT_THAT(queue(1), IsEmpty());
  run_first(0, 1s);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(3));
  EXPECT_THAT(queue(1), ElementsAre(4));
}

TEST_F(DispatchPolicyTest, an_isolated_job_leaves_other_hosts_at_work_and_takes_the_one_with_least_to_do) {
  start({{}, {}, {}, isolated(), {}, {}, {}, {}});
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  policy_->add_worker(2, "b", true);
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(0, 4));
  EXPECT_THAT(queue(1), ElementsAre(1, 5));
  EXPECT_THAT(queue(2), ElementsAre(2)) << "b is reserved";
  run_first(2, 1s);
  place_all();
  EXPECT_THAT(queue(2), ElementsAre(3));
  run_first(1, 1s);
  run_first(1, 1s);
  place_all();
  EXPECT_THAT(queue(1), ElementsAre(6)) << "a goes on";
}

TEST_F(DispatchPolicyTest, isolated_and_other_jobs_take_turns_in_plan_order) {
  start({isolated(), {}, isolated(), {}, isolated()});
  policy_->add_worker(0, "a", true);
  std::vector<int> order;
  while (const auto choice = policy_->next(now_)) {
    order.push_back(choice->jobs.front());
    run_first(0, 1s);
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(DispatchPolicyTest, an_isolated_job_waits_for_revoked_work_that_may_still_be_running) {
  start({{}, isolated()});
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  place_all();
  policy_->withdraw(0, now_);
  policy_->set_unconfirmed(0, 1);
  EXPECT_FALSE(policy_->next(now_));
  policy_->set_unconfirmed(0, 0);
  const auto choice = policy_->next(now_);
  ASSERT_TRUE(choice);
  EXPECT_THAT(choice->jobs, ElementsAre(1));
}

TEST_F(DispatchPolicyTest, a_reservation_ends_with_its_job_or_with_the_last_worker_of_the_host) {
  start({{}, {}, isolated(), {}});
  policy_->add_worker(0, "a", true);
  policy_->add_worker(1, "a", true);
  place_all();
  run_first(0, 1s);
  place_all();
  EXPECT_THAT(queue(0), IsEmpty());
  policy_->remove_ready(2);  // cancelled
  place_all();
  EXPECT_THAT(queue(0), ElementsAre(3));

  start({{}, isolated(), {}});
  policy_->add_worker(0, "a", true);
  place_all();
  policy_->withdraw(0, now_);
  policy_->remove_worker(0);
  policy_->sanity_check();
  EXPECT_TRUE(policy_->waits(1));
  policy_->add_worker(1, "b", true);
  const auto choice = policy_->next(now_);
  ASSERT_TRUE(choice);
  EXPECT_THAT(choice->jobs, ElementsAre(1));
}

TEST_F(DispatchPolicyTest, on_a_gpu_an_isolated_job_is_alone_in_its_pack_and_needs_no_empty_host) {
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start({packable(1), packable(1), isolated(), packable(1), packable(1)}, options);
  policy_->add_worker(0, "a", false);
  policy_->add_worker(1, "a", false);
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(0, 1, 3));
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(2));
}

TEST_F(DispatchPolicyTest, a_pack_holds_jobs_of_one_key_in_plan_order) {
  DispatchOptions options;
  options.max_pack_jobs = 3;
  start({packable(1), packable(2), packable(1), packable(1), packable(1), of_model(1)}, options);
  policy_->add_worker(0, "a", false);
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(0, 2, 3));
  policy_->add_worker(1, "b", false);
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(1));
}

TEST_F(DispatchPolicyTest, packs_leave_every_worker_its_share_of_what_is_ready) {
  DispatchOptions options;
  options.max_pack_jobs = 32;
  const auto begun_by_three = [&](std::vector<JobTraits> jobs) {
    start(std::move(jobs), options);
    for (int worker = 0; worker < 3; ++worker) policy_->add_worker(worker, "a", false);
    std::vector<std::size_t> sizes;
    for (int worker = 0; worker < 3; ++worker) sizes.push_back(policy_->next(now_)->jobs.size());
    return sizes;
  };
  EXPECT_THAT(begun_by_three(std::vector(3, packable(1))), ElementsAre(1, 1, 1)) << "nobody idles";
  EXPECT_THAT(begun_by_three(std::vector(9, packable(1))), ElementsAre(3, 3, 3));
  EXPECT_THAT(begun_by_three(std::vector(10, packable(1))), ElementsAre(4, 4, 2));
  // Jobs of other keys, and those that pack with none, are something to do as well.
  std::vector<JobTraits> jobs(4, packable(1));
  jobs.insert(jobs.end(), 8, of_model(2));
  EXPECT_THAT(begun_by_three(jobs), ElementsAre(4, 1, 1));
  jobs = std::vector(8, packable(1));
  jobs.insert(jobs.end(), 8, packable(2));
  EXPECT_THAT(begun_by_three(jobs), ElementsAre(6, 2, 6));
}

TEST_F(DispatchPolicyTest, a_worker_that_has_jobs_gets_fewer_than_one_that_has_none) {
  DispatchOptions options;
  options.max_pack_jobs = 32;
  start(std::vector(8, packable(1)), options);
  policy_->add_worker(0, "a", false);
  for (int job = 4; job < 8; ++job) policy_->remove_ready(job);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 4u);
  for (int job = 4; job < 8; ++job) policy_->add_ready(job);
  policy_->add_worker(1, "a", false);
  const auto choice = policy_->next(now_);
  EXPECT_EQ(choice->worker, 1);
  EXPECT_EQ(choice->jobs.size(), 4u);
}

TEST_F(DispatchPolicyTest, a_pack_is_filled_up_to_its_tokens_and_the_memory_of_its_worker) {
  DispatchOptions options;
  options.max_pack_jobs = 32;
  start(std::vector(20, packable(1, 1024, 8192)), options);
  policy_->add_worker(0, "a", false);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 8u);

  JobTraits large = packable(1);
  large.pack.shared_mb = 5000;
  large.pack.own_mb = 1000;
  start(std::vector(20, large), options);
  policy_->add_worker(0, "a", false, 10'000);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 4u) << "9,000 MB";
  policy_->remove_ready(19);
  policy_->add_worker(1, "b", false, 3'000);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 1u) << "whether one fits is for the job to find out";
  policy_->add_worker(2, "c", false);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 7u) << "its share: its memory is not known";
}

TEST_F(DispatchPolicyTest, on_a_cpu_jobs_share_a_pack_only_where_that_is_asked_for) {
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start(std::vector(8, packable(1)), options);
  policy_->add_worker(0, "a", true);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 1u);
  options.max_pack_jobs_on_cpu = 2;
  start(std::vector(8, packable(1)), options);
  policy_->add_worker(0, "a", true);
  EXPECT_EQ(policy_->next(now_)->jobs.size(), 2u);
}

TEST_F(DispatchPolicyTest, a_pack_that_waits_is_stolen_whole_for_an_idle_worker) {
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start(std::vector(8, packable(1)), options);
  policy_->add_worker(0, "a", false);
  place_all();
  EXPECT_EQ(queue(0).size(), 8u);
  policy_->add_worker(1, "b", false);
  const auto theft = policy_->theft(now_);
  ASSERT_TRUE(theft);
  EXPECT_THAT(theft->jobs, ElementsAre(4, 5, 6, 7));
  for (int job : theft->jobs) {
    policy_->withdraw(job, now_);
    policy_->add_ready(job);
  }
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(4, 5, 6, 7));
}

TEST_F(DispatchPolicyTest, a_member_that_is_withdrawn_leaves_the_others_in_their_pack) {
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start(std::vector(4, packable(1)), options);
  policy_->add_worker(0, "a", false);
  place_all();
  policy_->withdraw(1, now_);
  policy_->sanity_check();
  EXPECT_THAT(policy_->pack_of(0), ElementsAre(0, 2, 3));
  EXPECT_EQ(policy_->pack_number(0), policy_->pack_number(3));
}

TEST_F(DispatchPolicyTest, a_job_that_waits_joins_the_pack_that_runs_at_its_worker) {
  DispatchOptions options;
  options.max_pack_jobs = 2;
  start({packable(1), packable(1), packable(1), packable(1), packable(2), packable(1)}, options);
  policy_->add_worker(0, "a", false);
  place_all();
  const std::int64_t running = policy_->pack_number(1);
  policy_->finished(0, now_);
  EXPECT_TRUE(policy_->join(2, 1, now_));
  policy_->sanity_check();
  EXPECT_THAT(policy_->pack_of(1), ElementsAre(1, 2));
  EXPECT_EQ(policy_->pack_number(2), running);
  EXPECT_TRUE(policy_->begun(2));
  EXPECT_THAT(policy_->pack_of(3), ElementsAre(3)) << "the rest of its pack waits on";
  EXPECT_FALSE(policy_->begun(3));
  EXPECT_TRUE(policy_->join(2, 1, now_)) << "it is there";
  EXPECT_TRUE(policy_->join(3, 1, now_));
  policy_->sanity_check();
  EXPECT_THAT(policy_->pack_of(1), ElementsAre(1, 2, 3));

  // The queue has room again.
  place_all();
  policy_->sanity_check();
  EXPECT_FALSE(policy_->waits(4));
  EXPECT_FALSE(policy_->join(4, 1, now_)) << "of another key";
  policy_->sanity_check();
  EXPECT_THAT(policy_->pack_of(1), ElementsAre(1, 2, 3));
}

TEST_F(DispatchPolicyTest, a_pack_that_is_half_empty_is_sent_jobs_that_may_join_it_whatever_waits_there) {
  DispatchOptions options;
  options.max_pack_jobs = 2;
  // Two that run together, others of another kind that come first in the plan, and one that could join.
  start({packable(1), packable(1), packable(2), packable(2), packable(2), packable(2), packable(1), packable(1)},
        options);
  policy_->add_worker(0, "a", false);
  place_all();
  ASSERT_THAT(policy_->queue(0), ElementsAre(0, 1, 2, 3));
  policy_->finished(0, now_);
  const auto joiners = policy_->next(now_);
  ASSERT_TRUE(joiners);
  EXPECT_THAT(joiners->jobs, ElementsAre(6)) << "as many as fit";
  policy_->sanity_check();
  EXPECT_FALSE(policy_->next(now_)) << "one that may join waits there now";
  EXPECT_TRUE(policy_->join(6, 1, now_));
  policy_->sanity_check();
  EXPECT_FALSE(policy_->next(now_)) << "the pack is full again";
  policy_->finished(1, now_);
  policy_->sanity_check();
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(7));

  // An idle worker gets what it could begin at once.
  policy_->withdraw(7, now_);
  policy_->add_ready(7);
  policy_->add_worker(1, "b", false);
  const auto idle = policy_->next(now_);
  EXPECT_EQ(idle->worker, 1);
  EXPECT_THAT(idle->jobs, ElementsAre(4, 5));
  policy_->sanity_check();
}

TEST_F(DispatchPolicyTest, nobody_joins_a_part_of_a_crashed_pack_or_another_worker_s) {
  DispatchOptions options;
  options.max_pack_jobs = 1;
  policy_.emplace(options, std::vector<JobTraits>(4, packable(1)));
  policy_->set_group(0, 1);
  for (int job = 0; job < 4; ++job) policy_->add_ready(job);
  policy_->add_worker(0, "a", false);
  policy_->add_worker(1, "b", false);
  place_all();
  ASSERT_THAT(policy_->queue(0), ElementsAre(0, 2));
  ASSERT_THAT(policy_->queue(1), ElementsAre(1));
  EXPECT_LT(policy_->joining_traits(0).key, 0);
  EXPECT_EQ(policy_->joining_traits(1).key, 1);
  EXPECT_FALSE(policy_->join(2, 0, now_)) << "the parts would be put together again";
  EXPECT_FALSE(policy_->join(2, 1, now_));
  policy_->sanity_check();
}

TEST_F(DispatchPolicyTest, jobs_of_different_groups_never_share_a_pack) {
  DispatchOptions options;
  options.max_pack_jobs = 4;
  start({}, options);
  policy_.emplace(options, std::vector<JobTraits>(4, packable(1)));
  for (int job = 0; job < 4; ++job) {
    policy_->set_group(job, 1 + job / 2);
    policy_->add_ready(job);
  }
  policy_->add_worker(0, "a", false);
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(0, 1));
  run_first(0, 1s);
  run_first(0, 1s);
  EXPECT_THAT(policy_->next(now_)->jobs, ElementsAre(2, 3));
}

TEST_F(DispatchPolicyTest, a_leaving_worker_gets_nothing_new_and_what_waits_there_has_not_begun) {
  start(5);
  policy_->add_worker(0, "a", true);
  place_all();
  EXPECT_TRUE(policy_->begun(0));
  EXPECT_FALSE(policy_->begun(1));
  policy_->mark_begun(0);
  policy_->set_leaving(0, true);
  run_first(0, 1s);
  EXPECT_FALSE(policy_->begun(1));
  EXPECT_FALSE(policy_->next(now_));
  policy_->set_leaving(0, false);
  EXPECT_TRUE(policy_->begun(1));
  EXPECT_TRUE(policy_->next(now_));
}

TEST_F(DispatchPolicyTest, a_job_is_begun_once_it_heads_its_queue) {
  start(3);
  policy_->add_worker(0, "a", true);
  place_all();
  EXPECT_FALSE(policy_->begun(1));
  run_first(0, 1s);
  EXPECT_TRUE(policy_->begun(1));
}

// ---- jobs on several devices ----

class GangTest : public DispatchPolicyTest {
 protected:
  void add_workers(int count, const std::string& host = "a", bool on_cpu = false) {
    for (int i = 0; i < count; ++i) policy_->add_worker(workers_++, host, on_cpu);
  }
  /// The next choice, which is of this job.
  DispatchPolicy::Choice expect_next(int job) {
    const auto choice = policy_->next(now_);
    policy_->sanity_check();
    EXPECT_TRUE(choice && choice->jobs == std::vector<int>{job}) << "job " << job << " is not the next";
    return choice.value_or(DispatchPolicy::Choice{});
  }
  void expect_nothing() {
    EXPECT_FALSE(policy_->next(now_));
    policy_->sanity_check();
  }
  void finish(int job) {
    policy_->finished(job, now_);
    policy_->sanity_check();
  }
  int workers_ = 0;
};

TEST_F(GangTest, a_job_on_two_devices_gets_two_workers_of_one_host) {
  start({on_devices(2)});
  add_workers(1, "a");
  add_workers(2, "b");
  const auto choice = expect_next(0);
  EXPECT_EQ(choice.worker, 1);
  EXPECT_THAT(choice.lent, ElementsAre(2));
  EXPECT_EQ(policy_->job_on_lent(2), 0);
  EXPECT_EQ(policy_->job_on_lent(1), std::nullopt);
}

TEST_F(GangTest, a_lent_worker_gets_nothing_until_the_job_has_left) {
  start({on_devices(2), {}, {}});
  add_workers(2);
  expect_next(0);
  const auto behind = expect_next(1);
  EXPECT_EQ(behind.worker, 0) << "the leader holds its next job, the lent one none";
  expect_nothing();
  finish(0);
  EXPECT_EQ(expect_next(2).worker, 1);
}

TEST_F(GangTest, its_workers_run_empty_first_and_get_nothing_new_meanwhile) {
  start({{}, {}, on_devices(2), {}, {}});
  add_workers(3);
  expect_next(0);
  expect_next(1);
  // Two of three are claimed: the idle one and one that still works.
  expect_nothing();
  finish(1);
  EXPECT_EQ(expect_next(3).worker, 1) << "the one without a claim";
  expect_nothing();
  finish(0);
  const auto gang = expect_next(2);
  EXPECT_THAT((std::vector<int>{gang.worker, gang.lent.at(0)}), testing::UnorderedElementsAre(0, 2));
}

TEST_F(GangTest, jobs_on_several_devices_go_in_plan_order_whatever_their_size) {
  start({on_devices(2), on_devices(3), on_devices(2)});
  add_workers(3);
  expect_next(0);
  expect_nothing();
  finish(0);
  expect_next(1);
  expect_nothing();
  finish(1);
  expect_next(2);
}

TEST_F(GangTest, two_that_want_the_same_workers_do_not_wait_for_each_other) {
  start({{}, {}, {}, {}, on_devices(3), on_devices(3)});
  add_workers(4);
  for (int job = 0; job < 4; ++job) expect_next(job);
  expect_nothing();
  for (int job = 0; job < 4; ++job) finish(job);
  expect_next(4);
  expect_nothing();
  finish(4);
  expect_next(5);
}

TEST_F(GangTest, what_no_host_is_large_enough_for_holds_up_nobody) {
  start({on_devices(3), on_devices(2), {}});
  add_workers(2, "a");
  add_workers(2, "b");
  expect_next(1);
  expect_next(2);
  expect_nothing();
  EXPECT_TRUE(policy_->has_unplaceable());
  EXPECT_THAT(policy_->unplaceable(), ElementsAre(0));
  policy_->add_worker(9, "b", false);
  EXPECT_FALSE(policy_->has_unplaceable());
  expect_nothing();
  finish(2);
  EXPECT_THAT(expect_next(0).lent, testing::SizeIs(2));
}

TEST_F(GangTest, a_claim_ends_where_one_of_its_workers_leaves) {
  start({{}, on_devices(2)});
  add_workers(2);
  expect_next(0);
  expect_nothing();
  policy_->set_leaving(1, true);
  policy_->sanity_check();
  EXPECT_TRUE(policy_->waits(1));
  EXPECT_TRUE(policy_->has_unplaceable());
  policy_->set_leaving(1, false);
  expect_nothing();
  finish(0);
  expect_next(1);
}

TEST_F(GangTest, devices_come_back_when_the_leader_has_confirmed_that_it_stopped) {
  start({on_devices(2), {}});
  add_workers(2);
  policy_->remove_ready(1);
  expect_next(0);
  policy_->set_unconfirmed(0, 1);
  policy_->withdraw(0, now_);
  policy_->add_ready(1);
  EXPECT_EQ(expect_next(1).worker, 0) << "behind what it is told to stop";
  policy_->add_ready(0);
  expect_nothing();
  finish(1);
  expect_nothing();
  policy_->set_unconfirmed(0, 0);
  expect_next(0);
}

TEST_F(GangTest, a_leader_that_is_gone_lends_nothing) {
  start({on_devices(2), {}});
  add_workers(2);
  policy_->remove_ready(1);
  expect_next(0);
  policy_->withdraw(0, now_);
  policy_->remove_worker(0);
  policy_->add_ready(1);
  EXPECT_EQ(expect_next(1).worker, 1);
}

TEST_F(GangTest, an_isolated_one_on_a_cpu_has_its_host_for_itself) {
  JobTraits alone = on_devices(2);
  alone.isolate = true;
  start({alone, {}});
  add_workers(3, "a", true);
  EXPECT_THAT(expect_next(0).lent, testing::SizeIs(1));
  expect_nothing();
  finish(0);
  expect_next(1);
}

TEST_F(GangTest, it_and_an_isolated_job_take_turns_on_one_host) {
  start({isolated(), on_devices(2), isolated(), on_devices(2)});
  add_workers(2, "a", true);
  for (const int job : {0, 1, 2, 3}) {
    expect_next(job);
    expect_nothing();
    finish(job);
  }
}

}  // namespace
}  // namespace finesweep::coordinator
