#!/usr/bin/env bash
# What zopt plan --time predicts beside what zopt bench step measures, both on this machine: steps with
# and without the norm, of two sizes, over shm and mpi. Calibrates just before and just after each
# measurement and takes the mean of both predictions: the speed of a machine that others use too
# drifts. Prints a table; decides nothing. Three minutes; let nothing else run.
#
# usage: tests/peers/plan_time.sh BUILD_DIR [PARAMS...]      (default: 67108864 16777216)
#
# EXCLUSIVE: a command before each measurement, e.g. one that waits until the machine is quiet.
set -euo pipefail

build=$(cd "${1:?usage: tests/peers/plan_time.sh BUILD_DIR [PARAMS...]}" && pwd)
params=("${@:2}")
[ ${#params[@]} -gt 0 ] || params=(67108864 16777216)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra exclusive <<<"${EXCLUSIVE-}"

names=()

# measure RANKS TRANSPORT PARAMS NORM: NAME.step, and two times NAME.plan
measure() {
    local name="$1-$2-$3-$4" turn
    names+=("$name")
    echo "$1 ranks, $2, $3 parameters, norm $4" >&2
    # shellcheck disable=SC2016 # of the inner shell
    "${exclusive[@]}" bash -c 'set -e
        calibrate=(mpirun -n "$1" "$3" bench --calibrate --transport "$2" --json --rounds 21)
        "${calibrate[@]}" --calibration "$4.file1" >"$4.rates1"
        mpirun -n "$1" "$3" bench step --transport "$2" --params "$5" --norm "$6" --json >"$4.step"
        "${calibrate[@]}" --calibration "$4.file2" >"$4.rates2"' \
        _ "$1" "$2" "$build/zopt" "$work/$name" "$3" "$4"
    for turn in 1 2; do
        "$build/zopt" plan --time --params "$3" --ranks "$1" --transport "$2" --device cpu \
            --calibration "$work/$name.file$turn" --json >"$work/$name.plan$turn"
    done
}

for n in "${params[@]}"; do
    for norm in off on; do
        measure 2 shm "$n" $norm
        measure 2 mpi "$n" $norm
        measure 4 shm "$n" $norm
    done
done

python3 - "$work" "${names[@]}" <<'PY'
import json, sys

work = sys.argv[1]

def predicted(name, turn, row):
    plan = json.load(open(f"{work}/{name}.plan{turn}"))
    (time,) = [t for t in plan["times"] if t["ranks"] == row["ranks"]]
    assert time["rates"] == "measured", time
    return time["step_s" if row["norm"] else "step_without_norm_s"] * 1e3

print("| ranks | transport | parameters | norm | predicted before, after (ms) | measured (ms) |"
      " predicted/measured |")
print("|---|---|---|---|---|---|---|")
for name in sys.argv[2:]:
    for row in json.load(open(f"{work}/{name}.step"))["rows"]:
        before, after = (predicted(name, turn, row) for turn in (1, 2))
        print(f"| {row['ranks']} | {row['transport']} | {row['params'] / 1e6:.1f}M |"
              f" {'on' if row['norm'] else 'off'} | {before:.1f}, {after:.1f} |"
              f" {row['time_ms']:.1f} | {(before + after) / 2 / row['time_ms']:.2f} |")
PY
