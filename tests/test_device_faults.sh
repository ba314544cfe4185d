#!/usr/bin/env bash
# A rank that dies or hangs in the middle of a run whose memory is a GPU's ends the job with its known
# exit code, and those that wait say which it is: over every transport that several ranks of one GPU
# have. With the shim's program no GPU is needed.
#
# usage: tests/test_device_faults.sh PROGRAM      (device_job or device_job_shim)
set -uo pipefail

job=$(realpath "${1:?usage: tests/test_device_faults.sh PROGRAM}")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

if ! mpirun -n 2 "$job" ipc none >out.txt 2>&1 && grep -q 'device cuda: ' out.txt; then
    why=$(grep -m 1 -o 'device cuda: .*' out.txt)
    echo "SKIP: $why"
    [ "${ZOPT_REQUIRE_GPU-}" != 1 ] || exit 1
    exit 77
fi
for transport in ipc mpi; do
    expect 0 "" mpirun -n 3 "$job" $transport none
    expect 137 "" mpirun -n 3 "$job" $transport kill
    expect 1 "" mpirun -n 3 "$job" $transport exit
    for kind in stop loop; do
        expect 75 "of rank 1 have not arrived" mpirun -n 3 "$job" $transport $kind
        if grep -E "of ranks? [^1]" err.txt; then fail "$transport, $kind: another rank was named"; fi
    done
done

# What only the shim can do: rank 1 counts what its GPU never does. And over two nodes, of which the
# second waits for messages.
case $job in *_shim)
    expect 75 "results of GPUs of rank" mpirun -n 3 "$job" ipc gpu
    expect 0 "" mpirun -n 4 "$job" ipc none 2
    expect 75 "of rank" mpirun -n 4 "$job" ipc gpu 2
    expect 75 "of rank 1 have not arrived" mpirun -n 4 "$job" ipc stop 2
    ;;
esac

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "a killed, stopped or looping rank over ipc and mpi: exit codes 137, 75, 75, and its name"
