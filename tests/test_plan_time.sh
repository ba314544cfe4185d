#!/usr/bin/env bash
# zopt plan --time: its arithmetic against values made by hand, what it refuses, and calibration files:
# what zopt bench --calibrate writes and where, and what is no such file. No time is judged.
#
# usage: tests/test_plan_time.sh BUILD_DIR [threads]      (threads: no MPI)
set -uo pipefail

build=$(cd "${1:?usage: tests/test_plan_time.sh BUILD_DIR [threads]}" && pwd)
only_threads=${2-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
zopt="$build/zopt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"
# Open MPI leaks from components that it unloads.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export HOME=$work/home XDG_CACHE_HOME=
mkdir "$HOME"

test_arguments() {
    local bad option
    for bad in 0 -5 nan inf -inf 1e9x 4e19 '' ' ' five; do
        for option in memory host-memory nvlink net pcie; do
            expect 64 "--$option '$bad' is not a number of bytes/s in [1, 1e18]" \
                "$zopt" plan --time --params 1e6 --$option="$bad"
        done
    done
    for bad in -1e-6 nan inf 1e-6s ''; do
        for option in latency node-latency; do
            expect 64 "--$option '$bad' is not a number of s in [0, 1000]" \
                "$zopt" plan --time --params 1e6 --$option="$bad"
        done
    done
    expect 64 "--nvlink is for --time" "$zopt" plan --params 1e6 --nvlink 4e11
    expect 64 "--calibration is for --time" "$zopt" plan --params 1e6 --calibration nowhere
    expect 64 "give a run file or --params" "$zopt" plan --time
    expect 64 "is not a whole number in [1, 4096]" "$zopt" plan --time --params 1e6 --ranks 0
    expect 64 "12 ranks are no whole nodes of 8" "$zopt" plan --time --params 1e6 --ranks 12
    expect 64 "groups of 3 slots do not divide the 8 ranks" \
        "$zopt" plan --time --params 1e6 --ranks 16 --reduce-group 3
    expect 78 "no such transport" "$zopt" plan --time --params 1e6 --transport pigeon
    expect 78 "no such transport" "$zopt" plan --time --params 1e6 --transport shm --device cuda
    expect 0 "nccl" "$zopt" plan --time --nvlink 400e9 --net 50e9 --ranks 8,64,512 --params 7e9
    expect 0 "own 4 / net" "$zopt" plan --time --ranks 64 --params 7e9
}

# check.py: the rows of out.txt against those on stdin, in seconds, a sum or product each:
# RANKS DEVICE TRANSPORT SUMS WAY EXCHANGE SUMS NORM UPDATE GATHER
cat >check.py <<'PYTHON'
import json, math, sys

buckets, meet = int(sys.argv[1]), dict(zip(("64", "8", "1"), (2 * 6 * 1e-5, 2 * 3 * 1e-6, 0)))

def equal(what, got, want):
    assert math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-15), (what, got, want)

rows = {(str(t["ranks"]), t["device"], t["transport"], t["sums"], t["way"]): t
        for t in json.load(open("out.txt"))["times"]}
want = [line.split() for line in sys.stdin if line.strip()]
assert sorted(tuple(w[:5]) for w in want) == sorted(rows), sorted(rows)
for w in want:
    row = rows[tuple(w[:5])]
    exchange, sums, norm, update, gather = values = [eval(x) for x in w[5:]]
    for name, value in zip(("exchange", "sums", "norm", "update", "gather"), values):
        equal((w[:5], name), row["phases"][name]["seconds"], value)
    equal((w[:5], "meet"), row["phases"]["meet"]["seconds"], meet[w[0]])
    # A pipeline of two stages takes the longer one, and one bucket of the other.
    in_turn = w[1] == "cpu" or w[2] == "mpi"
    both = (lambda a, b: a + b) if in_turn else (lambda a, b: max(a, b) + min(a, b) / buckets)
    equal((w[:5], "step"), row["step_s"],
          meet[w[0]] + both(exchange, sums + norm) + both(update, gather))
    equal((w[:5], "without norm"), row["step_without_norm_s"],
          meet[w[0]] / 2 + both(exchange, sums) + both(update, gather))
    assert row["rates"] == "given", row
PYTHON

check() { # BUCKETS; rows on stdin
    python3 check.py "$@" 2>err.txt || fail "plan --time: $(tail -n 1 err.txt)"
}

plan=("$zopt" plan --time --params 6.4e9 --bucket 1e8 --memory 1e12 --host-memory 1e10
    --nvlink 4e11 --net 5e10 --pcie 2.5e10 --node-latency 1e-6 --latency 1e-5 --json)

# P = 6.4e9 of 2 bytes, 24 bytes of states read and written, 64 buckets. A rank of 64 owns 1e8 elements,
# whose 2e8 bytes take 4 ms of net and 0.5 of nvlink, and with 64 messages 0.64 and 0.064 more.
test_many_nodes() {
    expect 0 "" "${plan[@]}" --ranks 64
    check 64 <<'ROWS'
1  cpu  self exact  flat 0 0 6.4e9*2/1e10 6.4e9*28/1e10 0
1  cuda self exact  flat 0 0 6.4e9*2/1e12 6.4e9*28/1e12 0
64 cpu  shm  exact  flat 56*4.64e-3 0 1e8*128/1e10 1e8*(128+24+16)/1e10 7*4.64e-3+2*49*2e8/1e10
64 cpu  shm  exact  hierarchical 7*(1e8*20/1e10+8.64e-3) 1e8*52/1e10 .04 1e8*(4+24+16)/1e10 7*4.64e-3+2*49*2e8/1e10
64 cpu  mpi  exact  flat 7*(2e8/2.5e9+64e-6)+56*4.64e-3 0 1.28 1e8*(128+24+2)/1e10 7*(2e8/5e9+64e-6)+56*4.64e-3
64 cuda mpi  exact  flat 2*12.8e9/2.5e10+7*(2e8/2.5e9+64e-6)+56*4.64e-3 0 .0128 .0154 (2e8+12.8e9)/2.5e10+7*(2e8/5e9+64e-6)+56*4.64e-3
64 cuda ipc  exact  flat 56*4.64e-3 0 .0128 .0168 7*4.64e-3+49*5e-4
64 cuda ipc  exact  hierarchical 7*(.002+7*5e-4+8.64e-3) .0052 .0004 .0044 7*4.64e-3+49*5e-4
64 cuda nccl exact  flat 56*4.64e-3 0 .0128 .0154 63*4.64e-3
64 cuda nccl native flat 63*4.64e-3 0 .0002 .0028 63*4.64e-3
64 cuda nccl exact  hierarchical 7*(8*5e-4+64e-6)+.016+7*8.64e-3 .004 .0004 .003 7*(8*5e-4+64e-6)+7*4.64e-3
64 cuda nccl native hierarchical 7*(8*5e-4+64e-6)+7*4.64e-3 0 .0002 .0028 7*(8*5e-4+64e-6)+7*4.64e-3
ROWS
}

# A rank of 8 owns 8e8 elements, 1.6e9 bytes. 20 slots are 3 exchanges of 8 slices, and FP32 sums.
test_one_node() {
    expect 0 "" "${plan[@]}" --ranks 8
    check 64 <<'ROWS'
1 cpu  self    exact  flat 0 0 1.28 6.4e9*28/1e10 0
1 cuda self    exact  flat 0 0 .0128 6.4e9*28/1e12 0
8 cpu  threads exact  flat 0 0 8e8*16/1e10 8e8*(16+24+16)/1e10 0
8 cpu  shm     exact  flat 0 0 8e8*16/1e10 8e8*(16+24+16)/1e10 0
8 cpu  mpi     exact  flat 7*(1.6e9/2.5e9+64e-6) 0 1.28 8e8*(16+24+2)/1e10 7*(1.6e9/5e9+64e-6)
8 cuda threads exact  flat 0 0 7*1.6e9/4e11 14*1.6e9/4e11 0
8 cuda mpi     exact  flat 2*12.8e9/2.5e10+7*(1.6e9/2.5e9+64e-6) 0 .0128 .0336 (1.6e9+12.8e9)/2.5e10+7*(1.6e9/5e9+64e-6)
8 cuda ipc     exact  flat 0 0 7*1.6e9/4e11 14*1.6e9/4e11 0
8 cuda nccl    exact  flat 7*(4e-3+64e-6) 0 .0128 .0336 7*(4e-3+64e-6)
8 cuda nccl    native flat 7*(4e-3+64e-6) 0 8e8*2/1e12 8e8*28/1e12 7*(4e-3+64e-6)
ROWS
    expect 0 "" "${plan[@]}" --ranks 8 --slots 20 --device cpu
    check 64 <<'ROWS'
1 cpu self    exact flat 0 19*6.4e9*(2+8)/1e10 6.4e9*6/1e10 6.4e9*(6+24+2)/1e10 0
8 cpu threads exact flat 0 2*8e8*(16+8)/1e10 8e8*20/1e10 8e8*(20+24+16)/1e10 0
8 cpu shm     exact flat 0 2*8e8*(16+8)/1e10 8e8*20/1e10 8e8*(20+24+16)/1e10 0
8 cpu mpi     exact flat 3*7*(1.6e9/2.5e9+64e-6) 2*8e8*(16+8)/1e10 1.6 8e8*(20+24+2)/1e10 7*(1.6e9/5e9+64e-6)
ROWS
    expect 0 "" "${plan[@]}" --ranks 8 --optimizer sgd --dtype fp32 --transport self
    python3 -c "import json; j = json.load(open('out.txt')); assert j['state_bytes'] == 4, j" ||
        fail "plan --time: SGD has other states than none"
}

# ---- calibrations ----

file() { # ROWS
    echo "{\"zopt_calibration\": 1, \"rows\": [$1]}"
}

row() { # TRANSPORT RANKS NORM UPDATE GRADIENTS LATENCY PARAMETERS LATENCY
    echo "{\"device\": \"cpu\", \"transport\": \"$1\", \"ranks\": $2, \"kernels\": \"any\", \"meet_s\": 1e-3,
        \"norm_bytes_per_s\": $3, \"update_bytes_per_s\": $4, \"gradients_bytes_per_s\": $5,
        \"gradients_latency_s\": $6, \"parameters_bytes_per_s\": $7, \"parameters_latency_s\": $8}"
}

test_calibrated() {
    file "$(row mpi 2 1e9 2e9 5e8 1e-4 1e9 2e-4)" >given.json
    expect 0 "" "${plan[@]}" --ranks 2,4 --transport mpi --device cpu --calibration given.json
    # 64 messages each way; the slice is 3.2e9 elements.
    python3 - 2>err.txt <<'PYTHON' || fail "plan --calibration: $(tail -n 1 err.txt)"
import json, math
two, four = json.load(open("out.txt"))["times"]
assert (two["rates"], four["rates"]) == ("measured", "given")
want = {"meet": 2e-3, "exchange": 6.4e9 / 5e8 + 64e-4, "sums": 0, "norm": 3.2e9 * 4 / 1e9,
        "update": 3.2e9 * (4 + 24 + 2) / 2e9, "gather": 6.4e9 / 1e9 + 128e-4}
for name, seconds in want.items():
    assert math.isclose(two["phases"][name]["seconds"], seconds, rel_tol=1e-9), (name, two)
assert math.isclose(two["step_s"], sum(want.values()), rel_tol=1e-9)
PYTHON
}

test_odd_name() { # a path is told in JSON as it is
    local odd='q"uo\te.json'
    cp given.json "$odd"
    expect 0 "" "${plan[@]}" --ranks 2 --transport mpi --device cpu --calibration "$odd"
    python3 -c 'import json, sys; assert json.load(open("out.txt"))["given"]["calibration"] == sys.argv[1]' "$odd" ||
        fail "plan --calibration $odd: $(cat out.txt)"
}

test_no_calibrations() {
    local bad use=("$zopt" plan --time --params 1e6 --ranks 2 --device cpu --calibration)
    expect 74 "nowhere.json: cannot read" "${use[@]}" nowhere.json
    expect 65 "not a calibration" "${use[@]}" .
    for bad in '' '{' '[]' '{}' '{"zopt_calibration": 2, "rows": []}' '{"zopt_calibration": 1}' \
        '{"zopt_calibration": 1, "rows": {}}' '{"zopt_calibration": 1, "zopt_calibration": 1, "rows": []}'; do
        echo "$bad" >bad.json
        expect 65 "bad.json: not a calibration" "${use[@]}" bad.json
        expect 65 "bad.json: not a calibration" \
            "$zopt" bench --calibrate --threads 2 --params 600 --calibration bad.json
        [ "$(cat bad.json)" = "$bad" ] || fail "what is no calibration was changed: $bad"
    done
    for bad in 0 -1 '"1"' null 1e400; do
        file "$(row shm 2 1e9 "$bad" 0 0 0 0)" >bad.json
        expect 65 "bad.json" "${use[@]}" bad.json
    done
    file "$(row mpi 2 1e9 1e9 0 0 0 0)" >bad.json
    expect 65 "transport mpi over 2 ranks sends nothing" "${use[@]}" bad.json
    head -c 2000000 /dev/zero >bad.json
    expect 65 "no plain file of at most" "${use[@]}" bad.json
}

# rows FILE: "transport ranks" of each, in order; each of them positive where it must be.
rows() {
    python3 -c '
import json, sys
for r in json.load(open(sys.argv[1]))["rows"]:
    assert r["device"] == "cpu" and r["norm_bytes_per_s"] > 0 and r["update_bytes_per_s"] > 0, r
    assert (r["gradients_bytes_per_s"] > 0) == (r["parameters_bytes_per_s"] > 0) == (r["transport"] == "mpi")
    print(r["transport"], r["ranks"], end=";")' "$1"
}

test_calibrate() {
    mkdir empty
    (
        cd empty || exit 1
        expect 0 "#wrong" "$zopt" bench --calibrate --threads 2 --params 9000 --bucket 1024 --calibration a.json
        expect 0 '"wrong": 0' "$zopt" bench calibrate --threads 3 --params 600 --calibration a.json --json
        expect 0 "" "$zopt" bench --calibrate --threads 2 --params 600 --calibration a.json --optimizer lion
        expect 0 "" "$zopt" bench --calibrate --params 600 --calibration a.json
        [ "$(rows a.json)" = "threads 3;threads 2;self 1;" ] || fail "calibration: $(rows a.json)"
        [ "$(echo *)" = "a.json err.txt out.txt" ] || fail "calibration left behind: $(echo *)"
        exit "$failures"
    ) || fail "calibrations in a folder"
    [ -z "$(ls -A "$HOME")" ] || fail "a calibration with a path wrote into HOME: $(find "$HOME")"
    expect 0 "$HOME/.cache/zopt/calibration.json" "$zopt" bench --calibrate --threads 2 --params 600
    expect 0 "" env XDG_CACHE_HOME="$work/cache" "$zopt" bench --calibrate --threads 2 --params 600
    [ "$(cd "$work" && find home cache -type f | sort | tr '\n' ' ')" = \
        "cache/zopt/calibration.json home/.cache/zopt/calibration.json " ] ||
        fail "calibrations elsewhere: $(find home cache -type f)"
    expect 73 "neither XDG_CACHE_HOME nor HOME" env -u HOME "$zopt" bench --calibrate --params 600
    expect 73 "no/where.json" "$zopt" bench --calibrate --params 600 --calibration no/where.json
    expect 64 "bench step has no calibration" "$zopt" bench step --calibration a.json
    expect 64 "one benchmark at a time" "$zopt" bench step --calibrate
    expect 78 "has no update of single elements" "$zopt" bench --calibrate --params 600 --optimizer adafactor
    rm -f wrong.json
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=element \
        "$zopt" bench --calibrate --threads 2 --params 3000 --optimizer sgd --calibration wrong.json
    [ ! -e wrong.json ] || fail "a wrong result was kept as a calibration"
}

test_calibrate_mpi() {
    rm -f mpi.json
    expect 0 "#wrong" mpirun -n 2 "$zopt" bench --calibrate --params 9000 --calibration mpi.json
    expect 0 "" mpirun -n 3 "$zopt" bench --calibrate --params 600 --transport mpi --calibration mpi.json
    [ "$(rows mpi.json)" = "shm 2;mpi 2;mpi 3;" ] || fail "calibration under mpirun: $(rows mpi.json)"
    expect 0 "measured" "$zopt" plan --time --params 1e6 --ranks 2,3 --calibration mpi.json
    expect 73 "no/where.json" mpirun -n 2 "$zopt" bench --calibrate --params 600 --calibration no/where.json
}

test_calibrate
if [ "$only_threads" != threads ]; then
    test_arguments
    test_many_nodes
    test_one_node
    test_calibrated
    test_odd_name
    test_no_calibrations
    "$zopt" doctor --json >out.txt
    if python3 -c "import json, sys; sys.exit(not any(r['name'] == 'mpi' and r['usable']
        for r in json.load(open('out.txt'))['inventory']))"; then
        test_calibrate_mpi
    else
        echo "SKIP: no transport mpi: calibrations of it"
    fi
fi

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "zopt plan --time: all as expected"
