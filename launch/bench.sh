#!/usr/bin/env bash
# The table of benchmarks in the README: steps, update kernels and checkpoints, each in turn with its
# limit and its baseline, 67.1M parameters in FP16. Five minutes; let nothing else run.
#
# usage: launch/bench.sh [argument of zopt bench, for all rows]...
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
"$root/launch/setup.sh" --quiet build
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$root/build" --target zopt --parallel "$(nproc)" >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
arguments=("$@")
n=0

# One row of the table for each that the benchmark prints.
bench() { # RANKS LABEL BENCHMARK [argument]...
    local ranks=$1 label=$2
    local start=(mpirun -n "$ranks")
    [ "$ranks" -gt 1 ] || start=()
    n=$((n + 1))
    echo "$label, $ranks ranks" >&2
    echo "$label" >"$work/$n.label"
    "${start[@]}" "$root/build/zopt" bench "${@:3}" --json "${arguments[@]}" >"$work/$n.json"
}

bench 2 "a step" step --transport shm --norm both
bench 2 "a step behind a backward pass" step --transport shm --norm on --overlap on
bench 1 "a step behind a backward pass" step --norm on --overlap on
bench 1 "the same, progress thread" step --norm on --overlap on --progress-thread
bench 4 "a step" step --transport shm --norm off
bench 2 "a step, one parameter buffer" step --transport shm --norm off --shared-params
bench 2 "a step" step --transport mpi --norm off
bench 2 "a step, 16.8M and 268M parameters" step --transport shm --norm off --params 16Mi,256Mi
bench 2 "a step, 1M parameters" step --transport shm --norm off --params 1e6
bench 2 "a step, 1M parameters in 10,000 tensors" step --transport shm --norm off --params 1e6 --tensors 10000
bench 1 "the update alone" adam --optimizer adamw,adamw8bit,lion,sgd,rmsprop,adagrad
bench 2 "a checkpoint" ckpt

python3 - "$work" "$n" <<'PY'
import json, sys

work, n = sys.argv[1], int(sys.argv[2])
print("| | ranks | transport | optimizer | norm | ms | x limit | x baseline |")
print("|---|---|---|---|---|---|---|---|")
for i in range(1, n + 1):
    label = open(f"{work}/{i}.label").read().strip()
    for row in json.load(open(f"{work}/{i}.json"))["rows"]:
        faster = row.get("x_baseline")
        print(f"| {label} | {row['ranks']} | {row['transport']} | {row['optimizer']} |"
              f" {'on' if row['norm'] else 'off'} | {row['time_ms']:.4g} | {row['x_limit']:.2f} |"
              f" {'-' if faster is None else format(faster, '.2f')} |")
        if "hold_ms" in row:
            faster = row["x_dd"]
            print("\nThe same bytes by `dd oflag=direct conv=fsync bs=8M`:"
                  + (" no direct I/O here." if faster is None else
                     f" {row['dd_ms']:.0f} ms, {faster:.2f} times a save.")
                  + f" Asynchronous save: the step waits {row['hold_ms']:.0f} ms, a copy of the"
                  f" bytes takes {row['snapshot_copy_ms']:.0f} ms.")
PY
