#!/usr/bin/env bash
# A short `zopt train` on 1, 2 and 3 ranks ends well: for builds with a sanitizer, which report on
# stderr and make the run fail, and for valgrind (on 2 ranks) in a plain build.
#
# usage: tests/test_short_train.sh BUILD_DIR [valgrind]
set -euo pipefail

build=$(cd "$1" && pwd)
tool=${2-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export UBSAN_OPTIONS=print_stacktrace=1

# A text of its own, so that no download is needed: four letters in an order that can be learned.
awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%s", i % 7 < 4 ? "abac " : "dabd\n" }' \
    >"$work/text"

ranks=(1 2 3)
prefix=()
if [ "$tool" = valgrind ]; then
    if ! command -v valgrind >/dev/null; then
        echo "SKIP: valgrind is not installed"
        exit 77
    fi
    ranks=(2)
    prefix=(valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite
        --errors-for-leak-kinds=definite "--suppressions=$root/tests/openmpi.valgrind.supp"
        --suppressions=/usr/share/openmpi/openmpi-valgrind.supp)
    # Kernels that valgrind cannot decode are not chosen: it does not know AVX-512.
    export ZOPT_CPU_KERNELS=avx2 OPENBLAS_CORETYPE=Haswell
    grep -qw avx2 /proc/cpuinfo || export ZOPT_CPU_KERNELS=portable OPENBLAS_CORETYPE=Nehalem
fi

for n in "${ranks[@]}"; do
    # One rank starts no MPI. Open MPI leaks from components that it unloads, which no suppression
    # can name: leaks on more ranks are valgrind's part.
    export ASAN_OPTIONS=detect_leaks=$((n == 1))
    mpirun -n "$n" "${prefix[@]}" "$build/zopt" train "$root/configs/gpt-kjv.json" \
        --out "$work/out" --set "data.path=$work/text" --set train_steps=4 --set model.n_layer=1 \
        --set model.n_ctx=16 --set model.n_embd=16 --set eval.interval=2 --set eval.batches=2 \
        --set sample.length=20 --set zero_optimization.reduce_bucket_size=1000 \
        --set fp16.initial_scale_power=30 >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    grep -q '"skipped":true\|"skipped": true' "$work/out/metrics.jsonl" # the first scale overflows
    [ -s "$work/out/model.safetensors" ]
    echo "$n ranks: $(tail -n 1 "$work/out/metrics.jsonl" | cut -c 1-60)..."
done
