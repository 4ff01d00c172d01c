#include <ATen/core/Tensor.h>

#include "tests/parity/fixtures.h"
#include "worker/formats/safetensors.h"
#include "worker/metrics/bleu.h"
#include "worker/metrics/perplexity.h"
#include "worker/metrics/porter_stemmer.h"
#include "worker/metrics/regression.h"
#include "worker/metrics/rouge.h"

namespace finesweep::worker {
namespace {

using nlohmann::json;

constexpr double tolerance = 1e-6;

/// The reference answers, and those that the reference packages gave for texts of our own (tests/parity/texts).
std::vector<std::filesystem::path> folders() {
  return {parity::fixtures() / "metrics",
          std::filesystem::path(FINESWEEP_SOURCE_DIR) / "tests" / "parity" / "texts"};
}

void expect_score(const RougeScore& score, const json& expected, const std::string& where) {
  EXPECT_NEAR(score.precision, expected[0].get<double>(), tolerance) << where;
  EXPECT_NEAR(score.recall, expected[1].get<double>(), tolerance) << where;
  EXPECT_NEAR(score.f, expected[2].get<double>(), tolerance) << where;
}

constexpr std::pair<const char*, Stemming> stemmings[] = {{"plain", Stemming::none}, {"stem", Stemming::porter}};
constexpr std::pair<const char*, RougeScore RougeScores::*> rouges[] = {{"rouge1", &RougeScores::rouge1},
                                                                        {"rouge2", &RougeScores::rouge2},
                                                                        {"rougeL", &RougeScores::rouge_l},
                                                                        {"rougeLsum", &RougeScores::rouge_lsum}};

TEST(MetricParity, rouge_is_that_of_rouge_score) {
  for (const auto& folder : folders()) {
    const auto cases = parity::read_json_lines(folder / "rouge.jsonl");
    ASSERT_FALSE(cases.empty());
    for (std::size_t i = 0; i < cases.size(); ++i) {
      for (const auto& [name, stemming] : stemmings) {
        const auto scores =
            rouge(cases[i]["pred"].get<std::string>(), cases[i]["ref"].get<std::string>(), stemming);
        for (const auto& [rouge_name, member] : rouges) {
          expect_score(scores.*member, cases[i][name][rouge_name],
                       folder.string() + " line " + std::to_string(i + 1) + " " + name + " " + rouge_name);
        }
      }
    }
  }
}

TEST(MetricParity, stems_are_those_of_nltk) {
  const json stems = parity::read_json(folders().back() / "stems.json");
  ASSERT_GT(stems.size(), 100u);
  for (const auto& [word, stem] : stems.items()) EXPECT_EQ(porter_stem(word), stem.get<std::string>()) << word;
}

TEST(MetricParity, the_rouge_of_a_corpus_is_the_mean_over_its_texts) {
  const auto folder = parity::fixtures() / "metrics";
  const auto cases = parity::read_json_lines(folder / "rouge.jsonl");
  const json expected = parity::read_json(folder / "rouge_mean.json");
  ASSERT_EQ(cases.size(), expected["n"].get<std::size_t>());
  for (const auto& [name, stemming] : stemmings) {
    RougeMean mean;
    for (const auto& one : cases)
      mean.add(rouge(one["pred"].get<std::string>(), one["ref"].get<std::string>(), stemming));
    const RougeScores scores = mean.mean();
    for (const auto& [rouge_name, member] : rouges) {
      EXPECT_NEAR((scores.*member).f, expected["mean_fmeasure"][name][rouge_name].get<double>(), tolerance)
          << name << " " << rouge_name;
    }
  }
}

void expect_bleu(const BleuScore& score, const BleuCounts& counts, const json& expected, const std::string& where) {
  EXPECT_NEAR(score.score, expected["score"].get<double>(), tolerance) << where;
  EXPECT_NEAR(score.brevity_penalty, expected["bp"].get<double>(), tolerance) << where;
  EXPECT_EQ(counts.prediction_length, expected["sys_len"].get<std::int64_t>()) << where;
  EXPECT_EQ(counts.reference_length, expected["ref_len"].get<std::int64_t>()) << where;
  for (std::size_t i = 0; i < BleuCounts::orders; ++i) {
    EXPECT_NEAR(score.precisions[i], expected["precisions"][i].get<double>(), tolerance)
        << where << " order " << i + 1;
    if (!expected.contains("counts")) continue;
    EXPECT_EQ(counts.matches[i], expected["counts"][i].get<std::int64_t>()) << where << " order " << i + 1;
    EXPECT_EQ(counts.possible[i], expected["totals"][i].get<std::int64_t>()) << where << " order " << i + 1;
  }
}

TEST(MetricParity, bleu_is_that_of_sacrebleu) {
  for (const auto& folder : folders()) {
    const auto cases = parity::read_json_lines(folder / "rouge.jsonl");
    const json expected = parity::read_json(folder / "bleu.json");
    const auto text = [&](const json& line, const char* field) {
      return cases[line.get<std::size_t>()][field].get<std::string>();
    };
    std::size_t number = 0;
    for (const json& corpus : expected["corpus"]) {
      BleuCounts counts;
      for (std::size_t i = 0; i < corpus["indices"].size(); ++i) {
        const json& line = corpus["indices"][i];
        std::vector<std::string> references{text(line, "ref")};
        if (corpus.contains("second_refs")) references.push_back(text(corpus["second_refs"][i], "ref"));
        counts.add(bleu_counts(text(line, "pred"), references,
                               corpus["lowercase"].get<bool>() ? LetterCase::lowered : LetterCase::kept));
      }
      expect_bleu(corpus_bleu(counts), counts, corpus, folder.string() + " corpus " + std::to_string(number++));
    }
    for (std::size_t i = 0; i < expected["sentence"].size(); ++i) {
      const auto counts = bleu_counts(text(i, "pred"), {text(i, "ref")});
      expect_bleu(sentence_bleu(counts), counts, expected["sentence"][i],
                  folder.string() + " sentence " + std::to_string(i));
    }
    EXPECT_GT(number, 0u);
  }
}

TEST(MetricParity, tokens_of_bleu_are_those_of_sacrebleu) {
  for (const auto& folder : folders()) {
    const auto cases = parity::read_json_lines(folder / "bleu_tokenize_13a.jsonl");
    ASSERT_FALSE(cases.empty());
    for (const auto& one : cases) {
      std::string joined;
      for (const auto& token : bleu_tokens(one["text"].get<std::string>()))
        joined += (joined.empty() ? "" : " ") + token;
      EXPECT_EQ(joined, one["tok13a"].get<std::string>()) << one["text"];
    }
  }
}

TEST(MetricParity, correlations_and_squared_errors_are_those_of_scipy) {
  const json expected = parity::read_json(parity::fixtures() / "metrics" / "classification.json")["regression"];
  const auto labels = expected["labels"].get<std::vector<double>>(),
             predictions = expected["preds"].get<std::vector<double>>();
  EXPECT_NEAR(pearson_correlation(labels, predictions), expected["pearson"].get<double>(), tolerance);
  EXPECT_NEAR(spearman_correlation(labels, predictions), expected["spearman"].get<double>(), tolerance);
  EXPECT_NEAR(mean_squared_error(labels, predictions), expected["mse"].get<double>(), tolerance);
}

TEST(MetricParity, perplexity_weighs_every_predicted_token_alike) {
  const auto folder = parity::fixtures() / "metrics";
  const auto tensors = SafetensorsFile::open(folder / "perplexity.safetensors");
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  const json cases = parity::read_json(folder / "perplexity.json")["cases"];
  ASSERT_FALSE(cases.empty());
  for (const json& one : cases) {
    const std::string name = std::to_string(one["case"].get<int>()) + ".";
    const auto logits = *tensors->tensor(name + "logits"), ids = *tensors->tensor(name + "input_ids"),
               mask = *tensors->tensor(name + "attention_mask"), each = *tensors->tensor(name + "token_nll");
    TokenLoss total;
    for (std::int64_t row = 0; row < ids.size(0); ++row) {
      TokenLoss of_row;
      for (std::int64_t at = 1; at < ids.size(1); ++at) {
        if (mask[row][at].item<std::int64_t>() == 0) continue;
        const at::Tensor before = logits[row][at - 1].contiguous();
        const double loss =
            negative_log_likelihood({before.const_data_ptr<float>(), static_cast<std::size_t>(before.numel())},
                                    ids[row][at].item<std::int64_t>());
        EXPECT_NEAR(loss, each[row][at - 1].item<double>(), 1e-5) << name << " row " << row << " token " << at;
        of_row.add(loss, 1);
      }
      const json& perplexity = one["per_row_perplexity"][static_cast<std::size_t>(row)];
      EXPECT_EQ(of_row.tokens, one["per_row_tokens"][static_cast<std::size_t>(row)].get<std::int64_t>());
      if (perplexity.is_null()) {
        EXPECT_TRUE(std::isnan(of_row.perplexity()));
      } else {
        EXPECT_NEAR(of_row.perplexity() / perplexity.get<double>(), 1, 1e-6);
      }
      total.add(of_row);
    }
    EXPECT_EQ(total.tokens, one["tokens"].get<std::int64_t>());
    EXPECT_NEAR(total.mean(), one["mean_nll"].get<double>(), tolerance);
    EXPECT_NEAR(total.perplexity() / one["perplexity"].get<double>(), 1, 1e-6);
  }
}

}  // namespace
}  // namespace finesweep::worker
