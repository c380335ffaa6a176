#!/usr/bin/env bash
# Fuzz the scheduler under ASan and UBSan, then in parallel threads under TSan:
# bash tests/fuzz.sh [SECONDS of each [SEED]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../csrc"

seconds=${1:-5}
seed=${2:-1}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

fuzz() {
    local sanitizers=$1 threads=$2
    "${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Werror -pthread -fno-omit-frame-pointer \
        "-fsanitize=$sanitizers" -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS \
        -o "$build/fuzz" -I. checks/fuzz.cpp scheduling/*.cpp
    printf -- '-- %s, %d threads\n' "$sanitizers" "$threads"
    TSAN_OPTIONS=halt_on_error=1 "$build/fuzz" "$seconds" "$seed" "$threads"
}

fuzz address,undefined 1
fuzz thread 4
