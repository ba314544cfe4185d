#!/usr/bin/env bash
# A run that is interrupted goes on to the same bits: files and metrics are those of a run that never
# was, on the same and on other numbers of ranks, after signals, deaths and hangs, by hand and by
# launch/run.sh. What must not be mixed is refused.
#
# usage: tests/test_resume.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_resume.sh BUILD_DIR}" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
export ZOPT="$build/zopt"
zopt=$ZOPT
fault=$(find "$build" -name 'librank_fault.so' -print -quit)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

# Scales that overflow at the beginning and again later, and a schedule that never stands still.
seq 1 4000 >small.txt
cat >run.json <<'JSON'
{
  "train_steps": 40, "train_batch_size": 6, "train_micro_batch_size_per_gpu": 1,
  "steps_per_print": 1, "gradient_clipping": 1.0,
  "fp16": {"enabled": true, "initial_scale_power": 24, "loss_scale_window": 5},
  "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 40, "warmup_num_steps": 10}},
  "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 8},
  "checkpoint": {"interval": 10},
  "eval": {"batches": 1, "interval": 7}, "sample": {"length": 20}, "data": {"path": "small.txt"},
  "comm": {"deadline_s": 5}
}
JSON

train() { # RANKS OUT [argument of zopt train]...
    launcher=(mpirun -n "$1" "$zopt" train run.json --out "${@:2}")
}

# Metrics without times, and files, of a run directory.
collect() { # OUT
    (cd "$1" && sha256sum model.safetensors sample.txt checkpoints/step-00000040/*)
    python3 - "$1/metrics.jsonl" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    print([row.get(k) for k in ("step", "loss", "val_loss", "grad_norm", "lr", "loss_scale", "skipped")])
PY
}

last_step() {
    tail -n 1 parts/metrics.jsonl | sed -E 's/.*"step":([0-9]+).*/\1/'
}

same_as_whole() { # OUT
    collect "$1" >got.txt
    cmp -s want.txt got.txt || fail "$1 is not what an uninterrupted run leaves: $(diff want.txt got.txt | head -n 5)"
}

test_whole_run() {
    train 1 whole
    expect 0 "wrote whole" "${launcher[@]}"
    collect whole >want.txt
    [ "$(grep -c "True\]$" want.txt)" -ge 2 ] || fail "no skipped steps in: $(cat want.txt)"
    [ "$(echo whole/checkpoints/step-*)" = "whole/checkpoints/step-00000030 whole/checkpoints/step-00000040" ] ||
        fail "checkpoints kept: $(ls whole/checkpoints)"
}

# Stopped by a signal in the first save of a start, at the next multiple of 10; so twice, each part on
# another number of ranks.
test_other_numbers_of_ranks() {
    local ranks
    for ranks in "1 1 1" "2 3 1" "3 1 2" "1 2 4"; do
        rm -rf parts
        read -ra ranks <<<"$ranks"
        interrupt "${ranks[0]}" 10
        interrupt "${ranks[1]}" 20
        train "${ranks[2]}" parts
        expect 0 "going on from the checkpoint of step 20" "${launcher[@]}"
        same_as_whole parts
    done
    expect 0 "going on from the checkpoint of step 40" "${launcher[@]}" # nothing is left to train
    same_as_whole parts
}

# Saved by 4 ranks and loaded by fewer and by more, more than there are slots.
test_saved_by_four() {
    local ranks
    rm -rf parts four
    interrupt 4 10
    mv parts four
    for ranks in 1 2 3 7; do
        rm -rf parts
        cp -r four parts
        train "$ranks" parts
        expect 0 "going on from the checkpoint of step 10" "${launcher[@]}"
        same_as_whole parts
    done
}

# The signal comes while a checkpoint is being written: that one is it, and the only one.
interrupt() { # RANKS STEP
    train "$1" parts
    expect 0 "told to stop after step $2: saved" env LD_PRELOAD="$fault" ZOPT_RANK_FAULT="0 fsync 1 usr1" \
        "${launcher[@]}"
    [ "$(basename -a parts/checkpoints/step-* | tail -n 1)" = "step-000000$2" ] ||
        fail "checkpoints after a stop in step $2: $(ls parts/checkpoints)"
    [ ! -e parts/model.safetensors ] || fail "a model of a run that has not ended"
}

# Lines behind the checkpoint, and half a line, are what a killed run leaves.
test_metrics_of_a_killed_run() {
    rm -rf parts
    cp -r whole parts
    rm -r parts/checkpoints/step-00000040
    printf '{"step":41,"loss":' >>parts/metrics.jsonl
    train 2 parts
    expect 0 "going on from the checkpoint of step 30" "${launcher[@]}"
    same_as_whole parts
}

# The newest is damaged: loudly on from the one before it, which saves it anew; what the run saves
# before it comes there is kept, though the damaged one is of a later step.
test_damaged_newest() {
    rm -rf parts
    cp -r whole parts
    printf X | dd of=parts/checkpoints/step-00000040/model.safetensors bs=1 seek=9000 conv=notrunc status=none
    train 2 parts --set checkpoint.interval=6 --set checkpoint.keep_last=1
    expect 0 "going on from the checkpoint of step 30" env ZOPT_RANK_FAULT="0 fsync 1 usr1" LD_PRELOAD="$fault" \
        "${launcher[@]}"
    grep -q "step 40 CANNOT BE LOADED" err.txt || fail "not loud: $(cat err.txt)"
    [ -d parts/checkpoints/step-00000036 ] || fail "the save of step 36 is gone: $(ls parts/checkpoints)"
    train 3 parts
    expect 0 "going on from the checkpoint of step 36" "${launcher[@]}"
    same_as_whole parts
}

# SIGNAL COMMAND...: run it, signal it when it has made some steps.
signal_when_training() {
    local signal=$1 job code=0
    rm -rf parts
    "${@:2}" >out.txt 2>err.txt &
    job=$!
    until [ -s parts/metrics.jsonl ]; do
        kill -0 "$job" 2>/dev/null || { fail "the run ended: $(cat err.txt)"; return; }
        sleep 0.05
    done
    kill "-$signal" "$job"
    wait "$job" || code=$?
    [ "$code" = 0 ] || fail "$signal: exit code $code: $(tail -n 3 err.txt)"
    grep -q "told to stop after step [0-9]*: saved" out.txt || fail "$signal: not told to stop: $(cat out.txt)"
    [ ! -e parts/model.safetensors ] || fail "$signal: a model of a run that has not ended"
}

# A second SIGTERM ends a run at once, in a save too: what was saved before is what it goes on from.
test_impatience() {
    rm -rf parts
    interrupt 1 10
    expect 143 "" env LD_PRELOAD="$fault" ZOPT_RANK_FAULT="0 fsync 1 twice" "${launcher[@]}"
    [ "$(basename -a parts/checkpoints/step-????????)" = step-00000010 ] ||
        fail "checkpoints after two SIGTERMs: $(ls parts/checkpoints)"
    train 2 parts
    expect 0 "going on from the checkpoint of step 10" "${launcher[@]}"
    same_as_whole parts
}

# Spaces in every path that there is.
test_paths_with_spaces() {
    rm -rf "a b" "run file.json"
    mkdir "a b"
    cp run.json "a b/run file.json"
    cp small.txt "a b"
    expect 0 "wrote a b/out put" "$root/launch/run.sh" -n 2 --backoff 0 "a b/run file.json" \
        --out "a b/out put"
    same_as_whole "a b/out put"
    expect 0 "ok" "$zopt" ckpt verify "a b/out put/checkpoints"
}

# The run has no end of its own to come before the signal.
test_signals() {
    local long=(--set train_steps=1000000)
    signal_when_training USR1 mpirun -n 3 "$zopt" train run.json --out parts "${long[@]}"
    expect 0 "going on from the checkpoint of step" \
        mpirun -n 2 "$zopt" train run.json --out parts --set train_steps="$(($(last_step) + 5))"
    signal_when_training TERM "$zopt" train run.json --out parts "${long[@]}"
    signal_when_training TERM "$root/launch/run.sh" -n 2 run.json --out parts "${long[@]}"
    grep -q "run.sh: saving and stopping" err.txt || fail "run.sh: $(cat err.txt)"
}

# Each start dies somewhere; launch/run.sh comes to the end all the same. Then where none brings a
# checkpoint, with the code of the last.
test_wrapper() {
    local kind
    for kind in kill segv heap exit stop; do
        rm -rf parts
        expect 0 "starting again" env LD_PRELOAD="$fault" ZOPT_RANK_FAULT="1 cblas_sgemm 2500 $kind" \
            "$root/launch/run.sh" -n 2 --backoff 0 run.json --out parts
        same_as_whole parts
    done
    rm -rf parts
    expect 137 "2 starts in a row brought no newer checkpoint: giving up" \
        env LD_PRELOAD="$fault" ZOPT_RANK_FAULT="0 cblas_sgemm 40 kill" \
        "$root/launch/run.sh" -n 2 --backoff 0 --max-restarts 1 run.json --out parts
}

rate() { # OUT STEP
    sed -nE "s/^\\{\"step\":$2,.*\"lr\":([^,]+),.*/\\1/p" "$1/metrics.jsonl"
}

# A launcher that is killed leaves ranks that live on for a moment; the next start must not meet them.
test_launcher_that_dies() {
    rm -rf parts
    expect 0 "run.sh: exit code 137; newest checkpoint:" env LD_PRELOAD="$fault" \
        ZOPT_RANK_FAULT="1 cblas_sgemm 2000 launcher" \
        "$root/launch/run.sh" -n 2 --backoff 0 run.json --out parts
    same_as_whole parts
}

test_refusals() {
    rm -rf parts
    train 2 parts --set train_steps=20
    expect 0 "wrote parts" "${launcher[@]}"
    train 2 parts --set optimizer.params.lr=0.5 --set seed=7
    expect 78 "optimizer.params.lr" "${launcher[@]}"
    grep -q "seed" err.txt || fail "only one difference was told: $(cat err.txt)"
    [ "$(wc -l <parts/metrics.jsonl)" = 20 ] || fail "a refused run has cut off the metrics"
    expect 0 "going on from the checkpoint of step 20" "${launcher[@]}" --force-config
    # What was asked for is done: the rate is another one from there on.
    [ "$(rate parts 20)" = "$(rate whole 20)" ] || fail "the rate of step 20: $(rate parts 20)"
    python3 -c "assert abs($(rate parts 21) / $(rate whole 21) - 500) < 1e-9" ||
        fail "--force-config went on with the checkpoint's rate"
    # Another run's checkpoints are not to be mixed with these.
    train 2 parts --set fp16.loss_scale=64 --set train_steps=41
    expect 0 "going on from the checkpoint of step 40" "${launcher[@]}" --force-config
    tail -n 1 parts/metrics.jsonl | grep -q '"loss_scale":64.0' ||
        fail "--force-config went on with the checkpoint's loss scale"
    train 2 parts --resume never
    expect 73 "has a checkpoint of step 41 already" "${launcher[@]}"
    train 2 parts --resume parts/checkpoints/step-00000040
    expect 73 "has a checkpoint of step 41 already" "${launcher[@]}" --force-config
    train 2 other --resume whole/checkpoints/step-00000030
    expect 0 "going on from the checkpoint of step 30" "${launcher[@]}"
    cmp whole/model.safetensors other/model.safetensors || fail "from another directory: other weights"
    train 2 other --set train_steps=10
    expect 78 "the checkpoint is of step 40, and train_steps is 10" "${launcher[@]}"
    train 2 other --resume nothing
    expect 74 "nothing" "${launcher[@]}"
}

# Gradients that are not finite in any step end the run with 70 when the scale cannot go lower, and
# there are checkpoints to go on from.
test_lost_numbers() {
    rm -rf parts
    train 2 parts --set train_steps=200 --set eval.interval=0 --set fp16.loss_scale_window=100
    expect 70 "gradients not finite in 20 steps in a row at loss scale 1, which cannot go lower" \
        env LD_PRELOAD="$fault" ZOPT_RANK_FAULT="1 cblas_sgemm 1500 nan" "${launcher[@]}"
    [ ! -e parts/model.safetensors ] || fail "a model of numbers that are lost"
    train 3 parts --set eval.interval=0 --set fp16.loss_scale_window=100 \
        --set train_steps="$(($(last_step) + 5))"
    expect 0 "going on from the checkpoint of step" "${launcher[@]}"
    tail -n 1 parts/metrics.jsonl | grep -q '"skipped":false' || fail "no good step after the bad ones"
}

test_whole_run
test_other_numbers_of_ranks
test_saved_by_four
test_metrics_of_a_killed_run
test_damaged_newest
test_signals
test_impatience
test_paths_with_spaces
test_wrapper
test_launcher_that_dies
test_refusals
test_lost_numbers

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "going on: all as expected"
