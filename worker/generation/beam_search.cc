#include "worker/generation/beam_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace finesweep::worker {

BeamSearch::BeamSearch(const Options& options) : options_(options), running_(1) {}

std::int64_t BeamSearch::candidates_wanted() const {
  return std::max<std::int64_t>(2, 1 + static_cast<std::int64_t>(options_.end_ids.size())) * options_.beams;
}

bool BeamSearch::is_end(std::int64_t token) const {
  return std::find(options_.end_ids.begin(), options_.end_ids.end(), token) != options_.end_ids.end();
}

void BeamSearch::add_finished(Hypothesis hypothesis) {
  // Behind those of the same score, which came first.
  const auto place = std::upper_bound(finished_.begin(), finished_.end(), hypothesis,
                                      [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  finished_.insert(place, std::move(hypothesis));
  if (static_cast<std::int64_t>(finished_.size()) > options_.beams) finished_.pop_back();
}

bool BeamSearch::can_improve() const {
  if (static_cast<std::int64_t>(finished_.size()) < options_.beams) return true;
  if (running_.empty()) return false;
  const double best = running_.front().score / std::pow(static_cast<double>(length_), options_.length_penalty);
  return static_cast<float>(best) > finished_.back().score;
}

std::vector<std::int64_t> BeamSearch::advance(std::span<const Candidate> candidates) {
  ++length_;
  const bool at_limit = length_ >= options_.max_new_tokens;
  std::vector<Hypothesis> next;
  std::vector<std::int64_t> origins;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    const bool ends = at_limit || is_end(candidate.token);
    const bool counts = static_cast<std::int64_t>(i) < options_.beams;
    if (ends && !counts) continue;
    if (!ends && static_cast<std::int64_t>(next.size()) == options_.beams) continue;
    Hypothesis hypothesis = running_[static_cast<std::size_t>(candidate.beam)];
    hypothesis.tokens.push_back(candidate.token);
    hypothesis.score = candidate.score;
    if (ends) {
      const double length = std::pow(static_cast<double>(length_), options_.length_penalty);
      hypothesis.score = static_cast<float>(candidate.score / length);
      add_finished(std::move(hypothesis));
    } else {
      next.push_back(std::move(hypothesis));
      origins.push_back(candidate.beam);
    }
  }
  running_ = std::move(next);
  over_ = at_limit || running_.empty() || !can_improve();
  return origins;
}

std::vector<BeamSearch::Hypothesis> BeamSearch::finished() const {
  return finished_;
}

}  // namespace finesweep::worker
