#!/usr/bin/env bash
# Builds the library and the fuzzers of tests/fuzz with clang and the address and undefined
# sanitizers, and runs each for a few seconds from its corpus. What a fuzzer finds is left in the
# build folder, and the command that repeats it is printed.
#
# usage: tests/test_fuzz.sh BUILD_DIR [SECONDS_EACH [FUZZER]...]
set -euo pipefail

build=$(mkdir -p "$1/fuzz" && cd "$1/fuzz" && pwd)
seconds=${2-5}
shift $(($# < 2 ? $# : 2))
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fuzzers=("$@")
[ $# -gt 0 ] || fuzzers=(header index latest runfile)

compiler=$(command -v clang-14 || command -v clang || true)
sanitize=-fsanitize=fuzzer-no-link,address,undefined
probe='int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n > 8 && d[n - 1]; }'
if [ -z "$compiler" ] || ! echo "$probe" |
    "$compiler" -fsanitize=fuzzer,address -x c - -o "$build/probe" 2>/dev/null; then
    echo "SKIP: no clang with libFuzzer (Debian: apt-get install clang)"
    exit 77
fi

cmake -S "$root" -B "$build" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DZOPT_CUDA=OFF \
    -DCMAKE_C_FLAGS="$sanitize -fno-sanitize-recover=all -fno-omit-frame-pointer" \
    -DZOPT_MPI=OFF -DZOPT_TRAINER=OFF -DZOPT_TESTS=OFF >"$build/configure.log"
cmake --build "$build" --parallel 2 --target zopt_lib >"$build/build.log" 2>&1 || {
    tail -n 20 "$build/build.log"
    exit 1
}

read -ra libraries <<<"$(pkg-config --libs jansson libxxhash)"
for name in "${fuzzers[@]}"; do
    "$compiler" -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -fsanitize=fuzzer,address,undefined \
        -fno-sanitize-recover=all -I"$root/include" -I"$root/src" -I"$root/tests/fuzz" \
        "$root/tests/fuzz/fuzz_$name.c" "$build/libzopt.a" "${libraries[@]}" -lpthread -lm \
        -o "$build/fuzz_$name"
    mkdir -p "$build/corpus/$name"
    # Memory is bounded too: a reader that allocates by what a file says is found here.
    if ! "$build/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$build/corpus/$name/" -print_final_stats=1 \
        "$build/corpus/$name" "$root/tests/fuzz/corpus/$name" >"$build/$name.log" 2>&1; then
        tail -n 30 "$build/$name.log"
        echo "FAIL: repeat with: $build/fuzz_$name $build/corpus/$name/<the file named above>"
        exit 1
    fi
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log") inputs"
done
