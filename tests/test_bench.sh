#!/usr/bin/env bash
# zopt bench on small sizes: JSON that can be read, every result right, and exit code 2 where a
# result is wrong or a contestant left out. No time is judged.
#
# usage: tests/test_bench.sh BUILD_DIR [threads]      (threads: no MPI)
set -uo pipefail

build=$(cd "${1:?usage: tests/test_bench.sh BUILD_DIR [threads]}" && pwd)
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

cat >check.py <<'PYTHON'
"""check.py ROWS BASELINE KEY=VALUE...: out.txt has so many rows, all of them right, and with these
values; BASELINE is yes or no."""
import json, math, sys

rows = json.load(open("out.txt"))["rows"]
assert len(rows) == int(sys.argv[1]), "%d rows" % len(rows)
for row in rows:
    # What is added to a backward pass is a difference, of small steps perhaps a negative one.
    times = ["backward_ms" if row.get("overlap") else "time_ms"]
    if row["limit_ms"] is not None:
        times.append("limit_ms")
        assert math.isclose(row["x_limit"], row["time_ms"] / row["limit_ms"], rel_tol=0.01,
                            abs_tol=1e-3), row
    else:  # passes over gradients, beside a copy of memory
        speed = row["bytes_per_param"] * row["params"] / row["time_ms"] * 1e-6
        assert row["copy_gb_per_s"] > 0 and row["optimizer"] == "none", row
        assert math.isclose(row["of_copy"], speed / row["copy_gb_per_s"], rel_tol=0.01, abs_tol=1e-3), row
    if sys.argv[2] == "yes":
        times.append("baseline_ms")
        assert abs(row["time_ms"]) < 1e-3 or math.isclose(
            row["x_baseline"], row["baseline_ms"] / row["time_ms"], rel_tol=0.01), row
    else:
        assert row["baseline_ms"] is None and row["x_baseline"] is None, row
    assert all(row[key] > 0 for key in times), row
    assert row["overlap"] or row["backward_ms"] is None, row
    assert row["wrong"] == 0, row
    for key in ("params", "ranks", "transport", "optimizer", "norm", "bytes_per_param"):
        assert key in row, key
    for word in sys.argv[3:]:
        key, value = word.split("=")
        assert str(row[key]) == value, (key, row[key], value)
PYTHON

# bench ROWS BASELINE VALUES COMMAND...: runs, and its JSON is as check.py wants it.
bench() {
    local n=$1 baseline=$2 values=$3
    shift 3
    expect 0 '"rows"' "$@" --json
    # shellcheck disable=SC2086
    python3 check.py "$n" "$baseline" $values 2>err.txt ||
        fail "$* : $(tail -n 1 err.txt): $(cat out.txt)"
}

# refused CODE TEXT COMMAND...: and nothing on stdout, for whoever reads that.
refused() {
    expect "$@"
    if [ -s out.txt ]; then fail "${*:3} : refused, and yet: $(head -n 2 out.txt)"; fi
}

test_arguments() {
    expect 0 "#wrong counts" "$zopt" bench --help
    refused 64 "no benchmark given" "$zopt" bench
    refused 64 "one benchmark at a time" "$zopt" bench step adam
    refused 64 "there is no benchmark 'stepp'; did you mean 'step'?" "$zopt" bench stepp
    refused 64 "bench norm has no optimizer to choose" "$zopt" bench norm --optimizer lion
    refused 64 "bench accumulate has no transport to choose" "$zopt" bench accumulate --transport self
    refused 64 "bench adam has no transport to choose" "$zopt" bench adam --transport self
    refused 64 "bench comm has no optimizer to choose" "$zopt" bench comm --optimizer lion
    refused 64 "bench adam has no parameter buffers" "$zopt" bench adam --shared-params
    refused 78 "bench ckpt is measured on the CPU alone" "$zopt" bench ckpt --device cuda
    refused 78 "behind a backward pass is measured on the CPU" "$zopt" bench step --device cuda --overlap on
    refused 78 "unknown device 'tpu'" "$zopt" bench step --device tpu
    refused 64 "bench step has no files to choose" "$zopt" bench step --dir .
    refused 64 "bench ckpt has no norm to choose" "$zopt" bench ckpt --norm on
    refused 64 "threads of one process" "$zopt" bench step --params 100 --transport threads
    refused 64 "bench comm has no norm to choose" "$zopt" bench comm --norm on
    refused 64 "bench adam has no backward pass to choose" "$zopt" bench adam --overlap on
    refused 64 "bench comm has no thread to choose" "$zopt" bench comm --progress-thread
    refused 64 "bench adam has no tensors to choose" "$zopt" bench adam --tensors 2
    refused 64 "bench norm has no buckets to choose" "$zopt" bench norm --bucket 512
    refused 64 "bench calibrate has no parameter buffers" "$zopt" bench --calibrate --shared-params
    refused 64 "10 multiply-adds of a backward pass, but no step behind one" \
        "$zopt" bench step --backward 10
    refused 64 "--overlap 'maybe' is not one of" "$zopt" bench step --overlap maybe
    refused 64 "--params 'many' is not a whole number" "$zopt" bench step --params many
    refused 64 "--params '3e9' is not a whole number in [1, 2147483136]" "$zopt" bench step --params 3e9
    refused 64 "--params is a list" "$zopt" bench step --params 1,,2
    refused 64 "--rounds 10: a median of fewer than 11" "$zopt" bench step --rounds 10
    refused 64 "--threads '0' is not" "$zopt" bench step --threads 0
    refused 64 "bench adam has no trace to choose" "$zopt" bench adam --trace trace.json
    refused 64 "a trace is of one row, and these are 2" "$zopt" bench step --trace trace.json
    refused 73 "nowhere/trace.json: No such file or directory" \
        "$zopt" bench step --threads 2 --params 100 --norm on --trace nowhere/trace.json
    refused 64 "--norm 'maybe' is not one of" "$zopt" bench step --norm maybe
    refused 64 "norm off: Adafactor needs finite gradients" \
        "$zopt" bench step --params 100 --norm off --optimizer adamw,adafactor
    refused 64 "norm off: Adafactor" "$zopt" bench step --params 100 --norm both --optimizer adafactor
    refused 64 "--dtype 'fp32' is not one of" "$zopt" bench step --dtype fp32
    refused 64 "8 tensors are more than 7 parameters" "$zopt" bench step --threads 2 --params 7 --tensors 8
    refused 78 "did you mean 'AdamW'" "$zopt" bench adam --params 100 --optimizer adamww
    refused 78 "transport self connects 1 of 2 ranks" "$zopt" bench step --threads 2 --params 100 \
        --transport self
    refused 78 "there are auto, threads, shm" "$zopt" bench comm --params 100 --transport tcp
    refused 78 "did you mean \"threads\"" "$zopt" bench comm --threads 2 --params 100 --transport thread
    refused 78 "there are auto, threads, shm" "$zopt" bench step --params 100 --transport self,tcp --json
    refused 78 "did you mean 'AdamW'" "$zopt" bench step --params 100 --optimizer lion,adamww
    refused 64 "8 tensors are more than 7 parameters" "$zopt" bench ckpt --params 100,7 --tensors 8 --json
}

optimizers() { # LIST of the optimizers that this build has
    "$zopt" doctor --json >out.txt
    python3 -c "import json; print(','.join(r['name'] for r in json.load(open('out.txt'))['inventory']
        if r['kind'] == 'optimizer' and r['name'] not in '$1'.split(',')))"
}

test_threads() {
    local all
    bench 2 yes "ranks=2 optimizer=AdamW8bit" \
        "$zopt" bench adam --threads 2 --params 9000,20001 --optimizer adamw8bit
    all=$(optimizers none)
    bench "$(tr , '\n' <<<"$all" | wc -l)" no "ranks=2 transport=threads norm=True" \
        "$zopt" bench step --threads 2 --params 9000 --tensors 2 --norm on --optimizer "$all"
    # Of Adafactor there is no step without the norm, and no row that says so.
    bench 1 no "optimizer=Adafactor norm=True" "$zopt" bench step --threads 2 --params 9000 --optimizer adafactor
    bench 3 no "ranks=2" "$zopt" bench step --threads 2 --params 900 --optimizer adamw,adafactor
    # One element, more ranks than blocks, a size that no number of ranks divides.
    bench 6 no "ranks=3 threads=True" "$zopt" bench step --threads 3 --params 1,300,10007 --bucket 512
    bench 2 no "tensors=100 dtype=bf16" \
        "$zopt" bench step --threads 2 --params 20000 --tensors 100 --dtype bf16
    bench 2 no "ranks=2 shared_params=True" \
        "$zopt" bench step --threads 2 --params 10007 --shared-params
    # Behind a backward pass: more tensors than a size has, sums on a thread and in calls.
    bench 6 no "ranks=3 norm=True progress_thread=True" \
        "$zopt" bench step --threads 3 --params 1,300,10007 --norm on --overlap both --progress-thread
    bench 2 no "ranks=2 overlap=True tensors=64 progress_thread=False" \
        "$zopt" bench step --threads 2 --params 100000 --bucket 4096 --overlap on --backward 10
    bench 1 no "ranks=2 overlap=True tensors=3" \
        "$zopt" bench step --threads 2 --params 30000 --tensors 3 --overlap on --norm on --optimizer adafactor
    bench 1 no "ranks=2 overlap=True" "$zopt" bench step --threads 2 --params 100000 --bucket 4096 \
        --overlap on --norm on --backward 10 --trace trace.json
    python3 -c "
import json
t = json.load(open('out.txt'))['rows'][0]['trace']
spans = [e for e in json.load(open('trace.json'))['traceEvents'] if e['name'] == 'norm']
assert t['steps'] == 13 and len(spans) == 2 * 13 * t['buckets'], t
assert t['summed'] + t['exposed'] == t['buckets'] >= t['exchanged'] >= t['summed'] and t['exposed'] >= 1, t
" 2>err.txt || fail "trace: $(tail -n 1 err.txt)"
    # shellcheck disable=SC2016
    expect 73 "the trace trace.json lacks steps" bash -c 'ulimit -f 8; exec "$@"' limited \
        "$zopt" bench step --threads 2 --params 100 --norm on --trace trace.json
    grep -q "AdamW .* 0$" out.txt || fail "a row that was measured is not told: $(cat out.txt)"
    python3 -m json.tool trace.json >/dev/null 2>err.txt || fail "trace: $(tail -n 1 err.txt)"
    bench 2 no "ranks=3 optimizer=none bytes_per_param=12.0" "$zopt" bench comm --threads 3 --params 1,10007
    bench 2 yes "ranks=2 transport=none bytes_per_param=28.0" "$zopt" bench adam --threads 2 --params 1,10007
    bench 2 no "ranks=3 bytes_per_param=2.0 dtype=bf16" \
        "$zopt" bench norm --threads 3 --params 1,100007 --dtype bf16
    bench 2 no "ranks=2 bytes_per_param=10.0" "$zopt" bench accumulate --threads 2 --params 1,100007
    all=$(optimizers Adafactor) # whose kernel does not run alone
    bench "$(tr , '\n' <<<"$all" | wc -l)" yes "ranks=1" \
        "$zopt" bench adam --threads 1 --params 5000 --dtype bf16 --optimizer "$all"
}

# What `bench ckpt` has beside the others: two files of 12 bytes a parameter and their headers, and
# nothing is left of them.
bench_ckpt() { # ROWS VALUES COMMAND...
    bench "$1" yes "$2" "${@:3}"
    python3 - 2>err.txt <<'PYTHON' || fail "${*:3} : $(tail -n 1 err.txt): $(cat out.txt)"
import json, math
for row in json.load(open("out.txt"))["rows"]:
    assert 12 * row["params"] <= row["bytes"] <= 12 * row["params"] + 65536 or row["optimizer"] != "AdamW", row
    assert math.isclose(row["bytes_per_param"], row["bytes"] / row["params"], rel_tol=1e-3), row
    assert math.isclose(row["gb_per_s"], row["bytes"] / row["time_ms"] * 1e-6, rel_tol=0.01, abs_tol=1e-3), row
    assert math.isclose(row["x_copy"], row["hold_ms"] / row["snapshot_copy_ms"], rel_tol=0.01), row
    assert row["load_ms"] > 0 and row["hold_ms"] > 0 and row["snapshot_copy_ms"] > 0, row
    assert row["direct"] in (True, False), row
    assert (row["dd_ms"] is None) == (not row["direct"]), row
    assert row["dd_ms"] is None or math.isclose(row["x_dd"], row["dd_ms"] / row["time_ms"], abs_tol=0.01), row
PYTHON
    [ -z "$(find . -name 'zopt-bench-*')" ] || fail "left behind: $(find . -name 'zopt-bench-*')"
}

test_ckpt() {
    bench_ckpt 2 "ranks=2 transport=threads norm=False tensors=3" \
        "$zopt" bench ckpt --threads 2 --params 300,100007 --tensors 3 --dir "$work"
    bench_ckpt 1 "norm=True" "$zopt" bench ckpt --threads 1 --params 300 --optimizer adafactor
    bench_ckpt 2 "ranks=3" "$zopt" bench ckpt --threads 3 --params 9001 --tensors 2 \
        --optimizer adafactor,adamw8bit --dtype bf16
    local fault
    for fault in subject limit baseline dd load hold copy; do
        expect 2 "are wrong" env ZOPT_BENCH_FAULT=$fault "$zopt" bench ckpt --threads 2 --params 3000
    done
    # AdamW's step hardly depends on the size of a gradient that is the same in every step.
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=element "$zopt" bench ckpt --threads 2 --params 3000 --optimizer sgd
    expect 78 "cannot start dd" env PATH=nowhere "$(command -v "$zopt")" bench ckpt --threads 2 --params 300
    expect 73 "nowhere: cannot make a folder in it" "$zopt" bench ckpt --params 300 --dir nowhere
    [ -z "$(find . -name 'zopt-bench-*')" ] || fail "left behind: $(find . -name 'zopt-bench-*')"
}

# A contestant that leaves out a round, or one wrong element, is found by the numbers.
test_faults() {
    local fault command
    for fault in subject limit element; do
        for command in step adam comm norm accumulate; do
            case $fault:$command in limit:norm | limit:accumulate) continue ;; esac
            expect 2 "are wrong" env ZOPT_BENCH_FAULT=$fault "$zopt" bench $command --threads 2 --params 3000
        done
    done
    for fault in subject limit element backward; do
        expect 2 "are wrong" env ZOPT_BENCH_FAULT=$fault "$zopt" bench step --threads 2 --params 3000 \
            --overlap on --progress-thread
    done
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=baseline "$zopt" bench adam --threads 2 --params 3000
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=copy "$zopt" bench norm --threads 2 --params 3000
    expect 2 '"wrong": 4' env ZOPT_BENCH_FAULT=limit "$zopt" bench step --threads 1 --params 1 --norm off --json
}

test_mpi() {
    bench 2 yes "ranks=3" mpirun -n 3 "$zopt" bench step --params 10007
    bench 1 yes "ranks=2 transport=mpi" \
        mpirun -n 2 "$zopt" bench step --params 5000 --transport mpi --norm off --tensors 3
    bench 1 yes "ranks=2 transport=mpi optimizer=none" \
        mpirun -n 2 "$zopt" bench comm --params 5000 --transport mpi --dtype bf16
    bench 1 yes "ranks=2 transport=shm shared_params=True" \
        mpirun -n 2 "$zopt" bench step --params 5000 --transport shm --norm off --shared-params
    bench 1 yes "ranks=2 transport=shm overlap=True" \
        mpirun -n 2 "$zopt" bench step --params 50000 --transport shm --norm on --overlap on
    bench 1 yes "ranks=2 transport=mpi overlap=True progress_thread=True" \
        mpirun -n 2 "$zopt" bench step --params 50000 --transport mpi --norm on --overlap on --progress-thread
    bench 1 yes "ranks=2 transport=shm" mpirun -n 2 "$zopt" bench comm --params 5000 --shared-params
    bench 1 yes "ranks=2" mpirun -n 2 "$zopt" bench adam --params 5000
    bench_ckpt 1 "ranks=2 transport=shm" mpirun -n 2 "$zopt" bench ckpt --params 5000
    bench_ckpt 1 "ranks=3 transport=mpi" mpirun -n 3 "$zopt" bench ckpt --params 5000 --transport mpi
    bench_ckpt 1 "ranks=1" "$zopt" bench ckpt --params 5000
    expect 0 "x baseline" mpirun -n 2 "$zopt" bench ckpt --params 5000
    if grep "no baseline" out.txt; then fail "a save has a baseline, and it says that there is none"; fi
    # Threads that all start MPI would end the process without a word of zopt's.
    expect 78 "ranks" "$zopt" bench step --threads 2 --params 100 --transport mpi
    expect 78 "ranks" "$zopt" bench comm --threads 2 --params 100 --transport shm
    bench 2 yes "ranks=1" "$zopt" bench step --params 5000
    expect 0 "#wrong" mpirun -n 2 "$zopt" bench step --params 5000
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=baseline mpirun -n 2 "$zopt" bench step --params 3000
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=baseline mpirun -n 2 "$zopt" bench comm --params 3000
    expect 2 "are wrong" env ZOPT_BENCH_FAULT=limit mpirun -n 2 "$zopt" bench step --params 3000
}

test_threads
test_ckpt
test_faults
if [ "$only_threads" != threads ]; then
    test_arguments
    "$zopt" doctor --json >out.txt
    if python3 -c "import json, sys; sys.exit(not any(r['name'] == 'mpi' and r['usable']
        for r in json.load(open('out.txt'))['inventory']))"; then
        test_mpi
    else
        echo "SKIP: no transport mpi: the baseline of whole steps"
    fi
fi

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "zopt bench: all as expected"
