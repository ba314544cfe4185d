#!/usr/bin/env bash
# One training run for each optimizer that configs/ has a run file of, and their table: optimizer,
# bytes per parameter on a rank, final validation loss, milliseconds per step.
#
# usage: launch/optimizers.sh [RANKS] [argument of zopt train]...      (default: 2 ranks)
# Runs that are there already, with the same RANKS and arguments, are only read: remove
# runs/optimizers to make them again. Exit code 1: a run is not below the trigram loss.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
ranks=2
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    ranks=$1
    shift
fi
out="$root/runs/optimizers"
trigram=1.86

"$root/launch/setup.sh" --quiet build
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$root/build" --target zopt --parallel "$(nproc)" >/dev/null
mkdir -p "$out"

train() { # RUNFILE NAME [argument]...
    local done_with="$ranks ${*:3}" name=$2
    if [ "$(cat "$out/$name.done" 2>/dev/null)" = "$done_with" ]; then return; fi
    rm -rf "${out:?}/$name" "$out/$name.done"
    echo "$name: training, see $out/$name.log" >&2
    mpirun -n "$ranks" "$root/build/zopt" train "$1" --out "$out/$name" "${@:3}" >"$out/$name.log" 2>&1 || {
        tail -n 5 "$out/$name.log" >&2
        exit 1
    }
    echo "$done_with" >"$out/$name.done"
}

names=()
for file in "$root"/configs/gpt-kjv*.json; do
    name=$(basename "$file" .json)
    names+=("$name")
    train "$file" "$name" "$@"
done

# Bytes: all arrays over parameters, without buffers (staging, checkpoint) and tables, of the fullest
# rank.
python3 - "$out" "$trigram" "${names[@]}" <<'PY'
import json, re, statistics, sys

out, trigram = sys.argv[1], float(sys.argv[2])
rows, missed = [], 0
for name in sys.argv[3:]:
    with open(f"{out}/{name}/config.json") as file:
        optimizer = json.load(file)["optimizer"]
    with open(f"{out}/{name}/memory.json") as file:
        ranks = json.load(file)["per_rank"]
    with open(f"{out}/{name}/metrics.jsonl") as file:
        steps = [json.loads(line) for line in file]
    with open(f"{out}/{name}.log") as file:
        elements = int(re.match(r"(\d+) parameters", file.read()).group(1))
    arrays = max(r["total"] - r["staging"] - r["checkpoint"] - r["tables"] for r in ranks)
    loss, params = steps[-1]["val_loss"], optimizer["params"]
    label = optimizer["type"] + (" amsgrad" if params.get("amsgrad") else "")
    rows.append((loss, label, params["lr"], arrays / elements,
                 statistics.median(s["step_ms"] for s in steps), name))
    missed += loss >= trigram
print("| optimizer | lr | bytes per parameter and rank | validation loss | ms per step | run file |")
print("|---|---|---|---|---|---|")
for loss, label, lr, size, ms, name in sorted(rows):
    print(f"| {label} | {lr:g} | {size:.2f} | {loss:.4f} | {ms:.1f} | configs/{name}.json |")
print(f"\n{len(rows) - missed} of {len(rows)} are below the trigram loss of {trigram}")
sys.exit(missed > 0)
PY
