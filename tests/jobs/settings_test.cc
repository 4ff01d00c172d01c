#include "jobs/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep {
namespace {

Json context_with(const Json& data) {
  return {{"task", "causal_lm"}, {"model", "/m"}, {"data", data}};
}

TEST(JobContext, carries_how_rows_become_sequences) {
  const auto context = read_job_context(context_with({{"fields", {{"source", "article"}, {"target", "summary"}}},
                                                      {"prompt", "{source}\nTL;DR: "},
                                                      {"loss_on", "all"},
                                                      {"rows", "blocks"}}));
  ASSERT_TRUE(context.ok()) << context.error().message;
  EXPECT_EQ(context->data.source, "article");
  EXPECT_EQ(context->data.prompt, "{source}\nTL;DR: ");
  EXPECT_EQ(context->data.loss_on, LossOn::all);
  EXPECT_EQ(context->data.rows, TextRows::blocks);
}

TEST(JobContext, without_them_a_source_stands_alone_and_a_row_is_a_sample) {
  const auto context = read_job_context(context_with(Json::object()));
  ASSERT_TRUE(context.ok()) << context.error().message;
  EXPECT_EQ(context->data.prompt, "");
  EXPECT_EQ(context->data.loss_on, LossOn::target);
  EXPECT_EQ(context->data.rows, TextRows::samples);
}

TEST(JobContext, a_value_that_it_does_not_know_is_refused_with_its_key) {
  const auto context = read_job_context(context_with({{"loss_on", "source"}}));
  ASSERT_FALSE(context.ok());
  EXPECT_THAT(context.error().message, ::testing::HasSubstr("unknown value 'source'"));
}

}  // namespace
}  // namespace finesweep
