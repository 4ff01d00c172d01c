#include "worker/generation/device_steps.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <limits>
#include <utility>

#include "worker/generation/prompt_batch.h"
#include "worker/generation/token_choice.h"
#include "worker/kernels/cuda/module.h"
#include "worker/kernels/gpu/graph.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/profile_scope.h"
#include "worker/models/batch_graphs.h"

namespace finesweep::worker {
namespace {

/// Capacities are multiples of this, so that prompts of all lengths share few captured steps.
constexpr std::int64_t kCapacityStep = 128;
constexpr std::int64_t kStepsCaptured = 4;  // in one graph: between graphs the device pauses
constexpr std::int64_t kStepsAhead = 16;    // after so many the host looks
constexpr std::size_t kMostSessions = 3;
/// A capture of the prompts' pass takes as long as two passes without one.
constexpr int kPromptsCapturedFrom = 3;

/// Everything whose place is written down in a captured step.
std::vector<std::uint64_t> addresses_of(LanguageModel& model) {
  std::vector<std::uint64_t> all;
  const auto add = [&](const void* address) { all.push_back(reinterpret_cast<std::uintptr_t>(address)); };
  const auto add_parameter = [&](const Parameter& parameter) {
    add(parameter.value.defined() ? parameter.value.const_data_ptr() : parameter.quantized.get());
  };
  for (const Parameter* parameter : model.parameters()) add_parameter(*parameter);
  for (const LinearModule* module : model.linear_modules()) {
    all.push_back(module->branches.size() << 32 | module->scales.size());
    for (const LoraBranch& branch : module->branches) {
      add_parameter(*branch.a);
      add_parameter(*branch.b);
      all.push_back(std::bit_cast<std::uint64_t>(branch.scale));
    }
    for (const ScaleBranch& branch : module->scales) add_parameter(*branch.scale);
  }
  return all;
}

/// Looks at a number on the device that was there when take() was called, without stopping what came since.
class Glance {
 public:
  explicit Glance(c10::Device device)
      : device_(device),
        seen_(at::empty({1}, at::TensorOptions(at::kInt).pinned_memory(device.is_cuda()))),
        event_(device.type()) {}
  void take(const at::Tensor& number) {
    seen_.copy_(number, /*non_blocking=*/true);
    taken_ = true;
    if (device_.is_cpu()) return;
    const c10::impl::VirtualGuardImpl guard(device_.type());
    event_.record(guard.getStream(device_));
  }
  /// Waits for it. Not taken yet: nothing.
  std::optional<std::int32_t> see() const {
    if (!taken_) return std::nullopt;
    if (!device_.is_cpu()) event_.synchronize();
    return *seen_.const_data_ptr<std::int32_t>();
  }

 private:
  c10::Device device_;
  at::Tensor seen_;
  c10::Event event_;
  bool taken_ = false;
};

}  // namespace

/// A number of rows and a capacity: their caches, and their steps as captured.
struct DeviceSteps::Session {
  Session(LanguageModel& model, std::int64_t rows, std::int64_t capacity)
      : rows(rows),
        capacity(capacity),
        choice(model.device(), rows, capacity, model.vocabulary()),
        prompt_passes(model.device(), {"the prompts' pass"}, kPromptsCapturedFrom) {
    cache.capacity = capacity;
  }

  /// The logits after the prompts, and their cache.
  at::Tensor read(LanguageModel& model, const Prompts& prompts) {
    cache.counted.reset();
    const Batch batch = batch_of(prompts);
    Decoding decoding;
    decoding.cache = &cache;
    // Who generates seldom says how often: where lengths come again, their products' kernels are chosen by time.
    const std::int64_t announced = gpu::RepeatedProducts::current();
    const gpu::RepeatedProducts repeats(announced > 0 ? announced : gpu::RepeatedProducts::kWorthTrying / 2);
    const auto pass = [&](const BatchInputs* there) {
      cache.lengths.assign(prompts.size(), 0);
      decoding.inputs = there;
      return model.next_logits(batch, decoding);
    };
    std::optional<BatchInputs> inputs;
    if (gpu::has_kernels(model.compute_type(), model.device())) inputs = model.inputs(batch, 0);
    at::Tensor logits;
    if (inputs) {
      cache.lengths.assign(prompts.size(), 0);
      inputs->tokens.places = places_of(cache, *inputs->tokens.layout);
      // No prompt reaches the last place of its row, and the token that does is written over what is there.
      inputs->tokens.spare_place = capacity - 1;
      logits = prompt_passes.run(*inputs, [&](const BatchInputs& there) { return pass(&there); });
    } else {
      logits = pass(nullptr);
    }
    counted.lengths = choice.lengths();
    counted.settled = true;
    cache.counted = counted;
    return logits;
  }

  void step(LanguageModel& model) {
    choice.choose(model.step_logits(choice.ids(), cache), /*held=*/true);
    counted = *cache.counted;
  }

  /// Takes steps, at least one: how many.
  std::int64_t take_steps(LanguageModel& model, bool draws) {
    std::optional<CapturedGraph>& graph = draws ? draw_steps : greedy_steps;
    // A profile hears of operations, which a replay does not have.
    const bool may_capture = model.device().is_cuda() && !cannot_capture && CapturedGraph::available() &&
                             ScopeListener::of_thread() == nullptr;
    if (!may_capture) {
      step(model);
      return 1;
    }
    if (graph) {
      graph->replay();
      return kStepsCaptured;
    }
    CapturedGraph::warm_up(model.device(), [&] { step(model); });
    auto captured = CapturedGraph::capture(model.device(), [&] {
      for (std::int64_t i = 0; i < kStepsCaptured; ++i) step(model);
    });
    if (captured) {
      graph = std::move(*captured);
    } else {
      std::fprintf(stderr, "generation goes on step by step: %s\n", captured.error().message.c_str());
      cannot_capture = true;
    }
    return 1;
  }

  const std::int64_t rows, capacity;
  KeyValueCache cache;
  CountedCache counted;  // the same memory in all generations
  TokenChoice choice;
  BatchGraphs prompt_passes;
  std::optional<CapturedGraph> greedy_steps, draw_steps;
  bool cannot_capture = false;
};

DeviceSteps::DeviceSteps(LanguageModel& model) : model_(model) {}
DeviceSteps::~DeviceSteps() = default;

bool DeviceSteps::can_follow(const LanguageModel& model, const GenerationOptions& options) {
  return model.steps() && options.kv_cache && options.num_beams == 1 &&
         (model.device().is_cpu() || cuda_module() != nullptr) && TokenChoice::follows(options, model.vocabulary());
}

DeviceSteps::Session& DeviceSteps::session_for(std::int64_t rows, std::int64_t needed) {
  const std::int64_t capacity = (needed + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
  if (auto addresses = addresses_of(model_); addresses != addresses_) {
    sessions_.clear();
    addresses_ = std::move(addresses);
  }
  const auto fits = [&](const std::unique_ptr<Session>& session) {
    return session->rows >= rows && session->rows <= 2 * rows && session->capacity >= capacity &&
           session->capacity <= 2 * capacity;
  };
  const auto found = std::find_if(sessions_.begin(), sessions_.end(), fits);
  if (found != sessions_.end()) {
    std::rotate(found, found + 1, sessions_.end());
  } else {
    if (sessions_.size() == kMostSessions) sessions_.erase(sessions_.begin());
    sessions_.push_back(std::make_unique<Session>(model_, rows, capacity));
  }
  return *sessions_.back();
}

std::optional<std::vector<std::vector<Generated>>> DeviceSteps::generate(const Prompts& prompts,
                                                                         const GenerationOptions& options,
                                                                         const std::function<bool()>& go_on) {
  const at::NoGradGuard no_graph;
  const auto may_go_on = [&](std::int64_t steps) {
    for (std::int64_t i = 0; i < steps; ++i) {
      if (go_on && !go_on()) return false;
    }
    return true;
  };
  std::vector<std::int64_t> lengths;
  for (const auto& prompt : prompts) lengths.push_back(static_cast<std::int64_t>(prompt.size()));
  const std::int64_t rows = static_cast<std::int64_t>(prompts.size());
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  if (!may_go_on(1)) return std::nullopt;
  const std::int64_t positions = model_.positions().value_or(std::numeric_limits<std::int64_t>::max());
  Session& session = session_for(rows, std::min(longest + options.max_new_tokens, positions));
  session.choice.begin(lengths, options, positions);
  session.choice.choose(session.read(model_, prompts), /*held=*/false);

  Glance glances[] = {Glance(model_.device()), Glance(model_.device())};
  std::int64_t done = 1;
  for (std::int64_t look = 0; done < options.max_new_tokens; ++look) {
    glances[look % 2].take(session.choice.remaining());
    // What was so when the steps before this look were given.
    if (const auto remaining = glances[(look + 1) % 2].see(); remaining && *remaining == 0) break;
    for (std::int64_t ahead = 0; ahead < kStepsAhead && done < options.max_new_tokens;) {
      const std::int64_t taken = session.take_steps(model_, options.do_sample);
      if (!may_go_on(std::min(taken, options.max_new_tokens - done))) return std::nullopt;
      ahead += taken;
      done += taken;
    }
  }
  return session.choice.answers(rows);
}

}  // namespace finesweep::worker
