#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has one: builds, runs the tests of devices with what
# would be skipped as failures, the compute sanitizer on the small ones, and the kernels against the
# memory's speed. Prints a short table at the end; under 8 minutes. Without a GPU it says so and ends
# with 77. Needs nvcc, cmake and what zopt is built with (launch/pack-deps.sh), but no network.
#
# usage: launch/gpu-check.sh [BUILD_DIR]      (default: build/gpu)
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/gpu}
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

if ! nvidia-smi -L >/dev/null 2>&1 && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    echo "gpu-check: no GPU on this machine: nothing was checked"
    exit 77
fi

mkdir -p "$build"
log=$build/gpu-check.log
: >"$log"
table=()
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
    table+=("$(printf '%-28s %-6s %4ds  %s' "$name" \
        "$([ "$code" = 0 ] && echo ok || echo "FAIL $code")" $((SECONDS - begin)) \
        "$(grep . <<<"$out" | tail -n 1)")")
    return "$code"
}

# shellcheck disable=SC2317 # called by step
run_tests() {
    (cd "$build" && ZOPT_REQUIRE_GPU=1 ctest -L gpu --output-on-failure)
}

# shellcheck disable=SC2317
sanitize() { # TOOL TEST
    CK_FORK=no compute-sanitizer --tool "$1" --error-exitcode 1 "$build/$2"
}

# shellcheck disable=SC2317
sanitize_ranks() { # TOOL: 2 ranks of one process
    compute-sanitizer --tool "$1" --error-exitcode 1 "$build/zopt" bench step --device cuda \
        --threads 2 --params 100000
}

step configure cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DZOPT_CUDA=ON \
    -DZOPT_TESTS=ON &&
    step build cmake --build "$build" --parallel "$(nproc)" &&
    step doctor "$build/zopt" doctor &&
    step tests run_tests
if [ "$failed" = 0 ]; then
    if command -v compute-sanitizer >/dev/null; then
        step memcheck sanitize memcheck test_device_kernels
        step racecheck sanitize racecheck test_device_kernels
        step "memcheck, threads" env CK_RUN_CASE=threads CK_FORK=no compute-sanitizer \
            --tool memcheck --error-exitcode 1 "$build/test_devices"
        step "memcheck, 2 ranks" sanitize_ranks memcheck
        step "racecheck, 2 ranks" sanitize_ranks racecheck
    else
        table+=("compute-sanitizer            SKIP: not installed")
    fi
    step "speed of kernels" "$build/bench_device" cuda && bench=$(tail -n 6 "$log")
    step "bench adam" "$build/zopt" bench adam --device cuda --params 1e9
    step "bench step" "$build/zopt" bench step --device cuda --norm on
    step "bench step, 2 threads" "$build/zopt" bench step --device cuda --norm on --threads 2
    step "bench comm, 2 threads" "$build/zopt" bench comm --device cuda --threads 2
fi

echo
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
printf '%s\n' "${table[@]}"
[ -z "${bench-}" ] || printf '%s\n' "$bench"
echo "all output: $log"
exit "$failed"
