#pragma once

#include <dlfcn.h>

namespace finesweep::worker {

/// Opens a library of ours that lies in the folder of the program, in ../lib beside it, or in the bundle's lib for
/// its test programs. Null where it is in none of them; why one that is there cannot be loaded is said on stderr.
void* open_beside_program(const char* file);

/// False where the library has no such function.
template <typename Function>
bool find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace finesweep::worker
