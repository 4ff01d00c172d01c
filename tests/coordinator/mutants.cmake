# cmake -DMUTANT=name -DSOURCES=coordinator -DOUT=folder -P mutants.cmake: copies of the reactor's sources with one bug
# planted, for the simulation to find. The shipped reactor has no hook for them.
#
# A replacement that finds nothing fails the build: then the source has changed, and the bug must be planted anew.
function(plant file from to)
  set(source ${OUT}/${file})
  if(NOT EXISTS ${source})
    set(source ${SOURCES}/${file})
  endif()
  file(READ ${source} text)
  string(FIND "${text}" "${from}" first)
  string(FIND "${text}" "${from}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "mutants.cmake plants '${MUTANT}' in ${file} where this stands exactly once:\n${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  file(WRITE ${OUT}/${file} "${text}")
endfunction()

file(REMOVE ${OUT}/reactor.cc ${OUT}/reactor_state.cc)

if(MUTANT STREQUAL "accepts_older_attempts")
  # Fencing is gone: neither the attempt's number nor who brings the result matters.
  plant(reactor.cc
    [==[const bool newest = job >= 0 && event.attempt.number == jobs[job].attempts;]==]
    [==[const bool newest = job >= 0;]==])
  plant(reactor.cc
    [==[held->second.worker != number) {
      effects.emplace_back(SendAcknowledge{]==]
    [==[false) {
      effects.emplace_back(SendAcknowledge{]==])
elseif(MUTANT STREQUAL "forgets_lost_attempts")
  # What a worker held when its lease ran out is never run again.
  plant(reactor_state.cc
    [==[go_on_after_loss(job, begun[i]);]==]
    [==[if (reason == "the worker stopped answering") {
      jobs.set_phase(job, JobPhase::waiting);
    } else {
      go_on_after_loss(job, begun[i]);
    }]==])
elseif(MUTANT STREQUAL "acknowledges_too_early")
  # A result is acknowledged when it arrives, not when it is durable.
  plant(reactor.cc
    [==[effects.emplace_back(Publish{event.attempt, outcome});
          return;]==]
    [==[effects.emplace_back(Publish{event.attempt, outcome});
          break;]==])
elseif(MUTANT STREQUAL "takes_silence_for_an_end")
  # A heartbeat that does not name a revoked attempt counts as its end, though it may have been sent before the worker
  # had heard of the attempt.
  plant(reactor.cc
    [==[if (worker.leaving_since && !stopping && !ended]==]
    [==[for (auto next = worker.unconfirmed.begin(); next != worker.unconfirmed.end();) {
      const AttemptKey revoked = (next++)->first;
      if (std::none_of(event.held.begin(), event.held.end(),
                       [&](const auto& held) { return held.first == revoked; }))
        confirm(number, revoked);
    }
    if (worker.leaving_since && !stopping && !ended]==])
elseif(MUTANT STREQUAL "forgets_who_joined")
  # What joined a pack that runs counts as a pack of its own.
  plant(reactor.cc
    [==[!policy.join(job, member, now)) continue;]==]
    [==[member >= 0) continue;]==])
else()
  message(FATAL_ERROR "no mutant '${MUTANT}'")
endif()

foreach(file reactor.cc reactor_state.cc)
  if(NOT EXISTS ${OUT}/${file})
    file(COPY_FILE ${SOURCES}/${file} ${OUT}/${file})
  endif()
endforeach()
