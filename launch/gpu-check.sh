#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has one: builds, runs the tests of devices with what
# would be skipped as failures, the compute sanitizer on the small ones, and the benchmarks whose
# figures have targets. Prints a short table at the end; under 8 minutes. A figure that misses its
# target is told and fails nothing; a wrong result does. Without a GPU it says so and ends with 77.
# Needs nvcc, cmake and what zopt is built with (launch/pack-deps.sh), but no network.
#
# usage: launch/gpu-check.sh [BUILD_DIR]      (default: build/gpu)
#        launch/gpu-check.sh --dry-run BUILD_DIR      with every GPU hidden: the arguments of all
#                                                     benchmarks are understood, up to the device
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
is_dry=0
if [ "${1-}" = --dry-run ]; then
    is_dry=1
    export CUDA_VISIBLE_DEVICES=
    shift
fi
build=$(mkdir -p "${1:-$root/build/gpu}" && cd "${1:-$root/build/gpu}" && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

if [ "$is_dry" = 0 ] && ! nvidia-smi -L >/dev/null 2>&1 &&
    ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    echo "gpu-check: no GPU on this machine: nothing was checked"
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$build/gpu-check.log
: >"$log"
steps=()
figures=()
failed=0

# step NAME COMMAND...: its output goes to the log; the table gets a line with its last one.
step() {
    local name=$1 begin=$SECONDS out code=0
    shift
    echo "== $name"
    out=$("$@" 2>&1) || code=$?
    printf '== %s: %s\n%s\n' "$name" "$*" "$out" >>"$log"
    [ "$code" = 0 ] || failed=1
    [ "$code" = 0 ] || tail -n 30 <<<"$out"
    steps+=("$(printf '%-34s %-8s %4ds  %s' "$name" \
        "$([ "$code" = 0 ] && echo ok || echo "FAIL $code")" $((SECONDS - begin)) \
        "$(grep . <<<"$out" | tail -n 1)")")
    return "$code"
}

# measure COMMAND...: a benchmark with one row, whose numbers `figure` reads.
measure() {
    local code=0
    echo "== $*"
    "$@" --json >"$work/json" 2>"$work/err" || code=$?
    { printf '== %s\n' "$*" && cat "$work/json" "$work/err"; } >>"$log"
    if [ "$is_dry" = 1 ]; then
        [ "$code" = 78 ] && grep -q "device 'cuda'" "$work/err" && return
        echo "FAIL: exit code $code: $(tail -n 1 "$work/err")"
        failed=1
    elif [ "$code" != 0 ]; then
        figures+=("FAIL $code: $*: $(tail -n 1 "$work/err")")
        failed=1
        : >"$work/json"
    fi
}

# figure NAME KEY [TARGET]: a number of the last measurement; TARGET as ">= 0.92".
figure() {
    local got verdict=""
    got=$(sed -n "s/.*\"$2\": \([0-9.]*\)[,}].*/\1/p" "$work/json")
    [ -n "$got" ] || return 0
    if [ -n "${3-}" ]; then
        verdict=$(awk "BEGIN { print ($got $3) ? \"met\" : \"MISSED\" }")
    fi
    figures+=("$(printf '%-58s %9s  %-8s %s' "$1" "$got" "${3-}" "$verdict")")
}

path_of_step() {
    figures+=("    $(sed -n 's/.*"path": "\([^"]*\)".*/\1/p' "$work/json")")
}

# shellcheck disable=SC2317 # called by step
run_tests() {
    (cd "$build" && ZOPT_REQUIRE_GPU=1 ctest -L gpu --output-on-failure) |
        tee "$work/tests"
    local code=${PIPESTATUS[0]}
    echo "$(grep -c ' Passed ' "$work/tests") passed, $(grep -ci 'skip' "$work/tests") skipped"
    return "$code"
}

# shellcheck disable=SC2317
sanitize() { # TOOL COMMAND...
    CK_FORK=no compute-sanitizer --tool "$1" --error-exitcode 1 "${@:2}"
}

sanitize_all() {
    local tool
    if ! command -v compute-sanitizer >/dev/null; then
        steps+=("compute-sanitizer                  SKIP: not installed")
        return
    fi
    for tool in memcheck racecheck; do
        step "$tool, kernels" sanitize $tool "$build/test_device_kernels"
        step "$tool, 2 threads" sanitize $tool "$build/zopt" bench step --device cuda \
            --threads 2 --params 100000
    done
    step "memcheck, threads" env CK_RUN_CASE=threads CK_FORK=no compute-sanitizer \
        --tool memcheck --error-exitcode 1 "$build/test_devices"
}

measure_all() {
    local bench=("$build/zopt" bench) step=("$build/zopt" bench step --device cuda --norm on)
    local ranks=(mpirun -n)
    measure "${bench[@]}" adam --device cuda --params 1e9
    figure "AdamW kernel, 1e9 parameters, of copy" of_copy ">= 0.92"
    measure "${bench[@]}" adam --device cuda --params 5e8 --optimizer adamw8bit
    figure "8-bit AdamW kernel, 5e8, of copy" of_copy ">= 0.70"
    measure "${bench[@]}" norm --device cuda --params 5e8
    figure "norm kernel, 5e8, of copy" of_copy
    measure "${bench[@]}" accumulate --device cuda --params 5e8
    figure "accumulate kernel, 5e8, of copy" of_copy

    measure "${step[@]}" --transport self --params 1e7 --tensors 148
    figure "step, 1e7 in 148 tensors, graph x faster than none" x_graph ">= 2"
    figure "    ms" time_ms
    figure "    ms that zopt_step holds the host up" call_ms
    path_of_step
    measure "${step[@]}" --transport self --params 268435456
    figure "step, 256Mi, 1 rank, x limit" x_limit
    measure "${step[@]}" --transport self --params 67108864 --optimizer adafactor
    figure "step, Adafactor, 64Mi, x limit" x_limit
    path_of_step
    measure "${ranks[@]}" 1 "${step[@]}" --transport nccl --params 67108864
    figure "step, 64Mi, nccl, 1 rank, x limit" x_limit
    path_of_step
    measure "${ranks[@]}" 2 "${step[@]}" --transport ipc --params 268435456
    figure "step, 256Mi, ipc, 2 ranks on one GPU, x limit" x_limit "<= 1.25"
    path_of_step
    measure "${ranks[@]}" 4 "${step[@]}" --transport ipc --params 67108864
    figure "step, 64Mi, ipc, 4 ranks on one GPU, x limit" x_limit
    measure "${step[@]}" --threads 2 --params 67108864
    figure "step, 64Mi, threads, 2 ranks on one GPU, x limit" x_limit
    measure "${ranks[@]}" 2 "${step[@]}" --transport mpi --params 67108864
    figure "step, 64Mi, mpi, 2 ranks on one GPU, x limit" x_limit
    measure "${ranks[@]}" 2 "${bench[@]}" comm --device cuda --transport ipc --params 67108864
    figure "comm, 64Mi, ipc, 2 ranks on one GPU, x limit" x_limit
}

measure_torch() {
    local got
    got=$(python3 "$root/tests/bench_adamw_torch.py" --zopt "$build/zopt" 2>>"$log")
    case $? in
    0) figures+=("$(printf '%-58s %9s  %-8s %s' "AdamW kernel x faster than PyTorch's fused and casts" \
        "$got" ">= 1.3" "$(awk "BEGIN { print ($got >= 1.3) ? \"met\" : \"MISSED\" }")")") ;;
    77) figures+=("SKIP: PyTorch's fused AdamW: $got") ;;
    *) failed=1 && figures+=("FAIL: tests/bench_adamw_torch.py") ;;
    esac
}

if [ "$is_dry" = 1 ]; then
    measure_all
    [ "$failed" = 1 ] || echo "every benchmark's arguments are understood"
    exit "$failed"
fi

step configure cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DZOPT_CUDA=ON \
    -DZOPT_TESTS=ON &&
    step build cmake --build "$build" --parallel "$(nproc)" &&
    step doctor "$build/zopt" doctor &&
    step "tests: GPU bits are the CPU's" run_tests
if [ -x "$build/zopt" ]; then
    sanitize_all
    measure_all
    measure_torch
fi

echo
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
printf '%s\n' "${steps[@]}"
printf '\n%-58s %9s  %-8s\n' "figure" "got" "target"
printf '%s\n' "${figures[@]}"
echo "$SECONDS s; all output: $log"
exit "$failed"
