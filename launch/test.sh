#!/usr/bin/env bash
# All tests: set up, build with warnings as errors, run ctest; then the same code again with the
# address and undefined sanitizers, in one build, and with the thread sanitizer. Says how long each
# build and each run took, and counts what was skipped and why.
#
# usage: launch/test.sh [--quick] [argument of ctest]...      (--quick: without the sanitizers)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
variants=(release "address,undefined" thread)
if [ "${1-}" = --quick ]; then
    variants=(release)
    shift
fi

"$root/launch/setup.sh" test
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

build_folder() { # VARIANT
    case $1 in
    release) echo "$root/build" ;;
    address,undefined) echo "$root/build/asan" ;;
    thread) echo "$root/build/tsan" ;;
    esac
}

configure() { # VARIANT
    local options=(-DCMAKE_BUILD_TYPE=Release -DZOPT_SANITIZE= -DZOPT_VERIFY_COMM=OFF)
    if [ "$1" != release ]; then
        options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo "-DZOPT_SANITIZE=$1" -DZOPT_VERIFY_COMM=ON)
    fi
    cmake -S "$root" -B "$(build_folder "$1")" -DZOPT_WERROR=ON -DZOPT_TESTS=ON "${options[@]}"
}

failed=()
skips=0
for variant in "${variants[@]}"; do
    folder=$(build_folder "$variant")
    echo
    echo "== $variant"
    SECONDS=0
    configure "$variant"
    cmake --build "$folder" --parallel "$(nproc)"
    echo "== $variant: built in $SECONDS s"
    SECONDS=0
    (cd "$folder" && ctest --parallel "$(nproc)" --output-on-failure "${@+"$@"}") || failed+=("$variant")
    echo "== $variant: tested in $SECONDS s"

    # A test that leaves something out says "SKIP: reason" and goes on.
    log="$folder/Testing/Temporary/LastTest.log"
    if [ -e "$log" ]; then
        skips=$((skips + $(grep -c '^SKIP: ' "$log" || true)))
        grep '^SKIP: ' "$log" | sort | uniq -c || true
    fi
done

echo
echo "$skips skipped"
if [ ${#failed[@]} -gt 0 ]; then
    echo "tests FAILED in: ${failed[*]}" >&2
    exit 1
fi
echo "all tests passed (${variants[*]})"
