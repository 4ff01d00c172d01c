# Sourced by the scripts beside it: where things are, how they speak, how one preset is built.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# What is large and the same for every clone lives here once: libtorch, the pretrained model.
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/finesweep
torch_version=2.11.0
cores=$(nproc)

# Objects compiled in one clone serve another one: ccache sees paths relative to the clone.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros

say() { printf '%s\n' "finesweep: $*" >&2; }
die() { printf '%s\n' "finesweep: error: $1" "${@:2}" >&2; exit 1; }

# The first comment block of the calling script is its help.
help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# The folder that holds libtorch's include/ and lib/, or nothing.
libtorch() {
  if [ -n "${FINESWEEP_LIBTORCH:-}" ]; then
    readlink -f "$FINESWEEP_LIBTORCH"
  else
    compgen -G "$root/.venv/lib/python3*/site-packages/torch" | head -1 | xargs -r readlink -f
  fi
}

# A compiler that includes libtorch takes up to 2 GB.
build_jobs() {
  local by_memory
  by_memory=$(awk '/^MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo)
  [ "$by_memory" -lt 1 ] && by_memory=1
  echo $((by_memory < cores ? by_memory : cores))
}

# ThreadSanitizer of GCC 12 and 13 cannot run where the kernel randomises addresses over more than 28 bits.
run_preset() {
  local preset=$1
  shift
  if [ "$preset" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)" -gt 28 ]; then
    setarch "$(uname -m)" --addr-no-randomize "$@"
  else
    "$@"
  fi
}

# build_preset PRESET TARGET...: configures where needed, then builds the targets in build/PRESET.
build_preset() {
  local preset=$1 folder=$root/build/$1 configure=()
  shift
  [ -n "${FINESWEEP_LIBTORCH:-}" ] && configure+=("-DFINESWEEP_LIBTORCH=$(libtorch)")
  if [ ! -f "$folder/build.ninja" ] || uses_other_libtorch "$folder"; then
    (cd "$root" && cmake --preset "$preset" ${configure[@]+"${configure[@]}"}) ||
      die "configuring the preset '$preset' failed (see above)"
  fi
  run_preset "$preset" cmake --build "$folder" --parallel "$(build_jobs)" --target "$@" ||
    die "building the preset '$preset' failed (see above)"
}

# True where the folder was configured with an engine and with a libtorch that is not today's.
uses_other_libtorch() {
  grep -q '^FINESWEEP_ENGINE:BOOL=ON' "$1/CMakeCache.txt" && ! grep -qF "$(libtorch)/lib/libtorch_cpu.so" "$1/build.ninja"
}
