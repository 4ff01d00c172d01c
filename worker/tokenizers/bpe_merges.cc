#include "worker/tokenizers/bpe_merges.h"

#include <algorithm>
#include <optional>

namespace finesweep::worker {
namespace {

constexpr std::size_t long_word = 64;
constexpr std::uint32_t none = 0xFFFFFFFF;
constexpr TokenId gone = -1;

}  // namespace

void BpeMerges::reserve(std::size_t count) {
  std::size_t size = 2;
  while (size < 2 * count) size *= 2;
  slots_.assign(size, {});
}

void BpeMerges::add(TokenId left, TokenId right, std::uint32_t rank, TokenId merged) {
  Slot& slot = slots_[slot_of(key_of(left, right))];
  slot = {key_of(left, right), {rank, merged}};
}

void BpeMerges::apply(std::vector<TokenId>& symbols) {
  if (symbols.size() < 2) return;
  if (symbols.size() < long_word) return apply_to_short(symbols);
  apply_to_long(symbols);
}

void BpeMerges::apply_to_short(std::vector<TokenId>& symbols) {
  std::size_t count = symbols.size();
  pairs_.resize(count);
  for (std::size_t i = 0; i + 1 < count; ++i) pairs_[i] = find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (pairs_[i].rank < pairs_[best].rank) best = i;
    }
    if (pairs_[best].rank == no_rank) break;
    symbols[best] = pairs_[best].merged;
    --count;
    for (std::size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      pairs_[i - 1] = pairs_[i];
    }
    if (best > 0) pairs_[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) pairs_[best] = find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(count);
}

void BpeMerges::apply_to_long(std::vector<TokenId>& symbols) {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto candidate = [&](std::uint32_t left, std::uint32_t right) -> std::optional<Candidate> {
    const Merge merge = find(symbols[left], symbols[right]);
    if (merge.rank == no_rank) return std::nullopt;
    return Candidate{merge.rank, left, merge.merged};
  };
  next_.resize(count);
  previous_.resize(count);
  heap_.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    next_[i] = i + 1 < count ? i + 1 : none;
    previous_[i] = i > 0 ? i - 1 : none;
    if (i + 1 == count) break;
    if (const auto made = candidate(i, i + 1)) heap_.push_back(*made);
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  const auto push = [&](std::uint32_t left, std::uint32_t right) {
    if (left == none || right == none) return;
    const auto made = candidate(left, right);
    if (!made) return;
    heap_.push_back(*made);
    std::push_heap(heap_.begin(), heap_.end(), later);
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate best = heap_.back();
    heap_.pop_back();
    const std::uint32_t left = best.position, right = next_[left];
    if (symbols[left] == gone || right == none) continue;
    // One of the two may have been merged with another neighbour meanwhile.
    const Merge merge = find(symbols[left], symbols[right]);
    if (merge.rank == no_rank || merge.merged != best.merged) continue;
    symbols[left] = best.merged;
    symbols[right] = gone;
    next_[left] = next_[right];
    if (next_[left] != none) previous_[next_[left]] = left;
    push(previous_[left], left);
    push(left, next_[left]);
  }
  std::erase(symbols, gone);
}

}  // namespace finesweep::worker
