#!/usr/bin/env bash
# Measures the shapes of an 8B model on one GPU, in nine minutes at most: bash benchmarks/run_gpu.sh
#   --smoke               tiny shapes, on a CPU too: shows that everything runs
#   OUT=folder            where <device>.json goes, by default benchmarks/results
#   GREATER_FAST_MODEL=…  a folder or GGUF file, whose texts on GPU and CPU are compared
# It needs Python with its headers, torch, triton, transformers and numpy, and a C++ compiler; no
# network.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
smoke=${1:-}
if [[ -n $smoke && $smoke != --smoke ]]; then
    echo "got $smoke, expected --smoke or nothing" >&2
    exit 2
fi
if [[ $smoke == --smoke ]]; then OUT=${OUT:-$(mktemp -d)}; fi
OUT=${OUT:-benchmarks/results}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
lines=()

# An extension of other sources would be measured as these: git changes them, and it stays.
built_of=build/run_gpu.sources
sources() { cat csrc/*/*.cpp csrc/*/*.h setup.py | cksum; }
is_built() { "$PYTHON" -c 'import greater_fast._core' 2>/dev/null; }
is_of_sources() { [[ -f $built_of && $(<"$built_of") == "$(sources)" ]] && is_built; }

# With the tools of pyproject.toml, or with what every machine that has torch and a compiler has.
build() {
    "$PYTHON" setup.py --quiet build_ext --inplace 2>/dev/null && is_built && return
    local suffix include
    suffix=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    include=$("$PYTHON" -c 'import os, sysconfig, torch
print("-I" + sysconfig.get_path("include"), "-I" + os.path.dirname(torch.__file__) + "/include")')
    local sources=()
    for file in csrc/{scheduling,math,attention,bindings}/*.cpp; do sources+=("$file"); done
    # shellcheck disable=SC2086
    c++ -std=c++17 -O3 -ffp-contract=fast -fPIC -fvisibility=hidden -fopenmp -shared -Icsrc $include \
        "${sources[@]}" -o "greater_fast/_core$suffix" && is_built
}

part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) log status line
    if ((left < 10)); then
        lines+=("$name: not run, the time is up")
        return
    fi
    log=$(mktemp)
    timeout -k 5 "$((left < limit ? left : limit))" \
        "$PYTHON" -m benchmarks.gpu.main "$name" --out "$OUT" $smoke >"$log" 2>&1
    status=$?
    line=$(grep "^$name: " "$log" | tail -1)
    if ((status)) || [[ -z $line ]]; then
        line="$name: FAILED ($status) $(tail -1 "$log")"
        tail -40 "$log" >&2
    fi
    lines+=("$line")
    printf '%s\n' "$line" >&2
    rm -f "$log"
}

if [[ -z $smoke ]] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo 'there is no GPU here: --smoke shows on a CPU that everything runs' >&2
    exit 2
fi
end=$((SECONDS + 520))
is_of_sources || build || { echo 'the C++ extension could not be built' >&2; exit 1; }
mkdir -p build && sources >"$built_of"
part kernels 120
part rollouts 120
part step 90
part capped 90
part reference 150
part texts 60
printf '%s\n' "${lines[@]}"
printf '%s\n' "${lines[@]}" | grep -q ': FAILED' && exit 1
printf '%s\n' "${lines[@]}" | grep -q 'the time is up' && exit 3
exit 0
