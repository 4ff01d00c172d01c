#pragma once

#include <cstdint>
#include <string>

namespace finesweep::simulation {

struct Options {
  /// Reactor::sanity_check() after every event. Without it only what users and workers can see is checked.
  bool check_reactor = true;
  /// Many jobs on several devices of one host, and much that is cancelled on its way; else one history in five.
  bool full_of_loans = false;
  /// Workers on GPUs with jobs for several packs, which jobs that wait may join; else one history in six or so.
  bool full_of_packs = false;
  /// Print every step to standard error.
  bool trace = false;
};

/// One history, from its seed to the end of the sweep.
struct Report {
  /// Which promise was broken, when and how; empty: none.
  std::string violation;
  // What happened in it, so that a test can see that the histories are eventful.
  int events = 0;
  int coordinator_lives = 0;
  int committed = 0, failed = 0, cancelled = 0;
  int losses = 0, failures = 0, thefts = 0, interruptions = 0;
  int refused_results = 0, adopted_artifacts = 0, publish_failures = 0, isolated = 0;
  int packs = 0, packs_on_cpus = 0, halved_packs = 0, members_revoked = 0;
  int on_several_devices = 0, answered_cancellations = 0, joined = 0;
};

}  // namespace finesweep::simulation

namespace finesweep::coordinator {

/// A whole cluster in one thread under virtual time: the reactor, a driver that commits and sends around it, a
/// store, a network, workers. The seed decides the sweep, the cluster and all that goes wrong. Checked after every
/// event:
///
/// - attempt numbers rise, and an attempt is durable before it is dispatched;
/// - only the newest attempt, from the worker that it was given to, is published; no job is committed twice;
/// - what was acknowledged is in the store, whatever is killed afterwards;
/// - a job starts only when what it needs is committed;
/// - an isolated job whose result is accepted was alone on its CPU host, but for workers that had been given up and
///   did not know it;
/// - jobs share a pack only where their traits, the device and its memory let them; of a pack that crashed no more
///   than half run together again; who joins a pack that runs is blamed for its crash no more than the others;
/// - while a job on several devices runs, revoked or not, nothing else runs on any of them, but for such workers;
/// - failures and losses are charged within their bounds;
/// - what a request to cancel was answered for is over, and stays so in later lives;
/// - once nothing goes wrong any more, the sweep ends within bounded time, once, and every job is accounted for.
simulation::Report simulate(std::uint64_t seed, const simulation::Options& options);

}  // namespace finesweep::coordinator
