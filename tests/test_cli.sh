#!/usr/bin/env bash
# The command: exit codes and texts for bad input, the figures of zopt plan, the shape of its JSON.
#
# usage: tests/test_cli.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_cli.sh BUILD_DIR}" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
zopt="$build/zopt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"

# One line on stderr that begins with the command.
expect_error() {
    expect "$@"
    if [ "$(wc -l <err.txt)" != 1 ] || ! grep -q '^zopt' err.txt; then
        fail "${*:3} : wants one line on stderr, has: $(cat err.txt)"
    fi
}

# json EXPRESSION: prints a Python expression over the object j in out.txt.
json() {
    python3 -c "import json; j = json.load(open('out.txt')); print($1)"
}

expect_json() { # EXPRESSION VALUE
    local got
    got=$(json "$1" 2>&1)
    [ "$got" = "$2" ] || fail "$1 is $got, not $2"
}

# What cannot be written is told, and not called a success.
expect_full() { # COMMAND...
    local got=0
    timeout 60 "$@" >/dev/full 2>err.txt || got=$?
    if [ "$got" != 73 ] || ! grep -q '^zopt.*: cannot write ' err.txt; then
        fail "$* >/dev/full : exit code $got: $(cat err.txt)"
    fi
}

has() { # KIND NAME: whether doctor's inventory calls it usable
    "$zopt" doctor --json >out.txt
    [ "$(json "any(r['kind'] == '$1' and r['name'] == '$2' and r['usable'] for r in j['inventory'])")" = True ]
}

test_command() {
    expect 0 "zopt 0." "$zopt" --version
    expect 0 "Exit codes: 0 ok" "$zopt" --help
    expect 0 "doctor " "$zopt" --help
    expect 64 "Usage" "$zopt"
    expect 64 "unrecognized option" "$zopt" --nonsense
    expect_error 64 "unknown command 'trian'; did you mean 'train'?" "$zopt" trian
    expect_error 64 "unknown command 'xyzzy'; see zopt --help" "$zopt" xyzzy
    local command
    expect_full "$zopt" --help
    expect_full "$zopt" --version
    for command in plan doctor; do
        expect_full "$zopt" "$command" --help
        expect 0 "Usage: zopt $command" "$zopt" "$command" --help
        expect 64 "unrecognized option '--nonsense'" "$zopt" "$command" --nonsense
    done
}

test_plan_arguments() {
    local bad
    expect 64 "give a run file or --params" "$zopt" plan
    for bad in -1 0 nan inf 1e300 many 1.5 "" 7e9x; do
        expect 64 "is not a whole number in [1, 10000000000000]" "$zopt" plan --params="$bad"
    done
    for bad in 0 -1 5000 two 1.5; do
        expect 64 "is not a whole number in [1, 4096]" "$zopt" plan --params 1e6 --ranks="$bad"
    done
    for bad in "" "," "1," ",1" "1,,2"; do
        expect 64 "is not a list of numbers" "$zopt" plan --params 1e6 --ranks="$bad"
    done
    expect 64 "--slots '0' is not" "$zopt" plan --params 1e6 --slots 0
    expect 64 "--bucket '-5' is not" "$zopt" plan --params 1e6 --bucket=-5
    expect 64 "--dtype 'fp8' is not one of fp16, bf16, fp32" "$zopt" plan --params 1e6 --dtype fp8
    expect 64 "too many buckets" "$zopt" plan --params 1e12 --bucket 1
    expect 64 "too many buckets" "$zopt" plan --params 1e13 --ranks 4096
    expect 64 "--set is for run files" "$zopt" plan --params 1e6 --set seed=1
    expect 64 "give a run file or --params" "$zopt" plan --params 1e6 run.json
    expect_error 78 "unknown optimizer 'adamww'; did you mean 'AdamW'" \
        "$zopt" plan --params 1e6 --optimizer adamww
    expect_error 78 "unknown device 'tpu'" "$zopt" plan --params 1e6 --device tpu
    expect 64 "are for --params" "$zopt" plan --device cpu run.json
    expect_error 78 "pigeon" "$zopt" plan --params 1e6 --ranks 2 --transport pigeon
}

# A GPU's bytes need no GPU, but a build that knows of them.
test_plan_of_a_gpu() {
    if "$zopt" doctor | grep -q "built without CUDA"; then
        expect_error 78 "built without CUDA" "$zopt" plan --params 1e6 --device cuda
    else
        expect 0 "1000000 parameters in fp16" "$zopt" plan --params 1e6 --device cuda
        expect 0 "1 rank: zopt_step is enqueued, and replayed as a CUDA graph" \
            "$zopt" plan --params 1e6 --device cuda --ranks 1
        expect 0 "2 ranks: zopt_step waits for its sums: its transport sums on the host" \
            "$zopt" plan --params 1e6 --device cuda --ranks 1,2
        expect_error 78 "sums up to 127 ranks at once, not 128" \
            "$zopt" plan --params 1e6 --device cuda --ranks 128
        expect_full "$zopt" plan --params 70e9 --device cuda
        expect 0 "" "$zopt" plan --params 70e9 --device cuda --ranks 8
        grep -qE "^ +8 +8 +cuda +140\.000 GB +140\.000 GB +35\.000 GB " out.txt ||
            fail "no line for the GPU's memory: $(cat out.txt)"
        grep -qE "^ +host +0 +0 +0 +0 +0 " out.txt ||
            fail "no line for the host's memory: $(cat out.txt)"
        plan_of_offload
    fi
    expect_error 78 "nothing to offload from device 'cpu'" "$zopt" plan --params 1e6 --offload cpu
    expect_error 78 "'nvme' is not available" "$zopt" plan --params 1e6 --offload nvme
    expect 64 "--offload are for --params" "$zopt" plan --offload cpu run.json
}

# State on the host, 12/N bytes a parameter; parameters and gradients on the GPU, 4; no more than
# 12 bytes for each of a slice's elements, 4 million here, on their way.
plan_of_offload() {
    expect 0 "70000000000 parameters" "$zopt" plan --params 70e9 --device cuda --offload cpu --ranks 8
    grep -qE "^ +8 +8 +cuda +140\.000 GB +140\.000 GB +0 +0 +0 " out.txt ||
        fail "no line for the GPU's memory: $(cat out.txt)"
    grep -qE "^ +host +0 +0 +35\.000 GB +35\.000 GB +35\.000 GB " out.txt ||
        fail "no line for the host's memory: $(cat out.txt)"
    expect 0 "" "$zopt" plan --params 70e9 --device cuda --offload cpu --ranks 1,8 --json
    expect_json "[{k: v for k, v in r['on_device'].items() if k in ('master', 'exp_avg',
        'exp_avg_sq')} for p in j['plans'] for r in p['per_rank']].count(
        {'master': 0, 'exp_avg': 0, 'exp_avg_sq': 0})" 9
    expect_json "[r['on_device']['params'] == r['params'] and r['on_device']['grads'] == r['grads']
        for p in j['plans'] for r in p['per_rank']].count(False)" 0
    expect_json "j['plans'][0]['per_rank'][0]['staging'] == 2 * (2 + 2) * 4194304" True
    expect_json "[r['on_device']['staging'] == 4 * 524288 for r in j['plans'][1]['per_rank']
        ].count(False)" 0
}

# 70e9 parameters: the table that users know, and 4 + 12/N bytes a parameter of params, gradients,
# master and state, which padding raises by less than a millionth.
test_plan_figures() {
    expect_full "$zopt" plan --params 70e9
    expect_full "$zopt" plan --params 70e9 --json
    local row n
    expect 0 "70000000000 parameters in fp16" "$zopt" plan --params 70e9 --ranks 1,8,64
    for row in "parameters +140\.000 GB" "gradients +140\.000 GB" "exp_avg, FP32 +280\.000 GB" \
        "exp_avg_sq, FP32 +280\.000 GB" "master weights, FP32 +280\.000 GB" "sum +1120\.000 GB" \
        "stage 1, FP32 states +16\.0000 +5\.5000 +4\.1875" \
        "stage 1, 8-bit states +10\.0312 +4\.7539 +4\.0942" "stage 3, FP32 states .* 0\.2500"; do
        grep -qE "^[ *] $row( |$)" out.txt || fail "plan --params 70e9 has no row '$row'"
    done
    # What runs here is marked: both precisions of stage 1, and nothing else.
    grep -q "^\* stage 1, 8-bit states" out.txt || fail "plan does not mark 8-bit states as here"
    [ "$(grep -c '^\*' out.txt)" = 2 ] || fail "plan marks other stages than 1"
    expect 0 "" "$zopt" plan --params 70e9 --ranks 1,8,64 --json
    expect_json "[p['ranks'] for p in j['plans']]" "[1, 8, 64]"
    expect_json "[len(p['per_rank']) for p in j['plans']]" "[1, 8, 64]"
    expect_json "all(r['rank'] == i for p in j['plans'] for i, r in enumerate(p['per_rank']))" True
    expect_json "all(r['total'] == sum(v for k, v in r.items() if k not in ('rank', 'total'))
        for p in j['plans'] for r in p['per_rank'])" True
    for n in 0 1 2; do
        expect_json "[abs(sum(r[k] for k in ('params', 'grads', 'master', 'exp_avg', 'exp_avg_sq'))
            / 70e9 / (4 + 12 / j['plans'][$n]['ranks']) - 1) < 1e-6
            for r in j['plans'][$n]['per_rank']].count(False)" 0
    done
    expect_json "[p['per_rank'][0]['grad_accum'] for p in j['plans']]" "[0, 0, 0]"
    # All gradients but its own slice leave a rank, and its slice of parameters goes to all others.
    expect_json "[round(p['bytes_sent_per_step'] / (4 * 70e9 * (1 - 1 / p['ranks'])), 6)
        for p in j['plans'][1:]]" "[1.0, 1.0]"
    # Two slots for each rank: FP32 sums of 4/N bytes more, and twice the gradients sent.
    expect 0 "" "$zopt" plan --params 70e9 --ranks 8 --slots 16 --json
    expect_json "round(j['plans'][0]['per_rank'][0]['grad_accum'] / 70e9, 4)" 0.5
    expect_json "round(j['plans'][0]['bytes_sent_per_step'] / (6 * 70e9 * 7 / 8), 4)" 1.0
    # One parameter on more ranks than elements.
    # Two nodes of 8 that sum before they send: half the gradients' bytes with groups of 4, and twice
    # as many with FP32 slices. The parameters cross once, by the rank of equal place.
    local sent
    for sent in "1:8" "2:8" "4:4" "8:2" "16:8"; do
        expect 0 "" "$zopt" plan --params 70e9 --ranks 16 --ranks-per-node 8 --slots 32 \
            --reduce-group "${sent%:*}" --json
        expect_json "j['plans'][0]['transport']" shm
        expect_json "round(j['plans'][0]['bytes_between_nodes_per_step'] * 16 / 140e9, 4)" \
            "$((2 * ${sent#*:} + 1)).0"
    done
    expect_json "round(j['plans'][0]['per_rank'][0]['grad_accum'] * 16 / 70e9, 3)" 4.0
    expect 0 "" "$zopt" plan --params 70e9 --ranks 12 --ranks-per-node 8 --reduce-group 5 --slots 24 --json
    expect_json "j['plans'][0]['transport']" mpi
    expect_json "round(j['plans'][0]['per_rank'][0]['grad_accum'] * 12 / 70e9, 3)" 8.0
    expect 0 "between nodes" "$zopt" plan --params 70e9 --ranks 8,16 --ranks-per-node 8
    # GPUs of a node reach each other's memory, and the rest is as between nodes that share theirs.
    if "$zopt" plan --params 1 --device cuda >cuda.txt 2>&1; then
        expect 0 "" "$zopt" plan --params 70e9 --ranks 16 --ranks-per-node 8 --slots 32 \
            --reduce-group 8 --device cuda --json
        expect_json "j['plans'][0]['transport'].split('+')[0]" ipc
        expect_json "round(j['plans'][0]['bytes_between_nodes_per_step'] * 16 / 140e9, 4)" 5.0
        # Over NCCL sums cross alike, and parameters from each rank to each.
        expect 0 "" "$zopt" plan --params 70e9 --ranks 16 --ranks-per-node 8 --slots 32 \
            --reduce-group 8 --device cuda --transport nccl --json
        expect_json "round(j['plans'][0]['bytes_between_nodes_per_step'] * 16 / 140e9, 4)" 12.0
    fi
    expect 0 "" "$zopt" plan --params 1 --ranks 5 --json
    expect_json "len(j['plans'][0]['per_rank'])" 5
}

test_doctor() {
    expect 0 "This machine and launch:" "$zopt" doctor
    expect 0 "" "$zopt" doctor --json
    expect_json "sorted(j['checks'][0])" "['check', 'finding', 'fix', 'level']"
    expect_json "any(r['name'] == 'self' and r['usable'] for r in j['inventory'])" True
    expect 1 "WORLD_SIZE=4, but no mpirun started this process" env RANK=1 WORLD_SIZE=4 "$zopt" doctor
    expect 64 "takes no argument" "$zopt" doctor me
    expect_full "$zopt" doctor
    expect_full "$zopt" doctor --json
    # A warning has something to warn of: threads that several ranks would start.
    expect 0 "threads    ok " env -u OPENBLAS_NUM_THREADS "$zopt" doctor
    expect 0 "threads    ok " env OPENBLAS_NUM_THREADS=1 OMPI_COMM_WORLD_SIZE=2 "$zopt" doctor
}

write_run() { # a run of a few steps on a small text
    seq 1 4000 >small.txt
    cat >run.json <<'JSON'
{
  "train_steps": 2, "train_batch_size": 4, "train_micro_batch_size_per_gpu": 2,
  "model": {"n_layer": 4, "n_head": 2, "n_embd": 32, "n_ctx": 16},
  "eval": {"batches": 1}, "sample": {"length": 5}, "data": {"path": "small.txt"}
}
JSON
}

test_train_errors() {
    expect 64 "no run file given" "$zopt" train
    expect 64 "one run file at a time" "$zopt" train a.json b.json
    expect 64 "requires an argument" "$zopt" train run.json --set
    expect_error 64 "want key=value" "$zopt" train run.json --set seed
    expect 0 "zero_optimization.reduce_bucket_size" "$zopt" train --help-config
    expect_full "$zopt" train --help-config
    expect_error 78 "comm.transport = \"threads\" is not one of: auto, shm, ipc, nccl, nccl-native, mpi, self" \
        "$zopt" train run.json --set comm.transport=threads
    expect_error 78 "comm.transport = \"pigeon\" is not one of: auto, shm, ipc, nccl, nccl-native, mpi, self" \
        "$zopt" train run.json --set comm.transport=pigeon
    expect_error 74 "nothing.json: No such file or directory" "$zopt" train nothing.json
    expect_error 74 "Is a directory" "$zopt" train .
    expect_error 74 "launch/setup.sh makes" "$zopt" train run.json --set data.path=none.txt
    expect_error 78 "did you mean 'train_steps'?" "$zopt" train run.json --set train_stepz=3
    expect_error 78 "got the string \"many\", want an integer" \
        "$zopt" train run.json --set train_steps=many
    expect_error 78 "want a number" "$zopt" train run.json --set optimizer.params.lr=nan
    expect_error 78 "is outside [1, 1000000]" "$zopt" train run.json --set train_batch_size=-4
    expect_error 78 "stage 2 is not available: 1" \
        "$zopt" train run.json --set zero_optimization.stage=2
    expect_error 74 "nothing.txt" "$zopt" train run.json --set data.path=nothing.txt --out o
    printf 'short' >short.txt
    expect_error 65 "short.txt" "$zopt" train run.json --set data.path=short.txt --out o
    printf 'bad \377 byte' >bytes.txt
    expect_error 65 "bytes.txt" "$zopt" train run.json --set data.path=bytes.txt --out o
    expect_error 78 "mpirun" env RANK=0 WORLD_SIZE=4 "$zopt" train run.json --out o
    printf '{"seed": 1,\n "seed": 2}' >twice.json
    expect_error 78 "twice.json:2:" "$zopt" train twice.json
}

test_plan_run_file() {
    expect 0 "" "$zopt" plan run.json --ranks 1,2 --json
    expect_json "[len(p['per_rank']) for p in j['plans']]" "[1, 2]"
    expect 64 "use --set" "$zopt" plan run.json --slots 4
    expect_error 74 "nothing.json" "$zopt" plan nothing.json
    expect_error 78 "did you mean" "$zopt" plan run.json --set modle.n_layer=3
}

# What is planned is what a run counts, category by category and rank by rank.
test_plan_equals_run() { # RANKS
    timeout 120 mpirun -n "$1" "$zopt" train run.json --out "out$1" >log.txt 2>&1 ||
        fail "train on $1 ranks: $(tail -n 3 log.txt)"
    expect 0 "" "$zopt" plan run.json --ranks "$1" --json
    expect_json "j['plans'][0]['per_rank'] == json.load(open('out$1/memory.json'))['per_rank']" True
}

# Ranks with other run files, or other texts, are refused before they train.
test_disagreement() {
    local train=("$zopt" train run.json --out differ)
    expect 78 "rank 0 has seed: 1; rank 1 has seed: 2" \
        mpirun -n 1 "${train[@]}" --set seed=1 : -n 1 "${train[@]}" --set seed=2
    expect 78 "optimizer.params.lr" \
        mpirun -n 2 "${train[@]}" : -n 1 "${train[@]}" --set optimizer.params.lr=0.5
    sed 's/17/71/' small.txt >other.txt
    expect 78 "ranks disagree" \
        mpirun -n 1 "${train[@]}" : -n 1 "${train[@]}" --set data.path=other.txt
}

# Shared memory of zopt's that processes have open or mapped, where it has a name in a file system.
named_memory() { # PID...
    local pid
    for pid in "$@"; do
        find "/proc/$pid/fd" -mindepth 1 -exec readlink {} +
        grep -o '/.*' "/proc/$pid/maps"
    done 2>/dev/null | grep '^/dev/shm/.*zopt' | sort -u
}

# A signal to rank 1 of a run on transport $2 that would go on for long; the job's exit code in $code,
# the named memory that its ranks had in $ours.
signal_rank() { # SIGNAL TRANSPORT
    local job pid pids
    code=0
    rm -rf stop
    mpirun -n 2 "$zopt" train run.json --out stop --set train_steps=1000000 \
        --set comm.deadline_s=2 --set "comm.transport=$2" >out.txt 2>err.txt &
    job=$!
    until [ -s stop/metrics.jsonl ]; do
        kill -0 "$job" 2>/dev/null || { fail "signal $1, $2: $(cat err.txt)"; return; }
        sleep 0.1
    done
    read -ra pids < <(cat /proc/"$job"/task/*/children)
    ours=$(named_memory "${pids[@]}")
    for pid in "${pids[@]}"; do
        grep -q "\"pid\": $pid$" stop/env.json || kill "-$1" "$pid"
    done
    wait "$job" || code=$?
}

# A rank that is waited for in vain ends the job; the one that waited is named once. One that is
# killed ends it too, and leaves no shared memory behind that has a name.
test_lost_rank() {
    local code transport ours name
    for transport in shm mpi; do
        signal_rank STOP "$transport"
        [ "$code" = 75 ] || fail "a stopped rank, $transport: exit code $code: $(cat err.txt)"
        grep -q "^zopt train: rank 0 waited" err.txt || fail "a stopped rank: $(cat err.txt)"
    done
    signal_rank KILL shm
    [ "$code" = 137 ] || [ "$code" = 75 ] || fail "a killed rank: exit code $code: $(cat err.txt)"
    for name in $ours; do
        [ ! -e "$name" ] || fail "a killed rank left $name"
    done
}

test_launches() {
    test_disagreement
    local n
    for n in 1 2 3; do test_plan_equals_run "$n"; done
    expect 78 "rank " mpirun -n 2 "$zopt" train run.json --set train_stepz=2
    # Each rank's checks, and once what the build has.
    # A file for each: mpirun mixes what ranks print.
    rm -rf doctor
    expect 0 "" mpirun -n 3 --output-filename doctor "$zopt" doctor
    cat doctor/*/rank.*/stdout >out.txt
    grep -q "rank 2 of 3" out.txt || fail "the launch of 3 ranks: $(cat out.txt)"
    [ "$(grep -c "^zopt .* has:" out.txt)" = 1 ] || fail "the inventory of 3 ranks: $(cat out.txt)"
    [ "$(grep -c "^This machine and launch, rank [012]:" out.txt)" = 3 ] ||
        fail "the checks of 3 ranks: $(cat out.txt)"
    grep -q "auto takes shm: all 3 ranks are on this node" out.txt ||
        fail "the transport of 3 ranks: $(cat out.txt)"
    OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=6 OMPI_COMM_WORLD_LOCAL_SIZE=4 \
        OMPI_COMM_WORLD_LOCAL_RANK=2 expect 0 "auto takes shm, with messages between 2 nodes of 4" \
        "$zopt" doctor
    OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=6 OMPI_COMM_WORLD_LOCAL_SIZE=4 \
        OMPI_COMM_WORLD_LOCAL_RANK=3 expect 0 "auto takes mpi, not shm" "$zopt" doctor
    test_lost_rank
    expect 78 "needs ranks that share a node, next to each other: rank 0 is alone on '$(hostname)', and rank 1 on" \
        mpirun -n 2 "$zopt" train run.json --out o --set comm.transport=shm \
        --set comm.ranks_per_node=1
    expect 0 "2 ranks over mpi" mpirun -n 2 "$zopt" train run.json --out o --set comm.ranks_per_node=1
    expect 74 "nothing.txt" mpirun -n 1 "$zopt" train run.json --out o : \
        -n 1 "$zopt" train run.json --out o --set data.path=nothing.txt
}

test_command
test_plan_arguments
test_plan_figures
test_plan_of_a_gpu
test_doctor
if has command train; then
    write_run
    test_train_errors
    test_plan_run_file
    if has transport mpi; then
        test_launches
    else
        echo "SKIP: no transport mpi: launches on several ranks"
    fi
else
    expect_error 78 "this build has no trainer" "$zopt" train run.json
    echo "SKIP: no trainer: zopt train and plans of run files"
fi

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "the command: all as expected"
