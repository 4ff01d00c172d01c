#include "jobs/ids.h"

#include <gtest/gtest.h>

#include <unordered_set>

#include "jobs/job.h"
#include "jobs/sha256.h"
#include "jobs/state.h"

namespace finesweep {
namespace {

TEST(Sha256Test, agrees_with_the_vectors_of_fips_180) {
  EXPECT_EQ(to_hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 in_pieces;
  for (int i = 0; i < 1000; ++i) in_pieces.update(std::string(1000, 'a').data(), 1000);
  EXPECT_EQ(to_hex(in_pieces.finish()), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(JobIdTest, is_the_first_half_of_the_hash_of_its_description) {
  EXPECT_EQ(JobId::of("abc").hex(), "ba7816bf8f01cfea414140de5dae2223");
  EXPECT_NE(JobId::of("abc"), JobId::of("abd"));
}

TEST(JobIdTest, is_read_from_exactly_32_lower_case_hex_digits) {
  const JobId id = JobId::of("abc");
  EXPECT_EQ(*JobId::parse(id.hex()), id);
  for (const char* bad : {"", "ba7816bf", "ba7816bf8f01cfea414140de5dae222", "ba7816bf8f01cfea414140de5dae22230",
                          "BA7816BF8F01CFEA414140DE5DAE2223", "ga7816bf8f01cfea414140de5dae2223",
                          "ba7816bf8f01cfea414140de5dae222/", "../../../../../../../etc/passwd!"}) {
    const auto parsed = JobId::parse(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_NE(parsed.error().message.find("32 hex digits"), std::string::npos);
  }
}

TEST(JobIdTest, hashes_spread) {
  std::unordered_set<std::size_t> hashes;
  for (int i = 0; i < 1000; ++i) hashes.insert(std::hash<JobId>()(JobId::of(std::to_string(i))));
  EXPECT_EQ(hashes.size(), 1000u);
}

TEST(WorkerIdTest, names_the_rank_and_later_stays_of_it) {
  EXPECT_EQ(to_string(WorkerId{3, 1}), "3");
  EXPECT_EQ(to_string(WorkerId{3, 2}), "3/2");
  EXPECT_LT((WorkerId{3, 1}), (WorkerId{3, 2}));
}

TEST(StepKindTest, names_are_those_of_the_sweep_file_and_read_back) {
  for (auto kind : {StepKind::distill, StepKind::finetune, StepKind::prune, StepKind::quantize, StepKind::merge,
                    StepKind::evaluate, StepKind::benchmark})
    EXPECT_EQ(parse_step_kind(step_kind_name(kind)), kind);
  EXPECT_EQ(step_kind_name(StepKind::finetune), "finetune");
  EXPECT_FALSE(parse_step_kind("finetunes"));
}

TEST(StateTest, names_are_those_of_the_database_and_read_back) {
  for (auto state :
       {JobState::pending, JobState::running, JobState::succeeded, JobState::failed, JobState::cancelled})
    EXPECT_EQ(parse_job_state(job_state_name(state)), state);
  for (auto end : {AttemptEnd::succeeded, AttemptEnd::failed, AttemptEnd::interrupted, AttemptEnd::lost,
                   AttemptEnd::superseded, AttemptEnd::cancelled})
    EXPECT_EQ(parse_attempt_end(attempt_end_name(end)), end);
  EXPECT_EQ(job_state_name(JobState::pending), "pending");
  EXPECT_FALSE(parse_job_state("done"));
  EXPECT_FALSE(parse_attempt_end(""));
}

}  // namespace
}  // namespace finesweep
