#!/usr/bin/env bash
# All tests: set up, build with warnings as errors, run ctest, count what was skipped and why.
#
# usage: launch/test.sh [argument of ctest]...
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

"$root/launch/setup.sh" test
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release -DZOPT_WERROR=ON -DZOPT_TESTS=ON
cmake --build "$root/build" --parallel "$(nproc)"

log="$root/build/Testing/Temporary/LastTest.log"
rc=0
(cd "$root/build" && ctest --output-on-failure "$@") || rc=$?

# A test that leaves something out says "SKIP: reason" and goes on.
skips=0
if [ -e "$log" ]; then
    skips=$(grep -c '^SKIP: ' "$log" || true)
    grep '^SKIP: ' "$log" | sort | uniq -c || true
fi
echo "$skips skipped"
if [ "$rc" = 0 ]; then
    echo "all tests passed"
else
    echo "tests FAILED (ctest exit code $rc)" >&2
fi
exit "$rc"
