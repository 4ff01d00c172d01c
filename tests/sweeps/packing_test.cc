#include "sweeps/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "sweeps/describe.h"
#include "sweeps/memory.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class PackingTest : public testing::Test {
 protected:
  /// A sweep of classifiers, or of language models where the model is gpt2.
  Plan plan_of(const std::string& pipeline, const std::string& rest = "", const std::string& model = "bert",
               const std::string& evaluation = "  - evaluate: {split: test}\n") {
    const bool classifies = model != "gpt2";
    const std::string text = "model: models/" + model + "\ntask: " + (classifies ? "classification" : "causal_lm") +
                             "\ndata: {train: data/train.jsonl, validation: data/validation.jsonl, "
                             "test: data/test.jsonl, fields: {text: text}}\n"
                             "pipeline:\n" +
                             pipeline + evaluation + rest;
    SweepParse parse = parse_in_world(text, world_);
    EXPECT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "sweep.yaml");
    return parse.sweep ? parse.sweep->plan : Plan{};
  }
  std::vector<PackTraits> traits_of(const Plan& plan) {
    ModelCatalog models(world_);
    return pack_traits(plan, models);
  }
  /// The pack keys of the jobs of a kind, in plan order, numbered as they appear.
  std::vector<int> keys_of(const Plan& plan, StepKind kind = StepKind::finetune) {
    std::vector<int> keys;
    std::map<int, int> numbers;
    const auto traits = traits_of(plan);
    for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
      const int key = traits[i].key;
      if (plan.jobs[i].kind == kind)
        keys.push_back(key < 0 ? -1 : numbers.emplace(key, static_cast<int>(numbers.size())).first->second);
      else
        EXPECT_FALSE(numbers.contains(key)) << "a pack of jobs of two kinds";
    }
    return keys;
  }
  /// Of the packs of such jobs where all are ready.
  std::vector<std::size_t> pack_sizes_of(const Plan& plan, StepKind kind = StepKind::finetune) {
    std::vector<std::size_t> sizes;
    for (const PlannedPack& pack : planned_packs(traits_of(plan), pack_sizes(plan.resources).on_gpu))
      if (plan.jobs[pack.jobs.front()].kind == kind) sizes.push_back(pack.jobs.size());
    return sizes;
  }
  /// How many different keys an axis makes of LoRA jobs; 0: they are alone.
  std::size_t keys_over(const std::string& axis, const std::string& settings = "method: lora") {
    const Plan plan = plan_of("  - finetune: {" + settings + ", epochs: 1}\n", "sweep: {axes: [" + axis + "]}\n");
    std::set<int> keys;
    for (const int key : keys_of(plan))
      if (key >= 0) keys.insert(key);
    return keys.size();
  }

  MemoryFiles world_ = make_world();
};

constexpr const char* kLora = "  - finetune: {method: lora, epochs: 1, batch_size: 8, sequence_length: 32}\n";

TEST_F(PackingTest, what_jobs_may_differ_in_and_still_share_a_pack) {
  for (const char* axis :
       {"{finetune.rank: [2, 4, 8]}", "{finetune.alpha: [1, 2]}", "{finetune.learning_rate: [1.0e-3, 1.0e-4]}",
        "{finetune.batch_size: [4, 8]}", "{finetune.sequence_length: [33, 64]}", "{finetune.warmup: [0, 10]}",
        "{finetune.gradient_accumulation: [1, 2]}", "{data.limit.train: [1, 2]}", "{finetune.steps: [5, 7]}",
        "{finetune.max_grad_norm: [0.5, 1.0]}", "{finetune.weight_decay: [0.0, 0.1]}",
        "{finetune.rslora: [true, false]}"})
    EXPECT_EQ(keys_over(axis), 1u) << axis;
  EXPECT_EQ(keys_over("{finetune.rank: [2, 4]}, {finetune.method: [lora, qlora, ia3]}"), 3u);
}

TEST_F(PackingTest, what_sets_jobs_apart) {
  for (const char* axis : {"{finetune.precision: [fp32, bf16]}", "{finetune.attention: [flash, math]}",
                           "{finetune.dropout: [0.0, 0.1]}", "{finetune.model_dropout: [0.0, 0.1]}",
                           "{finetune.pooling: [cls, mean]}", "{finetune.gradient_checkpointing: [true, false]}",
                           "{finetune.sequence_length: [16, 17]}", "{model: [models/bert, models/bert-small]}"})
    EXPECT_EQ(keys_over(axis), 2u) << axis;
  for (const char* axis :
       {"{finetune.block_size: [32, 64]}", "{finetune.double: [true, false]}", "{finetune.compute: [fp32, bf16]}"})
    EXPECT_EQ(keys_over(axis, "method: qlora"), 2u) << axis;
}

TEST_F(PackingTest, what_trains_alone) {
  EXPECT_EQ(keys_over("{finetune.isolate: [true]}"), 0u);
  EXPECT_EQ(keys_over("{finetune.learning_rate: [1.0e-3, 1.0e-4]}", "method: full"), 0u);
  EXPECT_THAT(keys_of(plan_of(kLora, "resources: {gpus: 2}\n")), ElementsAre(-1));
  EXPECT_THAT(keys_of(plan_of("  - finetune: {method: lora, epochs: 1}\n  - prune: {amount: 0.5, when: before}\n")),
              ElementsAre(-1));
  // Links of a chain but the first, which continues nothing.
  EXPECT_THAT(keys_of(plan_of("  - finetune: {method: lora, epochs: 1, schedule: constant}\n",
                              "sweep: {axes: [{finetune.epochs: [1, 2, 3]}]}\n")),
              ElementsAre(0, -1, -1));
}

TEST_F(PackingTest, a_job_whose_time_or_memory_the_report_compares_trains_alone) {
  EXPECT_THAT(keys_of(plan_of(kLora, "report: {metric: finetune.peak_memory_mb}\n")), ElementsAre(-1));
  EXPECT_THAT(keys_of(plan_of(kLora, "report: {metric: finetune.seconds}\n")), ElementsAre(-1));
  EXPECT_THAT(keys_of(plan_of(kLora, "report: {metric: finetune.loss}\n")), ElementsAre(0));
  EXPECT_THAT(keys_of(plan_of(kLora, "report: {metric: evaluate.seconds}\n")), ElementsAre(0));
}

TEST_F(PackingTest, jobs_on_the_artifact_of_one_job_share_it_and_an_adapter_is_no_base) {
  const std::string ranks = "sweep: {axes: [{finetune.rank: [2, 4]}]}\n";
  EXPECT_THAT(keys_of(plan_of(std::string("  - quantize: {format: nf4}\n") + kLora, ranks)), ElementsAre(0, 0));
  EXPECT_THAT(keys_of(plan_of(std::string("  - quantize: {format: nf4}\n") + kLora,
                              "sweep: {axes: [{quantize.double: [true, false]}]}\n")),
              ElementsAre(0, 1));
  EXPECT_THAT(keys_of(plan_of("  - finetune: {name: first, method: full, epochs: 1}\n"
                              "  - finetune: {name: second, method: lora, epochs: 1}\n")),
              ElementsAre(-1, 0));
  EXPECT_THAT(keys_of(plan_of("  - finetune: {name: first, method: lora, epochs: 1}\n"
                              "  - finetune: {name: second, method: lora, epochs: 1}\n")),
              ElementsAre(0, -1))
      << "trains the adapter further";
}

TEST_F(PackingTest, evaluations_of_adapters_of_one_base_share_a_pack) {
  const std::string evaluations =
      "  - evaluate: {name: one, split: test, sequence_length: 64, precision: fp32}\n"
      "  - evaluate: {name: two, split: validation, batch_size: 4, sequence_length: 33, precision: fp32}\n";
  for (const char* axis :
       {"{finetune.rank: [2, 8]}", "{finetune.learning_rate: [1.0e-3, 1.0e-4]}", "{finetune.method: [lora, ia3]}",
        "{finetune.precision: [fp32, bf16]}", "{finetune.sequence_length: [32, 64]}"}) {
    const Plan plan = plan_of("  - finetune: {method: lora, epochs: 1}\n",
                              std::string("sweep: {axes: [") + axis + "]}\n", "bert", evaluations);
    EXPECT_THAT(keys_of(plan, StepKind::evaluate), ElementsAre(0, 0, 0, 0)) << axis;
  }
}

TEST_F(PackingTest, what_sets_evaluations_apart) {
  const auto keys = [&](const std::string& pipeline, const std::string& rest = "",
                        const std::string& model = "bert") {
    return keys_of(plan_of(pipeline, rest, model), StepKind::evaluate);
  };
  const std::string lora = "  - finetune: {method: lora, epochs: 1}\n";
  for (const char* axis : {"{evaluate.precision: [fp32, bf16]}", "{evaluate.attention: [flash, math]}",
                           "{evaluate.sequence_length: [16, 17]}", "{model: [models/bert, models/bert-small]}",
                           "{finetune.method: [lora, qlora]}"})
    EXPECT_THAT(keys(lora, std::string("sweep: {axes: [") + axis + "]}\n"), ElementsAre(0, 1)) << axis;
  EXPECT_THAT(
      keys("  - finetune: {method: qlora, epochs: 1}\n", "sweep: {axes: [{finetune.double: [true, false]}]}\n"),
      ElementsAre(0, 1));
  const std::string repeats = "sweep: {repeats: 2}\n";
  EXPECT_THAT(keys(lora, repeats), ElementsAre(0, 0));
  EXPECT_THAT(keys(lora + "  - prune: {target: adapter, amount: 0.5}\n", repeats), ElementsAre(0, 0));
  EXPECT_THAT(keys("  - quantize: {format: nf4}\n" + lora, repeats), ElementsAre(0, 0));
  EXPECT_THAT(keys("  - finetune: {name: first, method: lora, epochs: 1}\n"
                   "  - finetune: {name: second, method: lora, epochs: 1}\n",
                   repeats),
              ElementsAre(0, 0));
  // Models of their own, or bases of their own.
  EXPECT_THAT(keys("  - finetune: {method: full, epochs: 1}\n", repeats), ElementsAre(-1, -1));
  EXPECT_THAT(keys(lora + "  - merge\n", repeats), ElementsAre(-1, -1));
  EXPECT_THAT(keys(lora + "  - quantize: {format: nf4}\n", repeats), ElementsAre(-1, -1));
  EXPECT_THAT(keys("", "sweep: {axes: [{evaluate.split: [validation, test]}]}\n"), ElementsAre(-1, -1));
  // What is timed, profiled, or written.
  EXPECT_THAT(keys(lora, "sweep: {axes: [{evaluate.isolate: [true]}], repeats: 2}\n"), ElementsAre(-1, -1));
  EXPECT_THAT(keys(lora, "sweep: {axes: [{evaluate.profile: [true]}], repeats: 2}\n"), ElementsAre(-1, -1));
  EXPECT_THAT(keys(lora, repeats + "report: {metric: evaluate.seconds}\n"), ElementsAre(-1, -1));
  EXPECT_THAT(keys(lora, repeats, "gpt2"), ElementsAre(0, 0));
}

TEST_F(PackingTest, the_setting_that_turns_packs_off_turns_those_of_evaluations_off) {
  const auto sizes = [&](const std::string& pack) {
    return pack_sizes_of(plan_of(kLora, "sweep: {repeats: 6}\nresources: {pack: " + pack + "}\n"),
                         StepKind::evaluate);
  };
  EXPECT_THAT(sizes("auto"), ElementsAre(6));
  EXPECT_THAT(sizes("off"), IsEmpty());
  EXPECT_THAT(sizes("4"), ElementsAre(4, 2));
  // Width 48 saturates at 65,536 tokens of a training and three times as many of an evaluation.
  const auto batches_of = [&](int rows) {
    return pack_sizes_of(
        plan_of("", "sweep: {repeats: 6}\n", "bert",
                "  - finetune: {method: lora, epochs: 1}\n  - evaluate: {sequence_length: 64, batch_size: " +
                    std::to_string(rows) + "}\n"),
        StepKind::evaluate);
  };
  EXPECT_THAT(batches_of(1024), ElementsAre(6));
  EXPECT_THAT(batches_of(3000), ElementsAre(2, 2, 2));
  EXPECT_THAT(batches_of(3072), IsEmpty());
}

TEST_F(PackingTest, the_knee_is_calibrated_on_gpt2_and_wider_models_need_fewer_tokens) {
  EXPECT_EQ(saturating_tokens(768), 4096);
  EXPECT_EQ(saturating_tokens(2048), 1536);
  EXPECT_EQ(saturating_tokens(384), 8192);
}

TEST_F(PackingTest, auto_stops_at_twice_the_tokens_that_saturate_and_a_number_asks_for_that_many) {
  // Width 48 saturates at 65,536 tokens.
  const std::string large = "  - finetune: {method: lora, epochs: 1, batch_size: 512, sequence_length: 64}\n";
  const std::string repeats = "sweep: {repeats: 10}\n";
  const auto sizes = [&](const std::string& pipeline, const std::string& rest) {
    const Plan plan = plan_of(pipeline, rest);
    return pack_sizes_of(plan);
  };
  EXPECT_THAT(sizes(large, repeats), ElementsAre(4, 4, 2));
  EXPECT_THAT(sizes(kLora, repeats), ElementsAre(10));
  EXPECT_THAT(sizes(large, repeats + "resources: {pack: 5}\n"), ElementsAre(5, 5));
  EXPECT_THAT(sizes(large, repeats + "resources: {pack: off}\n"), IsEmpty());
  std::string busy = large;
  busy.replace(busy.find("512"), 3, "1024");
  EXPECT_THAT(sizes(busy, repeats), IsEmpty()) << "each fills the device alone";
  EXPECT_THAT(sizes(busy, repeats + "resources: {pack: 2}\n"), ElementsAre(2, 2, 2, 2, 2));

  const auto on_cpu = [&](const std::string& pack) {
    return pack_sizes(plan_of(kLora, "resources: {pack: " + pack + "}\n").resources).on_cpu;
  };
  EXPECT_EQ(on_cpu("auto"), 1);
  EXPECT_EQ(on_cpu("off"), 1);
  EXPECT_EQ(on_cpu("4"), 4);
}

TEST_F(PackingTest, a_pack_holds_its_base_once_and_each_member_s_own_memory) {
  const Plan plan = plan_of(kLora, "sweep: {axes: [{finetune.rank: [2, 8]}]}\n");
  ModelCatalog models(world_);
  const auto traits = pack_traits(plan, models);
  const auto packs = planned_packs(traits, 8);
  ASSERT_EQ(packs.size(), 2u);  // and that of the evaluations
  ASSERT_EQ(packs[0].jobs.size(), 2u);
  double expected = 0;
  for (const std::size_t i : packs[0].jobs) {
    const auto alone = estimate_memory(plan.jobs[i], models);
    ASSERT_TRUE(alone);
    EXPECT_EQ(traits[i].shared_mb, alone->weights_mb);
    expected += alone->total_mb() - alone->weights_mb + alone->gradients_mb;
  }
  EXPECT_DOUBLE_EQ(packs[0].memory_mb, traits[packs[0].jobs[0]].shared_mb + expected);
  EXPECT_EQ(packs[0].tokens, 2 * 8 * 32);
}

TEST_F(PackingTest, a_plan_shows_its_packs) {
  const Plan plan = plan_of(kLora, "sweep: {axes: [{finetune.rank: [2, 8]}], repeats: 3}\n");
  const std::string text = plan_text(plan, world_);
  EXPECT_THAT(text, HasSubstr("jobs of each"));
  EXPECT_THAT(text, HasSubstr("1,536"));
  EXPECT_THAT(text, HasSubstr("On a GPU these jobs run together"));
  const Json json = plan_json(plan, world_);
  ASSERT_EQ(json["packs"].size(), 2u);  // of trainings and of evaluations
  EXPECT_EQ(json["packs"][0]["jobs"].size(), 6u);
  EXPECT_EQ(json["packs"][0]["tokens"], 6 * 8 * 32);
  EXPECT_GT(json["packs"][0]["memory_mb"].get<double>(), 0);
  EXPECT_EQ(json["packs_on"], "gpu");

  const Plan off = plan_of(kLora, "sweep: {repeats: 3}\nresources: {pack: off}\n");
  EXPECT_THAT(plan_text(off, world_), Not(HasSubstr("run together")));
  EXPECT_EQ(plan_json(off, world_)["packs"], Json::array());
  const Plan four = plan_of(kLora, "sweep: {repeats: 3}\nresources: {pack: 4}\n");
  EXPECT_THAT(plan_text(four, world_), HasSubstr("These jobs run together"));
  EXPECT_EQ(plan_json(four, world_)["packs_on"], "cpu, gpu");
}

}  // namespace
}  // namespace finesweep::sweeps
