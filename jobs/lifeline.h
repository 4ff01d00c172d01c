#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "jobs/result.h"

namespace finesweep {

/// First act of every process of ours that has a parent of ours (Linux): asks the kernel for SIGKILL when the
/// parent ends, then, if `parent` is given and is no longer our parent, exits at once. So nothing outlives a sweep,
/// whatever is killed. The kernel watches the parent's *thread* that started us: parents spawn from their main
/// thread only.
void end_with_parent(pid_t parent);

/// The pid in environment variable FINESWEEP_PARENT, 0 where there is none. It is set by spawn_with_lifeline.
pid_t announced_parent();

/// Becomes `command` (execvp) in this very process after end_with_parent(parent), and announces this pid as the
/// parent of what the command starts. Returns only on failure.
Error exec_with_lifeline(pid_t parent, const std::vector<std::string>& command);

}  // namespace finesweep
