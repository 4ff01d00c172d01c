#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finesweep::worker {

/// The beams of one prompt, as transformers 5 keeps them (generation/utils.py, _beam_search with early_stopping
/// false). Pure decisions: it is told the best continuations of its running beams and says which ones go on.
///
/// A candidate that ends counts only where it is among the first `beams` of its step; it replaces the worst
/// finished hypothesis that it beats. The search is over where the best running beam, at its current length, is no
/// better than the worst of `beams` finished ones, or at the longest length, where running beams are finished too.
class BeamSearch {
 public:
  struct Options {
    std::int64_t beams = 4;
    std::int64_t max_new_tokens = 64;
    double length_penalty = 1;
    std::vector<std::int64_t> end_ids;
  };
  struct Hypothesis {
    std::vector<std::int64_t> tokens;
    float score = 0;  // running: sum of log-probabilities; finished: divided by length^penalty
  };
  struct Candidate {
    std::int64_t beam = 0, token = 0;
    float score = 0;  // of the whole continuation
  };

  explicit BeamSearch(const Options& options);

  /// Candidates that a step wants to see.
  std::int64_t candidates_wanted() const;
  /// Running beams. At first one, whose tokens are none.
  const std::vector<Hypothesis>& running() const { return running_; }
  bool over() const { return over_; }

  /// The best candidates_wanted() continuations of the running beams, best first. Returns, for each beam that runs
  /// on, the beam it came from.
  std::vector<std::int64_t> advance(std::span<const Candidate> candidates);

  /// Best first.
  std::vector<Hypothesis> finished() const;

 private:
  bool is_end(std::int64_t token) const;
  void add_finished(Hypothesis hypothesis);
  bool can_improve() const;

  Options options_;
  std::vector<Hypothesis> running_;
  std::vector<Hypothesis> finished_;  // sorted, best first
  std::int64_t length_ = 0;
  bool over_ = false;
};

}  // namespace finesweep::worker
