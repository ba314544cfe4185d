#!/usr/bin/env bash
# A rank that dies, hangs, or leaves ends the job with one known exit code, and the ranks that wait
# say who is missing, in which step and phase. Faults are real: tests/rank_fault.c is loaded into a run
# and raises the signal, damages the heap or loops inside the rank.
#
# usage: tests/test_faults.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_faults.sh BUILD_DIR}" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
zopt="$build/zopt"
fault=$(find "$build" -name 'librank_fault.so' -print -quit)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

seq 1 4000 >small.txt
# A deadline that a busy machine's start of MPI keeps too.
cat >run.json <<'JSON'
{
  "train_steps": 1000000, "train_batch_size": 6, "train_micro_batch_size_per_gpu": 2,
  "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 8},
  "eval": {"batches": 1, "interval": 0}, "sample": {"length": 0}, "data": {"path": "small.txt"},
  "comm": {"deadline_s": 5}
}
JSON

# A small step of this model calls cblas_sgemm some 20 times: the 2000th call is within step 100 or so.
expect_run() { # CODE TEXT RANKS FAULT [argument of zopt train]...
    rm -rf out
    expect "$1" "$2" mpirun -n "$3" -x "LD_PRELOAD=$fault" -x "ZOPT_RANK_FAULT=$4" \
        "$zopt" train run.json --out out "${@:5}"
}

# The text that a rank prints when its deadline passes.
expect_hang() { # REGEX
    grep -qE "$1" err.txt || fail "no line like '$1' in: $(cat err.txt)"
}

# A handler that hangs instead of dying would leave the others to their deadline of 5 s: 75.
test_ranks_that_die() { # KIND CODE RANKS [argument of zopt train]...
    expect_run "$2" "" "$3" "1 cblas_sgemm 2000 $1" "${@:4}"
    [ "$(wc -l 2>/dev/null <out/metrics.jsonl)" -gt 2 ] || fail "$1: it failed before it trained"
}

# Killed while its own messages and collectives are under way.
test_rank_that_dies_in_a_collective() {
    expect_run 137 "" 3 "1 MPI_Test 3000 kill" --set comm.transport=mpi
    [ "$(wc -l 2>/dev/null <out/metrics.jsonl)" -gt 2 ] || fail "it failed before it trained"
}

# Also the one that is missed by a rank that only waits for another waiting one.
test_ranks_that_hang() { # TRANSPORT KIND
    expect_run 75 "" 3 "1 cblas_sgemm 2000 $2" --set comm.transport="$1"
    expect_hang "^zopt train: rank [02] waited 5 s in step [0-9]+, phase [a-z]+.* of rank 1 have not arrived"
    if grep -E "of ranks? [^1]" err.txt; then fail "$1, $2: another rank was named"; fi
}

test_start_that_hangs() {
    expect 75 "zopt train: rank 0: waited 5 s in phase start: MPI_Init_thread has not returned" \
        mpirun -n 1 "$zopt" train run.json --out out : -n 1 sleep 100
}

test_end_that_hangs() {
    expect_run 75 "zopt train: rank 0 waited 5 s in phase end: MPI_Finalize has not returned" \
        2 "1 MPI_Finalize 1 stop" --set train_steps=2
    [ -s out/model.safetensors ] || fail "the model was not written before the end hung"
}

# The ranks go when mpirun does, long before their deadline, and let go of the run directory.
test_mpirun_that_dies() {
    local job pid pids=()
    rm -rf out
    mpirun -n 2 "$zopt" train run.json --out out --set comm.deadline_s=600 >out.txt 2>err.txt &
    job=$!
    until [ -s out/metrics.jsonl ]; do
        kill -0 "$job" 2>/dev/null || { fail "the run ended: $(cat err.txt)"; return; }
        sleep 0.1
    done
    read -ra pids < <(cat /proc/"$job"/task/*/children)
    kill -KILL "$job"
    wait "$job" 2>/dev/null
    for pid in "${pids[@]}"; do
        timeout 30 tail -s 0.05 --pid "$pid" -f /dev/null || fail "rank $pid outlives mpirun"
    done
    expect 0 "wrote out" mpirun -n 2 "$zopt" train run.json --out out --set train_steps=2
}

# Two nodes of two ranks. Whoever notices first names the one that is missing, on either node.
test_nodes() {
    local nodes=(--set comm.transport=shm --set comm.ranks_per_node=2 --set train_batch_size=8)
    expect_run 75 "" 4 "1 cblas_sgemm 2000 stop" "${nodes[@]}"
    expect_hang "^zopt train: rank [023] waited 5 s in step [0-9]+, phase [a-z]+.* of rank 1 have not arrived"
    test_ranks_that_die kill 137 4 "${nodes[@]}"
}

test_ranks_that_die kill 137 3
test_ranks_that_die segv 139 3
test_ranks_that_die heap 134 3
test_ranks_that_die exit 1 3
test_rank_that_dies_in_a_collective
for transport in mpi shm; do
    "$zopt" doctor | grep -qE "^ *transport +$transport +(yes|ok)" || continue
    test_ranks_that_hang $transport stop
    test_ranks_that_hang $transport loop
done
if "$zopt" doctor | grep -qE "^ *transport +shm +(yes|ok)"; then
    test_nodes
fi
test_start_that_hangs
test_end_that_hangs
test_mpirun_that_dies

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "faults: all as expected"
