#!/usr/bin/env bash
# Nothing is ever lost: a run that saves every few steps is killed (SIGKILL of one rank, of all, or of
# mpirun) at random moments, N times, and goes on after each on 2 or 3 ranks, drawn anew. No kill may
# cost a checkpoint that was there or leave a damaged one, and each run that comes to its end must
# have written the files of an uninterrupted one, byte for byte.
#
# usage: tests/kill_test.sh BUILD_DIR [N [SEED]]      (default: 8 kills; the long one is 200)
set -uo pipefail

build=$(cd "${1:?usage: tests/kill_test.sh BUILD_DIR [N [SEED]]}" && pwd)
kills=${2:-8}
seed=${3:-$(date +%s)}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
zopt="$build/zopt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

seq 1 4000 >small.txt
cat >run.json <<'JSON'
{
  "train_steps": 240, "train_batch_size": 6, "train_micro_batch_size_per_gpu": 1,
  "steps_per_print": 1000, "gradient_clipping": 1.0,
  "fp16": {"enabled": true, "initial_scale_power": 24, "loss_scale_window": 20},
  "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 240, "warmup_num_steps": 20}},
  "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 8},
  "checkpoint": {"interval": 3, "keep_last": 3, "keep_every": 120},
  "eval": {"batches": 1, "interval": 60}, "sample": {"length": 20}, "data": {"path": "small.txt"},
  "comm": {"deadline_s": 20}
}
JSON

# All that a run leaves: its files, and the columns of its metrics that are no times.
collect() { # OUT
    (cd "$1" && sha256sum model.safetensors sample.txt checkpoints/latest checkpoints/step-00000{120,240}/*)
    python3 - "$1/metrics.jsonl" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    print([row.get(k) for k in ("step", "loss", "val_loss", "grad_norm", "lr", "loss_scale", "skipped")])
PY
}

newest() {
    local names=(out/checkpoints/step-????????)
    [ -d "${names[-1]}" ] && echo "${names[-1]##*-}" || echo 0
}

start() { # RANKS
    mpirun -n "$1" "$zopt" train run.json --out out >log.txt 2>&1 &
    job=$!
}

ranks_of() { # JOB
    cat /proc/"$1"/task/*/children 2>/dev/null
}

# Wait until a process is gone, or is a zombie, which a stuck mpirun leaves of its ranks.
wait_gone() { # PID SECONDS
    local left=$((20 * $2))
    while [ "$left" -gt 0 ]; do
        case $(sed 's/.*) //' /proc/"$1"/stat 2>/dev/null) in
        '' | Z*) return 0 ;;
        esac
        left=$((left - 1))
        sleep 0.05
    done
    return 1
}

# Kill at a random moment, and wait until all are gone. 1: the run had ended.
kill_something() {
    local pids victims=() pid
    sleep "$((RANDOM % 2)).$(printf %03d $((RANDOM % 1000)))"
    read -ra pids < <(ranks_of "$job")
    case $((RANDOM % 4)) in
    0) victims=("$job") ;;
    1) victims=("${pids[@]}") ;;
    *) [ ${#pids[@]} -eq 0 ] || victims=("${pids[RANDOM % ${#pids[@]}]}") ;;
    esac
    if [ ${#victims[@]} -eq 0 ] || ! kill -KILL "${victims[@]}" 2>/dev/null; then return 1; fi
    for pid in "${pids[@]}"; do
        wait_gone "$pid" 60 || fail "rank $pid lives on"
    done
    # mpirun of Open MPI 4.1 can hang in its own end then, in PMIx_server_finalize; if before it has
    # ended the other ranks, they end at their deadline.
    if ! wait_gone "$job" 20; then
        stuck=$((stuck + 1))
        kill -KILL "$job"
    fi
    wait "$job" 2>/dev/null
    return 0
}

check_end() {
    collect out >got.txt
    if cmp -s want.txt got.txt; then return; fi
    fail "after $killed kills (seed $seed) the files are not an uninterrupted run's:" \
        "$(diff want.txt got.txt | head -n 5)"
}

echo "seed $seed"
RANDOM=$seed
expect 0 "wrote whole" mpirun -n 1 "$zopt" train run.json --out whole
collect whole >want.txt
mkdir -p out
killed=0
stuck=0
ended=0
before=0
while [ "$killed" -lt "$kills" ] && [ "$failures" = 0 ]; do
    start $((2 + RANDOM % 2))
    if kill_something; then
        killed=$((killed + 1))
    elif wait "$job"; then
        check_end
        ended=$((ended + 1))
        rm -rf out
        before=0
        continue
    else
        fail "the run failed by itself: $(tail -n 3 log.txt)"
    fi
    # Between a checkpoint's name and that of `latest` is a moment too; the scan finds the checkpoint.
    if grep "^zopt: " log.txt | grep -v "latest names step .*, but the newest is"; then
        fail "a kill left something damaged"
    fi
    after=$(newest)
    if [ $((10#$after)) -lt $((10#$before)) ]; then fail "step $before was there, and is not"; fi
    before=$after
done
if [ "$failures" = 0 ]; then
    start 3
    wait "$job" || fail "the last run failed: $(tail -n 3 log.txt)"
    check_end
fi

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "$killed kills, $((ended + 1)) runs to the end, all files equal; mpirun was stuck $stuck times"
