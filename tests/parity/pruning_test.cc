// Masks against those of torch.nn.utils.prune.

#include "worker/training/pruning.h"

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/parity/models.h"

namespace finesweep::parity {
namespace {

using worker::magnitude_masks;

TEST(PruningParity, masks_of_adapters) {
  const auto expected = read_json(fixtures() / "prune" / "expected.json");
  int adapters = 0;
  for (const auto& [adapter, facts] : expected.items()) {
    if (!facts.is_object()) continue;
    SCOPED_TRACE(adapter);
    ++adapters;
    const Tensors weights = read_tensors(fixtures() / facts.at("source").get<std::string>());
    const Tensors masks = read_tensors(fixtures() / "prune" / (adapter + ".masks.safetensors"));
    for (const auto& [prefix, scope] : {std::pair<std::string, PruneScope>("local.", PruneScope::per_tensor),
                                        std::pair<std::string, PruneScope>("global.", PruneScope::global)}) {
      std::vector<at::Tensor> tensors, wanted;
      std::vector<std::string> names;
      for (const auto& [name, mask] : masks) {
        if (!name.starts_with(prefix)) continue;
        names.push_back(name);
        tensors.push_back(weights.at(name.substr(prefix.size())));
        wanted.push_back(mask);
      }
      ASSERT_EQ(names.size(), facts.at("tensors").get<std::size_t>());
      const auto mine = magnitude_masks(tensors, facts.at("amount").get<double>(), scope);
      ASSERT_TRUE(mine.ok()) << mine.error().message;
      worker::NamedMasks named;
      for (std::size_t i = 0; i < names.size(); ++i) {
        EXPECT_TRUE(at::equal((*mine)[i], wanted[i])) << names[i];
        named.emplace_back(names[i], (*mine)[i]);
      }
      if (scope == PruneScope::global) {
        EXPECT_DOUBLE_EQ(worker::sparsity(named),
                         facts.at("global_zeros").get<double>() / facts.at("total").get<double>());
      }
    }
  }
  EXPECT_GT(adapters, 0);
}

TEST(PruningParity, how_many_values_an_amount_means) {
  const auto expected = read_json(fixtures() / "prune" / "expected.json");
  ASSERT_FALSE(expected.at("count_rule").empty());
  for (const auto& rule : expected.at("count_rule")) {
    const auto n = rule.at("n").get<std::int64_t>(), pruned = rule.at("pruned").get<std::int64_t>();
    // Equal magnitudes: the first go.
    const auto mask = magnitude_masks({at::ones({n}).neg()}, rule.at("amount"), PruneScope::per_tensor);
    ASSERT_TRUE(mask.ok());
    const at::Tensor& kept = (*mask)[0];
    EXPECT_EQ(n - kept.sum().item<std::int64_t>(), pruned) << rule;
    EXPECT_EQ(kept.narrow(0, 0, pruned).sum().item<std::int64_t>(), 0) << rule;
  }
}

}  // namespace
}  // namespace finesweep::parity
