#pragma once

#include <string>

namespace finesweep::worker {

/// Tells the C library to keep freed memory for the next allocation, for the whole process. A training step frees
/// and allocates the same megabytes again and again; given back to the system in between, every page of them would
/// be cleared and mapped anew, which costs some 5 % of a step on a CPU. Call once, before the first model is
/// loaded.
void keep_freed_memory();

/// Whether an exception of libtorch says, in these words, that the host has no memory left: its allocator for the
/// CPU throws no std::bad_alloc.
bool tells_of_no_memory(const std::string& words);

}  // namespace finesweep::worker
