#!/usr/bin/env bash
# The reference run is one run, however it is spread: for 1 to 5 ranks, two bucket sizes, transports
# shm (self for one rank) and mpi, and three dtypes the model files are equal byte for byte and the
# metrics number for number, and what `zopt plan` says is what every rank counted. Groups of slots over
# two nodes. The run files of the other optimizers on two worlds.
#
# usage: tests/test_train.sh BUILD_DIR [STEPS]
set -euo pipefail

build=$(cd "$1" && pwd)
steps=${2:-40}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
work=$(mktemp -d)
file=$root/configs/gpt-kjv.json
trap 'rm -rf "$work"' EXIT

if [ ! -s "$root/data/kjv.txt" ]; then
    echo "SKIP: data/kjv.txt is missing (launch/setup.sh makes it)"
    exit 77
fi

# The overrides of a run, the same for its plan: what ranks agree on is counted memory too.
overrides() { # BUCKET [key=value]...
    local assignment
    set=()
    for assignment in "train_steps=$steps" "zero_optimization.reduce_bucket_size=$1" \
        eval.interval=20 eval.batches=2 sample.length=0 data.val_fraction=0.02 "${@:2}"; do
        set+=(--set "$assignment")
    done
}

train() { # RANKS BUCKET OUT [key=value]...
    local ranks=$1 out=$3 set
    overrides "$2" "${@:4}"
    mpirun -n "$ranks" "$build/zopt" train "$file" --out "$out" "${set[@]}" \
        >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
}

# The columns that must not depend on how the run was spread.
columns() { # METRICS
    python3 - "$1" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    print([row.get(k) for k in ("step", "loss", "val_loss", "grad_norm", "lr", "loss_scale", "skipped")])
PY
}

compare_memory() { # RANKS BUCKET OUT [key=value]...
    local ranks=$1 out=$3 set
    overrides "$2" "${@:4}"
    "$build/zopt" plan "$file" --ranks "$ranks" --json "${set[@]}" \
        >"$work/plan.json"
    python3 - "$work/plan.json" "$out/memory.json" <<'PY'
import json, sys
plan, counted = (json.load(open(p)) for p in sys.argv[1:])
plan = plan["plans"][0]
assert plan["ranks"] == counted["ranks"], (plan["ranks"], counted["ranks"])
assert len(plan["per_rank"]) == len(counted["per_rank"]) == plan["ranks"]
for p, c in zip(plan["per_rank"], counted["per_rank"]):
    assert p == c, f"planned {p}\ncounted {c}"
PY
}

for dtype in fp16 bf16 fp32; do
    case $dtype in
    fp16) set_dtype=(fp16.enabled=true) ;;
    bf16) set_dtype=(fp16.enabled=false bf16.enabled=true) ;;
    fp32) set_dtype=(fp16.enabled=false) ;;
    esac
    first=
    for bucket in 4194304 10000; do
        transport=comm.transport=auto
        [ "$bucket" = 10000 ] && transport=comm.transport=mpi
        for ranks in 1 2 3 4 5; do
            out=$work/$dtype-$bucket-$ranks
            train "$ranks" "$bucket" "$out" "${set_dtype[@]}" "$transport"
            columns "$out/metrics.jsonl" >"$out/columns"
            compare_memory "$ranks" "$bucket" "$out" "${set_dtype[@]}" "$transport"
            [ "$(wc -l <"$out/columns")" = "$steps" ]
            if [ -z "$first" ]; then
                first=$out
                continue
            fi
            cmp "$first/model.safetensors" "$out/model.safetensors"
            cmp "$first/columns" "$out/columns"
        done
    done
    echo "$dtype: 10 runs, equal files, equal metrics, memory as planned; last: $(tail -n 1 "$first/columns")"
done

# Groups by name pattern: an entry that is used shows in the weights, whatever the number of ranks;
# one that no tensor matches is a mistake.
groups='param_groups=[{"match": "*.bias", "lr_mult": 0.5}, {"match": "wte*", "weight_decay": 0}]'
train 1 10000 "$work/groups-1" fp16.enabled=true "$groups"
train 3 10000 "$work/groups-3" fp16.enabled=true "$groups"
compare_memory 3 10000 "$work/groups-3" fp16.enabled=true "$groups"
cmp "$work/groups-1/model.safetensors" "$work/groups-3/model.safetensors"
train 3 10000 "$work/shared-3" fp16.enabled=true "$groups" zopt.shared_params=true
compare_memory 3 10000 "$work/shared-3" fp16.enabled=true "$groups" zopt.shared_params=true
cmp "$work/groups-1/model.safetensors" "$work/shared-3/model.safetensors"
if cmp -s "$work/groups-1/model.safetensors" "$work/fp16-10000-1/model.safetensors"; then
    echo "param_groups changed nothing" >&2
    exit 1
fi
rc=0
"$build/zopt" train "$file" --out "$work/unused" \
    --set 'param_groups=[{"match": "no such tensor"}]' >"$work/log" 2>&1 || rc=$?
[ "$rc" = 78 ] && grep -q 'param_groups\[0\].match = "no such tensor"' "$work/log"
echo "param_groups: equal files on 1 and 3 ranks, which may share parameters; others than without"

# Two nodes of two ranks that sum before they send.
grouped=(fp16.enabled=false zero_optimization.reduce_group=2)
nodes=(comm.ranks_per_node=2 zopt.shared_params=true)
train 1 10000 "$work/sums-1" "${grouped[@]}"
train 3 10000 "$work/sums-3" "${grouped[@]}"
train 4 10000 "$work/sums-4" "${grouped[@]}" "${nodes[@]}"
compare_memory 3 10000 "$work/sums-3" "${grouped[@]}"
compare_memory 4 10000 "$work/sums-4" "${grouped[@]}" "${nodes[@]}"
cmp "$work/sums-1/model.safetensors" "$work/sums-3/model.safetensors"
cmp "$work/sums-1/model.safetensors" "$work/sums-4/model.safetensors"
grep -q "4 ranks over shm" "$work/log"
if cmp -s "$work/sums-1/model.safetensors" "$work/fp32-10000-1/model.safetensors"; then
    echo "reduce_group changed nothing" >&2
    exit 1
fi
echo "reduce_group: equal files on 1, 3 and 2x2 ranks, memory as planned"

train 3 10000 "$work/traced-3" "${grouped[@]}" zopt.trace_steps=3 checkpoint.interval=2
compare_memory 3 10000 "$work/traced-3" "${grouped[@]}" zopt.trace_steps=3 checkpoint.interval=2
cmp "$work/sums-1/model.safetensors" "$work/traced-3/model.safetensors"
python3 -c "
import json, sys
steps = [(e['pid'], e['args']['step']) for e in json.load(open(sys.argv[1]))['traceEvents']
         if e['name'] == 'zopt_step']
assert sorted(steps) == [(rank, step) for rank in range(3) for step in (1, 2, 3)], steps
" "$work/traced-3/trace.json"
echo "trace_steps: an equal file, memory as planned, and a trace of three steps on 3 ranks"

# Every other run file too.
for file in "$root"/configs/gpt-kjv-*.json; do
    name=$(basename "$file" .json)
    train 1 4194304 "$work/$name-1"
    train 3 10000 "$work/$name-3"
    compare_memory 3 10000 "$work/$name-3"
    cmp "$work/$name-1/model.safetensors" "$work/$name-3/model.safetensors"
    echo "$name: equal files on 1 and 3 ranks, memory as planned"
done
