#!/usr/bin/env bash
# The run directory tells of one run, and of how it ended: nothing of an earlier run stays in it, no
# two runs write into it at once, and a run whose numbers are not finite fails, with its last step
# written down and no model.
#
# usage: tests/test_rundir.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_rundir.sh BUILD_DIR}" && pwd)
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
  "train_steps": 6, "train_batch_size": 4, "train_micro_batch_size_per_gpu": 2,
  "steps_per_print": 1,
  "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 8},
  "eval": {"batches": 1, "interval": 2}, "sample": {"length": 5}, "data": {"path": "small.txt"}
}
JSON

launch() { # RANKS [argument of zopt train]...
    mpirun -n "$1" "$zopt" train run.json "${@:2}"
}
export -f launch
export zopt

# row OUT EXPRESSION: a Python expression over the rows of metrics.jsonl.
row() {
    python3 -c "import json; rows = [json.loads(l) for l in open('$1/metrics.jsonl')]; print($2)"
}

# FP32 without clipping: the loss itself is what says that the weights are lost, or, where it is
# measured before the next step is made, the validation loss. Each step makes weights 1e9 times
# larger.
test_loss_that_is_not_finite() { # RANKS EVAL_INTERVAL TEXT
    local out=nan$1
    expect 0 "wrote $out" bash -c "launch $1 --out $out"
    local file
    for file in model.safetensors sample.txt; do
        [ -s "$out/$file" ] || fail "$out: no $file"
    done
    expect 70 "$3 is not finite" bash -c "launch $1 --out $out --set eval.interval=$2 \
        --set optimizer.params.lr=1e6 --set optimizer.params.weight_decay=1e3"
    grep -q 'nan' err.txt && fail "$1 ranks: a number that is none was printed: $(cat err.txt)"
    grep -qE -- '-nan' out.txt && fail "$1 ranks: '-nan' was printed: $(cat out.txt)"
    [ "$(row "$out" "rows[-1]['loss'] is None or rows[-1].get('val_loss', 0) is None")" = True ] ||
        fail "$out: the last row is not that of the failure: $(tail -n 1 "$out/metrics.jsonl")"
    for file in model.safetensors sample.txt; do
        [ ! -e "$out/$file" ] || fail "$out: has $file, of a run that failed"
    done
}

# FP16 at a scale that cannot go lower: the step that gives up is in the metrics too.
test_row_of_the_step_that_gives_up() {
    expect 70 "step 2: gradients not finite" "$zopt" train run.json --out skips \
        --set fp16.enabled=true --set fp16.loss_scale=1099511627776 \
        --set fp16.max_consecutive_skips=2
    [ "$(row skips "[(r['step'], r['skipped']) for r in rows]")" = "[(1, True), (2, True)]" ] ||
        fail "metrics of skipped steps: $(cat skips/metrics.jsonl)"
}

test_one_run_at_a_time() {
    local holder
    "$zopt" train run.json --out busy --set train_steps=1000000 >/dev/null 2>holder.txt &
    holder=$!
    until [ -s busy/metrics.jsonl ]; do
        kill -0 "$holder" 2>/dev/null || { fail "the first run ended: $(cat holder.txt)"; return; }
        sleep 0.1
    done
    expect 73 "busy is in use by another run (process $holder on $(hostname))" \
        "$zopt" train run.json --out busy --set train_steps=2
    expect 73 "busy is in use by another run" bash -c "launch 2 --out busy --set train_steps=2"
    kill -KILL "$holder"
    wait "$holder" 2>/dev/null
    expect 0 "wrote busy" "$zopt" train run.json --out busy --set train_steps=2
    [ "$(row busy "len(rows)")" = 2 ] || fail "metrics of two runs: $(cat busy/metrics.jsonl)"
}

test_places() {
    touch file
    expect 73 "file is not a directory" "$zopt" train run.json --out file
    expect 73 "file is not a directory" "$zopt" train run.json --out file/below
    expect 64 "--out ''" "$zopt" train run.json --out ""
    expect 78 "name = \"../x\" is not the name of a folder below runs/" \
        "$zopt" train run.json --set name=../x
    expect 0 "wrote runs/mine" "$zopt" train run.json --set name=mine --set train_steps=2
}

# Times of phases are parts of the step's time.
test_phases_do_not_overlap() {
    expect 0 "wrote phases" "$zopt" train run.json --out phases
    [ "$(row phases "all(sum(r['phases'].values()) <= r['step_ms'] for r in rows)")" = True ] ||
        fail "phases are longer than their step: $(cat phases/metrics.jsonl)"
    [ "$(row phases "all(r['phases']['compute_ms'] > 0 for r in rows)")" = True ] ||
        fail "no time for forward and backward: $(cat phases/metrics.jsonl)"
}

# Shares are the phases' parts of the step, whoever sums the gradients.
test_shares_of_a_step() {
    local thread
    for thread in false true; do
        expect 0 "wrote shares" bash -c "launch 2 --out shares \
            --set zero_optimization.overlap_comm=$thread"
        [ "$(row shares "all(sorted(r['share']) == ['compute', 'exposed_comm', 'other', 'update']
            and abs(sum(r['share'].values()) - 1) < 1e-9 and min(r['share'].values()) > 0
            for r in rows)")" = True ] || fail "shares: $(cat shares/metrics.jsonl)"
        [ "$(row shares "all(abs(r['share'][name] - sum(r['phases'][p + '_ms'] for p in parts)
                / r['step_ms']) < 1e-9
            for name, parts in (('compute', ['compute']), ('exposed_comm', ['reduce', 'gather']),
                                ('update', ['norm', 'update'])) for r in rows)")" = True ] ||
            fail "shares are not those of the phases: $(cat shares/metrics.jsonl)"
    done
}

test_loss_that_is_not_finite 1 0 ": the loss"
test_loss_that_is_not_finite 2 0 ": the loss"
test_loss_that_is_not_finite 3 1 ": the validation loss"
test_row_of_the_step_that_gives_up
test_one_run_at_a_time
test_places
test_phases_do_not_overlap
test_shares_of_a_step

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "run directories: all as expected"
