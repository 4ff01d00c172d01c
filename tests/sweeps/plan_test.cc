// What a user relies on beyond single files: what changes a job's id and what does not, seeds, and chains.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "jobs/compression_settings.h"
#include "jobs/settings.h"
#include "sweeps/job_hash.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

using ::testing::HasSubstr;

constexpr const char* kHead = R"(model: models/bert
task: classification
data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  test: data/test.jsonl
)";
constexpr const char* kSteps = R"(pipeline:
  - finetune: {method: lora, rank: 4, epochs: 2, sequence_length: 32, schedule: constant}
  - evaluate: {name: validation, split: validation}
  - evaluate: {name: test, split: test}
)";

std::string sweep_file(const std::string& rest, const std::string& steps = kSteps) {
  return kHead + steps + rest;
}

Plan plan_of(const std::string& text, SweepFiles& world, const std::filesystem::path& file = "/w/sweep.yaml") {
  SweepParse parse = parse_in_world(text, world, file);
  EXPECT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "sweep.yaml");
  return parse.sweep ? parse.sweep->plan : Plan{};
}

Plan plan_of(const std::string& text) {
  MemoryFiles world = make_world();
  return plan_of(text, world);
}

std::set<std::string> ids(const Plan& plan) {
  std::set<std::string> ids;
  for (const Job& job : plan.jobs) ids.insert(job.id.hex());
  return ids;
}

std::map<std::string, std::string> ids_by_step(const Plan& plan) {
  std::map<std::string, std::string> ids;
  for (const TrialStep& step : plan.trials.at(0).steps) ids[step.name] = step.job.hex();
  return ids;
}

bool is_subset(const std::set<std::string>& small, const std::set<std::string>& large) {
  return std::includes(large.begin(), large.end(), small.begin(), small.end());
}

TEST(JobIdTest, the_order_of_axes_and_values_changes_no_id) {
  const Plan one = plan_of(
      sweep_file("sweep: {axes: [{finetune.rank: [2, 4, 8]}, {finetune.dropout: [0, 0.1]}], repeats: 2}\n"));
  const Plan other = plan_of(
      sweep_file("sweep: {axes: [{finetune.dropout: [0.1, 0]}, {finetune.rank: [8, 2, 4]}], repeats: 2}\n"));
  EXPECT_EQ(one.jobs.size(), 36u);
  EXPECT_EQ(ids(one), ids(other));
  std::set<std::string> names, other_names;
  for (const Trial& trial : one.trials) names.insert(trial.name);
  for (const Trial& trial : other.trials) other_names.insert(trial.name);
  EXPECT_EQ(names, other_names);
}

TEST(JobIdTest, a_further_value_or_repeat_keeps_the_ids_that_were_there) {
  const Plan before = plan_of(sweep_file("sweep: {axes: [{finetune.rank: [2, 4]}], repeats: 2}\n"));
  const Plan value = plan_of(sweep_file("sweep: {axes: [{finetune.rank: [2, 3, 4]}], repeats: 2}\n"));
  const Plan repeat = plan_of(sweep_file("sweep: {axes: [{finetune.rank: [2, 4]}], repeats: 5}\n"));
  EXPECT_TRUE(is_subset(ids(before), ids(value)));
  EXPECT_TRUE(is_subset(ids(before), ids(repeat)));
}

TEST(JobIdTest, what_only_says_how_to_run_or_show_changes_no_id) {
  const auto plain = ids(plan_of(sweep_file("")));
  EXPECT_EQ(plain, ids(plan_of(sweep_file("name: another\nreport: {metric: test.f1, goal: minimize}\n"
                                          "resources: {retries: 5, threads: 3, pack: off}\n"))));
  EXPECT_EQ(plain, ids(plan_of(sweep_file("sweep: {include: [{label: same, finetune.rank: 4}]}\n"))));
  std::string steps = kSteps;
  steps.replace(steps.find("rank: 4"), 7, "rank: 4, checkpoint_every: 5");
  EXPECT_EQ(plain, ids(plan_of(sweep_file("", steps))));
}

TEST(JobIdTest, a_default_that_is_written_out_changes_no_id) {
  std::string steps = kSteps;
  steps.replace(steps.find("rank: 4"), 7,
                "rank: 4, alpha: 16, batch_size: 16, learning_rate: 0.0005, warmup: 0.0, targets: [value, query], "
                "weight_decay: 1.0e-2");
  EXPECT_EQ(ids(plan_of(sweep_file(""))), ids(plan_of(sweep_file("", steps))));
  EXPECT_EQ(ids(plan_of(sweep_file(""))),
            ids(plan_of("# fields\n" + sweep_file("").replace(sweep_file("").find("pipeline:"), 0,
                                                              "  fields: {label: label, text: text}\n"))));
}

TEST(JobIdTest, a_setting_that_the_method_cannot_use_changes_no_id) {
  std::string full = kSteps;
  full.replace(full.find("method: lora, rank: 4"), 21, "method: full");
  std::string with_rank = kSteps;
  with_rank.replace(with_rank.find("method: lora"), 12, "method: full, dropout: 0.5, double: false");
  EXPECT_EQ(ids(plan_of(sweep_file("", full))), ids(plan_of(sweep_file("", with_rank))));
}

TEST(JobIdTest, files_may_move) {
  MemoryFiles here = make_world("/w"), there = make_world("/somewhere/else");
  const Plan one =
      plan_of(sweep_file("sweep: {axes: [{data.train: [data/train.jsonl, data/test.jsonl]}]}\n"), here);
  const Plan other = plan_of(sweep_file("sweep: {axes: [{data.train: [data/train.jsonl, data/test.jsonl]}]}\n"),
                             there, "/somewhere/else/s.yaml");
  EXPECT_EQ(ids(one), ids(other));
  for (std::size_t i = 0; i < one.trials.size(); ++i) EXPECT_EQ(one.trials[i].swept, other.trials[i].swept);
}

TEST(JobIdTest, a_changed_file_changes_the_jobs_that_read_it_and_what_follows) {
  const std::string text = sweep_file("");
  MemoryFiles world = make_world();
  const auto before = ids_by_step(plan_of(text, world));

  world.files["/w/data/test.jsonl"] += R"({"text": "three", "label": 1})"
                                       "\n";
  const auto new_test = ids_by_step(plan_of(text, world));
  EXPECT_EQ(before.at("finetune"), new_test.at("finetune"));
  EXPECT_EQ(before.at("validation"), new_test.at("validation"));
  EXPECT_NE(before.at("test"), new_test.at("test"));

  world = make_world();
  world.files["/w/data/train.jsonl"] += R"({"text": "three", "label": 1})"
                                        "\n";
  const auto new_train = ids_by_step(plan_of(text, world));
  for (const auto& [step, id] : before) EXPECT_NE(id, new_train.at(step)) << step;

  world = make_world();
  world.files["/w/models/bert/tokenizer.json"] = "{ }";
  const auto new_tokenizer = ids_by_step(plan_of(text, world));
  EXPECT_NE(before.at("finetune"), new_tokenizer.at("finetune"));

  world = make_world();
  world.files["/w/models/bert/README.md"] = "words";
  EXPECT_EQ(before, ids_by_step(plan_of(text, world)));
}

TEST(JobIdTest, every_setting_that_matters_changes_the_id) {
  const auto before = ids_by_step(plan_of(sweep_file("")));
  for (const char* change : {"rank: 5",
                             "alpha: 15",
                             "dropout: 0.1",
                             "rslora: true",
                             "targets: [query]",
                             "batch_size: 8",
                             "gradient_accumulation: 2",
                             "learning_rate: 1.0e-4",
                             "warmup: 3",
                             "weight_decay: 0",
                             "beta1: 0.8",
                             "beta2: 0.99",
                             "epsilon: 1.0e-6",
                             "max_grad_norm: 0",
                             "model_dropout: 0",
                             "precision: bf16",
                             "attention: math",
                             "pooling: mean",
                             "gradient_checkpointing: true",
                             "isolate: true",
                             "evaluate_every: 3"}) {
    std::string steps = kSteps;
    const bool is_rank = std::string(change).starts_with("rank");
    steps.replace(steps.find("rank: 4"), 7, is_rank ? change : "rank: 4, " + std::string(change));
    const auto after = ids_by_step(plan_of(sweep_file("", steps)));
    for (const auto& [step, id] : before) EXPECT_NE(id, after.at(step)) << change << " " << step;
  }
}

TEST(JobIdTest, a_benchmark_is_a_job_of_each_repeat_and_depends_on_its_shape_and_its_rows) {
  const std::string text = std::string(kHead) +
                           "pipeline:\n  - evaluate: {split: test}\n  - benchmark: {mode: [forward, train]}\n"
                           "sweep:\n  axes:\n    - benchmark.batch_size: [1, 8]\n"
                           "    - benchmark.sequence_length: [16, 32, 64]\n  repeats: 3\n";
  MemoryFiles world = make_world();
  const Plan plan = plan_of(text, world);
  EXPECT_EQ(plan.trials.size(), 18u);
  std::set<std::string> benchmarks, evaluations, configurations;
  for (const Trial& trial : plan.trials) {
    evaluations.insert(trial.steps.at(0).job.hex());
    benchmarks.insert(trial.steps.at(1).job.hex());
    configurations.insert(trial.configuration);
  }
  EXPECT_EQ(benchmarks.size(), 18u);
  EXPECT_EQ(configurations.size(), 6u);
  EXPECT_EQ(evaluations.size(), 3u) << "shared by the shapes; seeded, since the head is initialised";
  for (const Job& job : plan.jobs) EXPECT_EQ(job.isolate, job.kind == StepKind::benchmark);

  const auto before = ids_by_step(plan);
  world.files["/w/data/train.jsonl"] = "{\"text\": \"other rows\", \"label\": 1}\n";
  EXPECT_NE(before.at("benchmark"), ids_by_step(plan_of(text, world)).at("benchmark"));
}

TEST(JobIdTest, a_profile_of_an_evaluation_leaves_the_training_before_it_as_it_is) {
  const auto steps = [](const char* profile) {
    return std::string(kHead) +
           "pipeline:\n  - finetune: {epochs: 1, sequence_length: 32, evaluate_every: epoch}\n" +
           "  - evaluate: {profile: " + profile + "}\n";
  };
  const auto without = ids_by_step(plan_of(steps("false"))), with = ids_by_step(plan_of(steps("true")));
  EXPECT_EQ(without.at("finetune"), with.at("finetune"));
  EXPECT_NE(without.at("evaluate"), with.at("evaluate"));
}

TEST(PlanTest, settings_of_a_benchmark_are_those_of_its_file) {
  const Plan plan =
      plan_of(std::string(kHead) +
              "pipeline:\n  - finetune: {epochs: 1, sequence_length: 24, precision: bf16, attention: math}\n"
              "  - benchmark: {mode: train, batch_size: 4, iterations: 7, warmup: 0, profile: true}\n");
  const auto settings = read_benchmark_settings(plan.jobs.back().settings);
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  EXPECT_EQ(settings->modes, std::vector<BenchmarkMode>{BenchmarkMode::train});
  EXPECT_EQ(settings->batch_size, 4);
  EXPECT_EQ(settings->sequence_length, 24) << "of the training step before";
  EXPECT_EQ(settings->precision, Precision::bf16);
  EXPECT_EQ(settings->attention, AttentionKind::math);
  EXPECT_EQ(settings->iterations, 7);
  EXPECT_EQ(settings->warmup, 0);
  EXPECT_TRUE(settings->profile);
}

TEST(SeedTest, repeats_are_paired_across_configurations_and_differ_from_each_other) {
  const Plan plan = plan_of(sweep_file("sweep: {axes: [{finetune.rank: [2, 4]}], repeats: 3, seed: 5}\n"));
  std::map<int, std::set<std::uint64_t>> seeds;
  std::set<std::uint64_t> all;
  for (const Trial& trial : plan.trials) {
    seeds[trial.repeat].insert(trial.seed);
    all.insert(trial.seed);
    EXPECT_EQ(trial.seed, repeat_seed(5, trial.repeat));
  }
  for (const auto& [repeat, of] : seeds) EXPECT_EQ(of.size(), 1u);
  EXPECT_EQ(all.size(), 3u);
  EXPECT_NE(repeat_seed(5, 0), repeat_seed(6, 0));
}

TEST(SeedTest, the_seed_of_a_repeat_is_the_documented_hash) {
  // printf '%s' '{"repeat":0,"sweep_seed":0}' | sha256sum
  EXPECT_EQ(repeat_seed(0, 0), 0x1a18d453251bf224u);
}

TEST(ChainTest, a_longer_run_continues_the_next_shorter_and_stands_after_it) {
  const Plan plan = plan_of(sweep_file("sweep: {axes: [{finetune.epochs: [9, 3, 6]}], repeats: 2}\n"));
  std::map<std::string, const Job*> seen;
  int chained = 0;
  for (const Job& job : plan.jobs) {
    for (const JobId& input : job.inputs) EXPECT_TRUE(seen.contains(input.hex()));
    if (job.kind == StepKind::finetune) {
      EXPECT_TRUE(job.keep_training_state);
      if (job.continues) {
        ++chained;
        const Job& before = *seen.at(job.continues->hex());
        EXPECT_EQ(before.settings["epochs"].get<int>() + 3, job.settings["epochs"].get<int>());
        EXPECT_EQ(before.seed, job.seed);
      }
    }
    seen[job.id.hex()] = &job;
  }
  EXPECT_EQ(chained, 4);
}

TEST(ChainTest, the_id_of_some_epochs_does_not_depend_on_the_other_values) {
  const auto two = ids(plan_of(sweep_file("sweep: {axes: [{finetune.epochs: [5, 10]}]}\n")));
  const auto three = ids(plan_of(sweep_file("sweep: {axes: [{finetune.epochs: [5, 10, 20]}]}\n")));
  EXPECT_TRUE(is_subset(two, three));
  EXPECT_EQ(three.size(), two.size() + 3);
}

TEST(ChainTest, a_warm_up_that_is_a_share_forbids_a_chain) {
  std::string steps = kSteps;
  steps.replace(steps.find("rank: 4"), 7, "rank: 4, warmup: 0.1");
  const Plan plan = plan_of(sweep_file("sweep: {axes: [{finetune.epochs: [5, 10]}]}\n", steps));
  for (const Job& job : plan.jobs) EXPECT_FALSE(job.continues.has_value());
  ASSERT_EQ(plan.notes.size(), 1u);
  EXPECT_THAT(plan.notes[0], HasSubstr("share"));
}

TEST(PlanTest, every_planned_finetune_and_evaluate_job_can_be_read_by_the_engine) {
  std::string steps = kSteps;
  steps.replace(steps.find("rank: 4"), 7, "rank: 4, evaluate_every: epoch, warmup: 0.25, model_dropout: 0.2");
  const Plan plan =
      plan_of(sweep_file("sweep: {include: [{finetune.method: full}, {finetune.method: ia3}, "
                         "{finetune.method: qlora, finetune.steps: 8, finetune.evaluate_every: 3}]}\n",
                         steps));
  int methods = 0;
  for (const Job& job : plan.jobs) {
    const auto context = read_job_context(job.context);
    ASSERT_TRUE(context.ok());
    EXPECT_EQ(context->model, "/w/models/bert");
    EXPECT_EQ(context->data.train, "/w/data/train.jsonl");
    EXPECT_EQ(context->data.text, "text");
    EXPECT_EQ(context->data.label, "label");
    if (job.kind == StepKind::finetune) {
      const auto settings = read_finetune_settings(job.settings);
      ASSERT_TRUE(settings.ok()) << settings.error().message;
      EXPECT_EQ(settings->training.sequence_length, 32);
      EXPECT_TRUE(settings->training.warmup.is_share);
      EXPECT_EQ(settings->training.warmup.steps(40), 10);
      EXPECT_EQ(settings->training.model_dropout, 0.2);
      ASSERT_TRUE(settings->training.evaluation.has_value());
      EXPECT_EQ(settings->training.evaluation->split, "validation");
      EXPECT_EQ(settings->training.evaluation->sequence_length, 32);
      ++methods;
    } else {
      const auto settings = read_evaluate_settings(job.settings);
      ASSERT_TRUE(settings.ok()) << settings.error().message;
      EXPECT_EQ(settings->sequence_length, 32);
    }
  }
  EXPECT_EQ(methods, 4);
}

constexpr const char* kCompression = R"(pipeline:
  - finetune: {name: whole, method: full, sequence_length: 32}
  - finetune: {method: lora, rank: 4, sequence_length: 32}
  - prune: {amount: 0.8}
  - quantize: {format: nf4}
  - evaluate: {name: small, split: validation}
  - merge
  - quantize: {name: half, format: fp16}
  - evaluate: {name: merged, split: validation}
)";

TEST(PlanTest, an_adapter_that_is_pruned_and_quantised_keeps_its_base_until_it_is_merged) {
  const Plan plan = plan_of(sweep_file("", kCompression));
  const auto ids = ids_by_step(plan);
  std::map<std::string, std::vector<std::string>> inputs;
  for (const Job& job : plan.jobs) {
    for (const JobId& input : job.inputs) inputs[job.id.hex()].push_back(input.hex());
  }
  const auto of = [&](const char* step) { return inputs[ids.at(step)]; };
  using ::testing::ElementsAre;
  EXPECT_THAT(of("finetune"), ElementsAre(ids.at("whole")));
  EXPECT_THAT(of("prune"), ElementsAre(ids.at("finetune"), ids.at("whole")));
  EXPECT_THAT(of("quantize"), ElementsAre(ids.at("prune"), ids.at("whole")));
  EXPECT_THAT(of("small"), ElementsAre(ids.at("quantize"), ids.at("whole")));
  EXPECT_THAT(of("merge"), ElementsAre(ids.at("quantize"), ids.at("whole")));
  EXPECT_THAT(of("half"), ElementsAre(ids.at("merge")));
  EXPECT_THAT(of("merged"), ElementsAre(ids.at("half")));
}

TEST(PlanTest, a_pruned_base_is_the_base_of_the_adapter_on_it) {
  const Plan plan = plan_of(sweep_file("", R"(pipeline:
  - finetune: {method: lora, rank: 4, sequence_length: 32}
  - prune: {name: base, target: model}
  - prune: {target: adapter}
  - evaluate: {split: validation}
)"));
  const auto ids = ids_by_step(plan);
  for (const Job& job : plan.jobs) {
    if (job.kind != StepKind::evaluate) continue;
    ASSERT_EQ(job.inputs.size(), 2u);
    EXPECT_EQ(job.inputs[0].hex(), ids.at("prune"));
    EXPECT_EQ(job.inputs[1].hex(), ids.at("base"));
  }
}

TEST(PlanTest, the_best_is_chosen_by_the_validation_of_the_model_that_is_shown) {
  EXPECT_EQ(plan_of(sweep_file("")).report.select, "validation.accuracy");
  const std::string pruned = R"(pipeline:
  - finetune: {method: lora, rank: 4, epochs: 2, sequence_length: 32}
  - evaluate: {name: dense, split: validation}
  - prune: {target: adapter, amount: 0.5}
)";
  const Plan without = plan_of(sweep_file("", pruned + "  - evaluate: {name: test, split: test}\n"));
  EXPECT_EQ(without.report.select, "test.accuracy") << "dense looks at another model";
  EXPECT_TRUE(without.report.selects_on_test);
  const Plan with = plan_of(sweep_file(
      "", pruned + "  - evaluate: {name: test, split: test}\n  - evaluate: {name: sparse, split: validation}\n"));
  EXPECT_EQ(with.report.select, "sparse.accuracy");
}

TEST(PlanTest, what_was_brought_to_fp16_is_computed_with_in_fp16) {
  const Plan plan = plan_of(sweep_file("", kCompression));
  const auto ids = ids_by_step(plan);
  for (const Job& job : plan.jobs) {
    if (job.id.hex() == ids.at("small")) {
      EXPECT_EQ(job.settings.at("precision"), "fp32");
    }
    if (job.id.hex() == ids.at("merged")) {
      EXPECT_EQ(job.settings.at("precision"), "fp16");
    }
  }
}

TEST(PlanTest, what_was_trained_on_a_base_in_fp8_is_evaluated_in_bf16) {
  const Plan plan = plan_of(sweep_file("", R"(pipeline:
  - finetune: {method: lora, sequence_length: 32, precision: fp8_base, evaluate_every: epoch}
  - evaluate: {name: validation, split: validation}
  - evaluate: {name: test, split: test, precision: fp32}
)"));
  const auto ids = ids_by_step(plan);
  for (const Job& job : plan.jobs) {
    if (job.kind == StepKind::finetune) {
      const auto settings = read_finetune_settings(job.settings);
      ASSERT_TRUE(settings) << settings.error().message;
      EXPECT_EQ(settings->training.precision, Precision::fp8_base);
      EXPECT_EQ(settings->training.evaluation->precision, Precision::bf16);
    } else {
      EXPECT_EQ(job.settings.at("precision"), job.id.hex() == ids.at("test") ? "fp32" : "bf16");
    }
  }
}

TEST(PlanTest, every_planned_step_that_makes_a_model_smaller_can_be_read_by_the_engine) {
  const Plan plan = plan_of(sweep_file("", R"(pipeline:
  - distill: {teacher: models/bert, student: {layers: 1}, temperature: 4, alpha: 0.9, sequence_length: 32}
  - finetune: {method: lora, rank: 4, sequence_length: 32}
  - prune: {amount: 0.25, scope: global, when: before}
  - quantize: {format: nf4, compute: bf16}
  - evaluate: {split: validation}
)"));
  int read = 0;
  for (const Job& job : plan.jobs) {
    ++read;
    if (job.kind == StepKind::distill) {
      const auto settings = read_distill_settings(job.settings);
      ASSERT_TRUE(settings.ok()) << settings.error().message;
      EXPECT_EQ(settings->teacher, "/w/models/bert");
      EXPECT_EQ(settings->student_layers, 1);
      EXPECT_EQ(settings->temperature, 4);
      EXPECT_EQ(settings->alpha, 0.9);
    } else if (job.kind == StepKind::finetune) {
      const auto masks = read_masks_while_training(job.settings);
      ASSERT_TRUE(masks.ok()) << masks.error().message;
      ASSERT_TRUE(masks->has_value());
      EXPECT_EQ((*masks)->amount, 0.25);
      EXPECT_EQ((*masks)->scope, PruneScope::global);
    } else if (job.kind == StepKind::prune) {
      const auto settings = read_prune_settings(job.settings);
      ASSERT_TRUE(settings.ok()) << settings.error().message;
      EXPECT_EQ(settings->target, PruneTarget::adapter);
      EXPECT_TRUE(settings->before_training);
    } else if (job.kind == StepKind::quantize) {
      const auto settings = read_quantize_settings(job.settings);
      ASSERT_TRUE(settings.ok()) << settings.error().message;
      EXPECT_EQ(settings->format, WeightFormat::nf4);
      EXPECT_EQ(settings->compute, Precision::bf16);
    } else {
      --read;
    }
  }
  EXPECT_EQ(read, 4);
}

TEST(PlanTest, a_share_of_steps_that_means_a_whole_number_gives_it) {
  Warmup warmup{true, 0.29};
  EXPECT_EQ(warmup.steps(100), 29);
  EXPECT_EQ(warmup.steps(101), 29);
  EXPECT_EQ((Warmup{false, 7}.steps(100)), 7);
}

TEST(PlanTest, settings_of_a_job_that_was_not_planned_name_the_missing_key) {
  const auto settings = read_finetune_settings(Json{{"method", "lora"}, {"rank", 4}});
  ASSERT_FALSE(settings.ok());
  EXPECT_THAT(settings.error().message, HasSubstr("'alpha'"));
}

TEST(PlanTest, a_plan_survives_its_own_json) {
  const Plan plan = plan_of(sweep_file("sweep: {axes: [{finetune.epochs: [9, 3]}], repeats: 2}\n"));
  const Json json(plan);
  EXPECT_EQ(json, Json(json.get<Plan>()));
}

TEST(PlanTest, names_and_labels_are_unique_over_many_configurations) {
  std::string values;
  for (int i = 1; i <= 1000; ++i) values += (i > 1 ? ", " : "") + std::to_string(i) + ".0e-6";
  const Plan plan = plan_of(sweep_file("sweep: {axes: [{finetune.learning_rate: [" + values + "]}]}\n"));
  std::set<std::string> names, labels;
  for (const Trial& trial : plan.trials) {
    names.insert(trial.name);
    labels.insert(trial.label);
  }
  EXPECT_EQ(names.size(), 1000u);
  EXPECT_EQ(labels.size(), 1000u);
}

}  // namespace
}  // namespace finesweep::sweeps
