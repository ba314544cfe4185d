#!/usr/bin/env bash
# A rank that dies or hangs in the middle of a run over transport ipc ends the job with its known
# exit code, and those that wait say which it is. On the shim, so without a GPU.
#
# usage: tests/test_ipc_faults.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_ipc_faults.sh BUILD_DIR}" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
job=$(find "$build" -name ipc_job -type f -perm -u+x -print -quit)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

expect 0 "" mpirun -n 3 "$job" none
expect 137 "" mpirun -n 3 "$job" kill
expect 1 "" mpirun -n 3 "$job" exit
for kind in stop loop; do
    expect 75 "of rank 1 have not arrived" mpirun -n 3 "$job" $kind
    if grep -E "of ranks? [^1]" err.txt; then fail "$kind: another rank was named"; fi
done

# Rank 1 counts what its GPU never does.
expect 75 "results of GPUs of rank" mpirun -n 3 "$job" gpu
# Over two nodes, of which the second waits for messages.
expect 0 "" mpirun -n 4 "$job" none 2
expect 75 "of rank" mpirun -n 4 "$job" gpu 2
expect 75 "of rank 1 have not arrived" mpirun -n 4 "$job" stop 2

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "faults over ipc: all as expected"
