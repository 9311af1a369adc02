# SPDX-License-Identifier: MIT
# What the scripts of this project share; to be sourced. `root` is the source tree.
# shellcheck shell=bash

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

say() { # one line about what happens now, on stderr
  printf '== %s\n' "$*" >&2
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# configure FOLDER [cmake options]: prepares a build folder, a release unless the options say otherwise.
configure() {
  local folder=$1
  shift
  local -a options=(-DCMAKE_BUILD_TYPE=Release)
  if command -v ccache >/dev/null; then
    options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  fi
  mkdir -p "$folder"
  if ! cmake -S "$root" -B "$folder" -G Ninja "${options[@]}" "$@" >"$folder/configure.log" 2>&1; then
    cat "$folder/configure.log" >&2
    return 1
  fi
}

# build FOLDER [targets]: builds quietly; what the compiler says is shown when it fails.
build() {
  local folder=$1
  shift
  if ! ninja -C "$folder" -k 0 "$@" >"$folder/build.log" 2>&1; then
    grep -v '^\[' "$folder/build.log" | tail -n 100 >&2
    return 1
  fi
}

# sanitizer_options asan|tsan: the cmake options of a sanitizer build, one a line.
sanitizer_options() {
  printf '%s\n' -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++-19
  case $1 in
    asan) printf '%s\n' -DLBD_SANITIZE=address,undefined,fuzzer-no-link -DLBD_LIBFUZZER=ON ;;
    tsan) printf '%s\n' -DLBD_SANITIZE=thread ;;
    *) fail "no sanitizer build is called $1" ;;
  esac
}
