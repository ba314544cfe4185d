#!/usr/bin/env bash
# launch/run.sh against launchers that play a given part: what is started again and what is not, with
# how many ranks, and what a signal does. No MPI is needed.
#
# usage: tests/test_run.sh
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=tests/expect.sh
source "$root/tests/expect.sh"
unset SLURM_NTASKS SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES

# A launcher: the n-th start does what line n of `part` says, "CODE [STEP]": leave a checkpoint of
# that step, exit with that code. "signal STEP": wait to be told to save and stop, and do so. "late
# STEP": the same, but the first time it has no ranks to tell. "ending": end slowly, unable to hear
# a signal. "deaf": wait for a SIGTERM. Beyond the last line: exit with 0. Every start is a line of
# `starts`.
mkdir bin
cat >bin/mpirun <<'FAKE'
#!/usr/bin/env bash
echo "$(basename "$0") $*" >>starts
read -r code step < <(sed -n "$(wc -l <starts)p" part)
save() { mkdir -p "out/checkpoints/step-$(printf %08d "$1")"; }
case ${code:-0} in
signal)
    trap 'save "$step"; exit 0' USR1
    touch ready
    while :; do sleep 0.05; done
    ;;
late)
    trap 'trap "save $step; exit 0" USR1' USR1
    touch ready
    for _ in {1..400}; do sleep 0.05; done
    exit 78 # never told again
    ;;
ending) # its rank stops; then it has neither children nor a handler, over two repeats
    sleep 100 &
    rank=$!
    exec 3<><(:)
    trap 'kill $rank' USR1
    touch ready
    wait "$rank" # ends at the signal
    wait "$rank"
    trap - USR1
    read -rt 2.5 <&3
    exit 0
    ;;
deaf)
    trap '' USR1
    trap 'exit 143' TERM
    touch ready
    while :; do sleep 0.05; done
    ;;
stuck) # its rank dies, and it does not notice
    sleep 1.5 &
    trap '' TERM
    while :; do read -rt 1 <><(:); done
    ;;
early)
    touch ready
    exec sleep 100 # no handler
    ;;
esac
if [ -n "${step:-}" ]; then save "$step"; fi
exit "${code:-0}"
FAKE
chmod +x bin/mpirun
cp bin/mpirun bin/srun
# Hosts whose names begin with "gone" do not answer.
cat >bin/ssh <<'FAKE'
#!/usr/bin/env bash
[[ ${*: -2:1} != gone* ]]
FAKE
cat >bin/sinfo <<'FAKE'
#!/usr/bin/env bash
printf '%s\n' "n1 allocated" "n1 allocated" "n2 down*" "n3 mixed"
FAKE
chmod +x bin/*
export PATH="$work/bin:$PATH" ZOPT=zopt

play() { # [line of the part]...
    rm -rf out starts ready
    printf '%s\n' "$@" >part
}

started() { # TIMES
    [ "$(wc -l <starts)" = "$1" ] || fail "started $(wc -l <starts) times, not $1: $(cat part)"
}

run=("$root/launch/run.sh" --backoff 0 --max-restarts 2)

test_codes() {
    local code
    for code in 0 2 64 65 70 73 74 77 78 126 127; do
        play "$code"
        expect "$code" "" "${run[@]}" -n 3 run.json --out out
        started 1
    done
    for code in 1 75 134 137 139; do
        play "$code 10" "0"
        expect 0 "exit code $code; newest checkpoint: 10; starting again" \
            "${run[@]}" -n 3 run.json --out out
        started 2
    done
}

test_command_line() {
    play 0
    expect 0 "" "${run[@]}" -n 3 run.json --set seed=2
    grep -qxF "mpirun -n 3 zopt train run.json --set seed=2 --out runs/run --resume auto" starts ||
        fail "the command line: $(cat starts)"
    play 0
    expect 0 "" "${run[@]}" run.json --out=a/b --resume never
    grep -qxF "mpirun -n 1 zopt train run.json --out=a/b --resume never" starts ||
        fail "the command line: $(cat starts)"
    expect 64 "no run file given" "${run[@]}" -n 2
    expect 64 "unknown option --rnaks" "${run[@]}" --rnaks 2 run.json
    local number
    for number in x -1 08 99999999999; do
        expect 64 "'$number' is not a whole number" "${run[@]}" -n "$number" run.json
        expect 64 "'$number' is not a whole number" "${run[@]}" --backoff "$number" run.json
    done
    expect 64 "not 3 and 2" "${run[@]}" -n 2 --min-ranks 3 run.json
    expect 64 "cannot read nothing" "${run[@]}" --hostfile nothing run.json
    expect 64 "-n wants a value" "${run[@]}" -n
}

# A launcher that outlives its ranks is killed, and started again.
test_stuck_launcher() {
    play stuck 0
    expect 0 "the ranks are gone and mpirun is not: killing it" \
        env ZOPT_LAUNCHER_PATIENCE=1 "${run[@]}" run.json --out out
    started 2
}

# Given up when it brings nothing, with the code of the last start; never while it moves on.
test_progress() {
    play 137 139 134 137
    expect 134 "3 starts in a row brought no newer checkpoint: giving up" \
        "${run[@]}" run.json --out out
    started 3
    play "137 5" 137 137 "137 10" 137 137 "137 10" 0
    expect 137 "3 starts in a row" "${run[@]}" run.json --out out
    started 7
    play "137 1" "137 2" "137 3" "137 4" "137 5" "137 6" "0"
    expect 0 "newest checkpoint: 6" "${run[@]}" run.json --out out
    started 7
    mkdir -p out/checkpoints/step-00000099.tmp
    printf '%s\n' "137" "137" "137" >part
    rm starts
    expect 137 "newest checkpoint: 6" "${run[@]}" run.json --out out # not the unfinished one
}

# SIGNAL CODE LINE...: signal the wrapper when its first start is there.
signal_run() {
    local signal=$1 want=$2 code=0 wrapper
    shift 2
    play "$@"
    "${run[@]}" run.json --out out >out.txt 2>err.txt &
    wrapper=$!
    until [ -e ready ]; do sleep 0.02; done
    kill "-$signal" "$wrapper"
    if [ "$1" = deaf ]; then
        until grep -q "saving and stopping" err.txt; do sleep 0.02; done
        kill "-$signal" "$wrapper"
    fi
    wait "$wrapper" || code=$?
    [ "$code" = "$want" ] || fail "$signal while '$1': exit code $code, not $want: $(cat err.txt)"
    started 1
}

test_signals() {
    signal_run TERM 0 "signal 7"
    [ -d out/checkpoints/step-00000007 ] || fail "SIGTERM: nothing was saved"
    # An interrupt is ignored by what a script starts in the background, so a shell of its own.
    set -m
    signal_run INT 0 "signal 8"
    set +m
    signal_run USR1 0 "signal 9"
    [ -d out/checkpoints/step-00000009 ] || fail "SIGUSR1: nothing was saved"
    signal_run TERM 0 "late 10"
    [ -d out/checkpoints/step-00000010 ] || fail "SIGTERM while the job starts: nothing was saved"
    signal_run TERM 0 ending
    signal_run TERM 143 deaf
    signal_run TERM 75 early
}

# Restarts begin from where they were told to until the run has a checkpoint of its own; then from
# that one, which `zopt train` would not mix with the other.
test_resume_from_elsewhere() {
    local from
    for from in "--resume there/step-00000003" "--resume=there" "--resume never"; do
        play 137 "137 5" 137 "137 6" 0
        mkdir -p out/checkpoints/step-00000001 # was there before
        # shellcheck disable=SC2086
        expect 0 "newest checkpoint: 6" "${run[@]}" run.json --out out $from
        printf 'mpirun -n 1 zopt train run.json --out out %s\n' \
            "$from" "$from" "$from --resume auto"{,,} >want
        cmp -s want starts || fail "restarts of a run with $from: $(cat starts)"
    done
}

# A job that Slurm has queued again begins anew with the same arguments, and not from the same place.
test_requeue() {
    local from
    for from in other other/step-00000004 other/step-00000004/; do
        rm -rf other
        mkdir -p other/step-00000002 other/step-00000004
        for step in 3 4; do
            play 0
            mkdir -p out/checkpoints/step-0000000$step
            expect 0 "" env SLURM_RESTART_COUNT=1 "${run[@]}" run.json --out out --resume $from
            grep -qxF "mpirun -n 1 zopt train run.json --out out --resume $from" starts ||
                fail "queued again at step $step: $(cat starts)"
        done
        play 0
        mkdir -p out/checkpoints/step-00000005
        expect 0 "going on from the newest checkpoint in out, not from $from" \
            env SLURM_RESTART_COUNT=1 "${run[@]}" run.json --out out --resume $from
        grep -qxF "mpirun -n 1 zopt train run.json --out out --resume $from --resume auto" starts ||
            fail "queued again: $(cat starts)"
        play 0
        mkdir -p out/checkpoints/step-00000005
        expect 0 "" env SLURM_RESTART_COUNT=0 "${run[@]}" run.json --out out --resume=$from
        grep -qxF "mpirun -n 1 zopt train run.json --out out --resume=$from" starts ||
            fail "the first start: $(cat starts)"
    done
    play "1 2" 0
    expect 0 "" env SLURM_RESTART_COUNT=1 "${run[@]}" run.json --out out --resume never
    grep -qxF "mpirun -n 1 zopt train run.json --out out --resume never --resume auto" starts ||
        fail "queued again, began anew: $(cat starts)"
}

# Fewer ranks where a host is gone, as many as --min-ranks at least.
test_hosts() {
    printf '%s\n' "# ours" "node1 slots=2" "gone1 slots=2" "node2 slots=1 # small" >hosts
    play 0
    expect 0 "3 of 4 ranks" "${run[@]}" -n 4 --min-ranks 2 --hostfile hosts run.json --out out
    grep -q -- "mpirun -n 3 .*--host node1:2,node2:1 zopt train" starts || fail "hosts: $(cat starts)"
    play 0
    expect 75 "room for 3 ranks, at least 4 are wanted" \
        "${run[@]}" -n 4 --hostfile hosts run.json --out out
    [ ! -e starts ] || fail "started without room"
    play 0
    expect 0 "" env SLURM_JOB_NODELIST="n[1-3]" SLURM_JOB_NUM_NODES=3 SLURM_NTASKS=6 \
        "${run[@]}" --min-ranks 2 run.json --out out
    grep -q "^srun --mpi=pmix --kill-on-bad-exit=1 -n 4 -N 2 -w n1,n3 zopt train run.json" starts ||
        fail "Slurm: $(cat starts)"
}

# Every script of the folder says what it does, and does nothing else.
test_help() {
    local script
    for script in bench demo gpu-check optimizers pack-deps run setup test; do
        expect 0 "usage: launch/$script.sh" "$root/launch/$script.sh" --help
        if grep -q "^#\|set -" out.txt; then fail "$script.sh --help: $(cat out.txt)"; fi
    done
}

test_help
test_codes
test_command_line
test_progress
test_stuck_launcher
test_signals
test_resume_from_elsewhere
test_requeue
test_hosts

if [ "$failures" != 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "launch/run.sh: all as expected"
