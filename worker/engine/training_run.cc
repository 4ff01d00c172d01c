#include "worker/engine/training_run.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "worker/engine/device.h"
#include "worker/engine/model_artifact.h"
#include "worker/engine/training_state.h"
#include "worker/formats/host_copies.h"

namespace finesweep::worker {
namespace {

/// Caches fill and clocks rise in the first steps: their times are left out.
constexpr std::int64_t untimed_steps = 5;
double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TrainingRun::TrainingRun(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                         ExecutionControl& control, TrainingRecipe& recipe)
    : request_(request),
      context_(context),
      device_(device),
      control_(control),
      recipe_(recipe),
      start_(Clock::now()) {}

Outcome TrainingRun::run() try {
  join();
  if (auto failed = prepare()) return std::move(*failed);
  await_turn();
  if (group_ && group_->word(progress_.steps) != progress_.steps) {
    throw PeerLost("The processes of this job went on from different checkpoints.");
  }
  return train();
} catch (const PeerLost& lost) {
  control_.peer_lost();
  return failed_this_time(lost.what());
}

void TrainingRun::join() {
  if (request_.ranks == 1) return;
  control_.progress({0, 0, "joining", Progress::no_loss});
  std::filesystem::create_directories(request_.staging);
  GroupOptions options;
  options.rank = request_.rank;
  options.size = request_.ranks;
  options.rendezvous = request_.staging / "rendezvous";
  options.device = device_;
  group_ = ProcessGroup::join(options);
}

TrainingRun::Wish TrainingRun::own_wish() {
  if (control_.stop_requested()) return Wish::stop;
  const bool due = seconds_since(last_checkpoint_) >= request_.job.checkpoint_every_s;
  return progress_.steps > 0 && due ? Wish::checkpoint : Wish::none;
}

std::optional<Outcome> TrainingRun::prepare() {
  for (const auto step : {&TrainingRun::load_data, &TrainingRun::load_model, &TrainingRun::restore}) {
    if (Status done = (this->*step)(); !done) return failed_for_good(done.error().message);
  }
  return std::nullopt;
}

std::vector<Batch> TrainingRun::coming_batches() {
  const std::int64_t step = training().steps_done(), per_epoch = plan_->steps_per_epoch();
  std::vector<Batch> batches;
  if (step == total_steps_) return batches;
  for (const auto& rows : plan_->step(step / per_epoch, step % per_epoch)) batches.push_back(train_->batch(rows));
  for (const Batch& batch : batches) {
    if (!loaded_.model->check(batch)) return {};
  }
  return batches;
}

void TrainingRun::rehearse() try { trainer_->rehearse(coming_batches()); } catch (...) {
  // There may be memory for it when it is this job's turn.
  if (!describe_exception().out_of_memory) throw;
  training().zero_grads();
  release_cached_memory(device_);
}

void TrainingRun::await_turn(bool alone) {
  if (alone && !control_.has_turn()) rehearse();
  const auto ready = Clock::now();
  control_.await_turn();
  last_checkpoint_ = last_finished_ = Clock::now();
  start_ += last_finished_ - ready;
}

Outcome TrainingRun::train() {
  while (true) {
    // Who looks at weights waits for the steps that are under way.
    if (is_due()) {
      if (auto failed = finish_steps(0)) return std::move(*failed);
      if (auto ended = rest()) return ended->written();
    }
    const auto batches = next_batches();
    if (!batches) return failed_for_good(batches.error().message);
    if (group_) group_->start_word(leads() ? static_cast<std::int64_t>(own_wish()) : 0);
    if (Status given = trainer_->start(*batches); !given) return failed_for_good(given.error().message);
    // A GPU gets a step before it is done with the last one.
    if (auto failed = finish_steps(device_.is_cpu() ? 0 : 1)) return std::move(*failed);
  }
}

/// The leader reads and tokenises the rows, the others find them in the cache.
Status TrainingRun::load_data() {
  if (group_ && !leads()) group_->word(0);
  const Status loaded = load_rows();
  if (loaded && group_ && leads()) group_->word(0);
  return loaded;
}

Status TrainingRun::load_rows() {
  if (!request_.job.seed) return Error{"The job has no seed; it was not planned by this version of finesweep."};
  control_.progress({0, 0, "loading", Progress::no_loss});

  auto source = recipe_.find_model(request_, context_);
  if (!source) return source.error();
  source_ = std::move(*source);
  recipe_.begin_load(source_, device_);
  auto task = make_job_task(context_, source_, settings().pooling, request_.cache);
  if (!task) return task.error();
  task_ = std::move(*task);
  auto train = task_->read_training(settings().sequence_length);
  if (!train) return train.error();
  train_ = std::move(*train);
  if (!settings().evaluation) return {};
  auto validation = task_->read_evaluation(*settings().evaluation);
  if (!validation) return validation.error();
  validation_ = std::move(*validation);
  return {};
}

Status TrainingRun::load_model() {
  auto loaded = recipe_.load(source_, task_->head(), *request_.job.seed, device_);
  if (!loaded) return loaded.error();
  loaded_ = std::move(*loaded);
  parameters_ = loaded_.trained_parameters();
  auto loss = recipe_.loss(*loaded_.model, *train_, device_);
  if (!loss) return loss.error();
  plan_.emplace(train_->rows(), settings().batch_size, settings().gradient_accumulation, *request_.job.seed);
  total_steps_ = settings().steps ? *settings().steps : *settings().epochs * plan_->steps_per_epoch();
  trainer_.emplace(*loaded_.model, parameters_, settings(), total_steps_, *request_.job.seed, std::move(*loss),
                   loaded_.masks, group_.get());
  return {};
}

Status TrainingRun::restore() {
  const Status restored = restore_training(request_, training(), progress_);
  seconds_before_ = progress_.seconds;
  saved_steps_ = progress_.steps;
  return restored;
}

bool TrainingRun::is_due() {
  const std::int64_t steps = training().steps_done();
  return wish() != Wish::none || steps == total_steps_ || is_evaluated_at(steps);
}

std::optional<Ending> TrainingRun::rest() {
  if (evaluation_is_due()) {
    auto went_on = evaluate_validation();
    if (!went_on) return failed_for_good(went_on.error().message);
    if (!*went_on) return stop();
  }
  if (progress_.steps == total_steps_) return finish();
  const Wish now = wish();
  if (now == Wish::stop) return stop();
  if (now == Wish::checkpoint) {
    if (Status written = checkpoint(); !written) return failed_this_time(written.error().message);
  }
  return std::nullopt;
}

Result<std::vector<Batch>> TrainingRun::next_batches() {
  BegunStep begun{Clock::now()};
  const std::int64_t per_epoch = plan_->steps_per_epoch(), at = training().steps_done();
  std::vector<Batch> batches;
  for (const auto& batch_rows : plan_->step(at / per_epoch, at % per_epoch)) {
    batches.push_back(train_->batch(batch_rows));
    begun.rows += static_cast<std::int64_t>(batch_rows.size());
    for (const std::int64_t row : batch_rows) begun.tokens += train_->tokens_in_row(row);
  }
  begun.batches = static_cast<std::int64_t>(batches.size());
  begun_.push_back(begun);
  return batches;
}

std::optional<Outcome> TrainingRun::finish_steps(std::int64_t most) {
  while (trainer_->unfinished() > most) {
    const StepReport report = trainer_->finish();
    if (group_) agreed_ = static_cast<Wish>(group_->finish_word());
    if (auto failed = step_ended(report)) return failed;
  }
  return std::nullopt;
}

std::optional<Outcome> TrainingRun::step_ended(const StepReport& report) {
  if (!report.finite) return failed_for_good(not_finite(report));
  const BegunStep step = begun_.front();
  begun_.pop_front();
  const auto begin = std::max(step.begin, last_finished_);
  last_finished_ = Clock::now();
  if (++steps_here_ > untimed_steps) {
    const double seconds = std::chrono::duration<double>(last_finished_ - begin).count();
    progress_.add_step_time(seconds, step.batches, step.rows, step.tokens);
  }
  ++progress_.steps;
  const bool epoch_ends = progress_.steps % plan_->steps_per_epoch() == 0 || progress_.steps == total_steps_;
  if (const auto mean = progress_.add_step_loss(report.loss, epoch_ends)) add_history("loss", *mean);
  report_progress("training", report.loss, 0);
  return std::nullopt;
}

void TrainingRun::join_pack(std::int64_t jobs) {
  progress_.pack = std::max(progress_.pack, jobs);
}

Status TrainingRun::save() {
  const bool whole = progress_.steps == training().steps_done();
  return whole && progress_.steps > saved_steps_ ? checkpoint() : Status();
}

std::string TrainingRun::not_finite(const StepReport& report) const {
  char numbers[160];
  std::snprintf(numbers, sizeof numbers, "step %lld of %lld (loss %g, gradient norm %g, learning rate %g)",
                static_cast<long long>(progress_.steps + 1), static_cast<long long>(total_steps_), report.loss,
                report.grad_norm, report.learning_rate);
  return std::string("The training diverged: the loss or its gradient is not a finite number at ") + numbers +
         ". Lower the learning rate, warm up longer, clip gradients (max_grad_norm), or train in " +
         (settings().precision == Precision::fp16 ? "bf16 or fp32." : "fp32.");
}

bool TrainingRun::is_evaluated_at(std::int64_t steps) const {
  if (!validation_ || steps == 0) return false;
  if (settings().evaluate_every_steps) return steps % *settings().evaluate_every_steps == 0;
  return steps % plan_->steps_per_epoch() == 0 || steps == total_steps_;
}

bool TrainingRun::evaluation_is_due() const {
  return is_evaluated_at(progress_.steps) && progress_.evaluated_at != progress_.steps;
}

/// False where it was stopped: it is done again when the training goes on.
Result<bool> TrainingRun::evaluate_validation() {
  if (!group_) return evaluate_here();
  if (!leads()) {
    progress_.evaluated_at = progress_.steps;
    return group_->word(0) != 0;
  }
  const auto went_on = evaluate_here();
  if (went_on) group_->word(*went_on ? 1 : 0);
  return went_on;
}

Result<bool> TrainingRun::evaluate_here() {
  if (!forward_) forward_.emplace(*loaded_.model);
  EvaluationRun run{*settings().evaluation, *request_.job.seed, {}, {}, &*forward_};
  run.go_on = [&](std::int64_t done) {
    report_progress("evaluating", Progress::no_loss, done);
    return !control_.stop_requested();
  };
  const auto metrics = validation_->evaluate(*loaded_.model, run);
  if (!metrics) return metrics.error();
  if (!*metrics) return false;
  evaluation_units_ += validation_->evaluation_units(*settings().evaluation);
  for (const auto& [name, value] : **metrics) add_history("validation_" + name, value);
  progress_.validation_loss = (*metrics)->at("loss");
  progress_.evaluated_at = progress_.steps;
  return true;
}

void TrainingRun::add_history(const std::string& metric, double value) {
  const double epoch = static_cast<double>(progress_.steps) / static_cast<double>(plan_->steps_per_epoch());
  progress_.history.push_back({epoch, progress_.steps, metric, value});
}

/// Units of evaluations count as steps do, so that `done` rises while they go on. `evaluated`: of the one under
/// way.
void TrainingRun::report_progress(const std::string& phase, double loss, std::int64_t evaluated) {
  std::int64_t units = 0;
  if (validation_) {
    const std::int64_t every = settings().evaluate_every_steps.value_or(plan_->steps_per_epoch());
    units = total_steps_ / every * validation_->evaluation_units(*settings().evaluation);
  }
  const std::int64_t done = progress_.steps + evaluation_units_ + evaluated;
  control_.progress({done, std::max(done, total_steps_ + units), phase, loss});
}

void TrainingRun::take_measures() {
  progress_.seconds = seconds_before_ + seconds_since(start_);
  progress_.peak_memory_mb = std::max(progress_.peak_memory_mb, peak_memory_mb(device_));
}

Status TrainingRun::checkpoint() {
  agreed_ = Wish::none;
  trainer_->make_whole();
  if (leads()) {
    if (Status written = write_checkpoint(); !written) return written;
  }
  if (group_) group_->word(0);  // the others wait until it is written
  return {};
}

Status TrainingRun::write_checkpoint() {
  take_measures();
  const Status status = write_training_checkpoint(request_, training(), progress_);
  last_checkpoint_ = Clock::now();
  if (status) saved_steps_ = progress_.steps;
  return status;
}

Outcome TrainingRun::stop() {
  trainer_->make_whole();
  if (progress_.steps > 0 && leads()) {
    if (Status written = write_checkpoint(); !written) return failed_this_time(written.error().message);
  }
  Outcome outcome;
  outcome.kind = OutcomeKind::interrupted;
  return outcome;
}

Ending TrainingRun::finish() {
  take_measures();
  trainer_->make_whole();
  if (!group_) control_.computed();
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  if (group_) progress_.peak_memory_mb = group_->greatest(progress_.peak_memory_mb);
  if (!leads()) return outcome;
  outcome.has_artifact = true;
  outcome.history = progress_.history;
  outcome.environment = job_environment(request_);
  if (progress_.pack > 0) outcome.environment["pack"] = progress_.pack;
  outcome.metrics = progress_.metrics();
  outcome.metrics["trainable_parameters"] = static_cast<double>(count_values(parameters_));
  report_progress("saving", Progress::no_loss, 0);
  Ending ending = outcome;
  ending.write = artifact_writer(outcome);
  return ending;
}

std::function<Status()> TrainingRun::artifact_writer(const Outcome& outcome) {
  ModelManifest description = describe_model(loaded_, source_, task_->head(), context_, recipe_.method());
  std::function<Status()> write_training;
  if (request_.job.keep_training_state) {
    description.training = to_json(progress_);
    auto state = training().state();
    if (loaded_.adapter) state = copies_on_host(state);
    write_training = [this, state = std::move(state)] {
      return write_training_tensors(state, request_.staging / "artifact" / "training");
    };
  }
  return [write_training = std::move(write_training),
          write_model =
              model_artifact_writer(request_, loaded_, source_, std::move(description), outcome)]() -> Status {
    if (write_training) {
      if (Status written = write_training(); !written) return written;
    }
    return write_model();
  };
}

Outcome Ending::written() try {
  if (!write) return std::move(outcome);
  if (Status done = write(); !done) return failed_this_time(done.error().message);
  return std::move(outcome);
} catch (...) {
  return describe_exception().outcome;
}

}  // namespace finesweep::worker
