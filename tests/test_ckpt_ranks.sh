#!/usr/bin/env bash
# Checkpoints of real processes: equal files on any number of ranks and both transports, resumed at
# another number each time; then ranks killed at random points of a run that saves all the time,
# resumed until it ends with the files of a run that nobody disturbed.
#
# usage: tests/test_ckpt_ranks.sh BUILD_DIR [KILLS]
set -uo pipefail

build=$(cd "$1" && pwd)
kills=${2-6}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/expect.sh
source "$here/expect.sh"
# shellcheck source=launch/env.sh
source "$here/../launch/env.sh"
work=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
job=$build/ckpt_job

on() { # RANKS DIR LAST EVERY OPTIONS...
    local ranks=$1
    shift
    expect 0 "at step" mpirun -n "$ranks" "$job" "$@"
}

expect 0 "began at step 0" "$job" whole 6 2
for transport in mpi shm; do
    for ranks in 2 3 5; do
        on $ranks "$transport-$ranks" 6 2 transport=$transport
        diff -r whole "$transport-$ranks" -x lock || fail "$ranks ranks over $transport"
    done
done
on 3 chain 2 2 transport=mpi
on 1 chain 4 2
on 2 chain 6 2 async
diff -r whole chain -x lock || fail "resumed at other numbers of ranks"

# Two jobs: the second is told who holds the directory, whichever of its ranks lives.
mkfifo fifo
mpirun -n 2 "$job" chain 6 2 hold <fifo >holder.txt 2>&1 &
exec 9>fifo
for _ in $(seq 200); do
    grep -q holding holder.txt && break
    sleep 0.1
done
expect 73 "another job saves here" mpirun -n 2 "$job" chain 8 2
exec 9>&-
wait

# Directories of each rank's own, as on nodes that share no file system: missing on one, then there.
mkdir node0 node1
apart=(mpirun -n 1 -wdir "$PWD/node0" "$job" own 2 2 : -n 1 -wdir "$PWD/node1" "$job" own 2 2)
expect 73 "own: deleted, or not on a file system that all ranks share" "${apart[@]}"
mkdir node1/own
expect 73 "own/step-00000002.tmp: deleted, or not on a file system that all ranks share" "${apart[@]}"
if find node0 node1 -name 'step-*' | grep .; then fail "saved on nodes that share no file system"; fi

# ---- kills
last=120
expect 0 "began at step 0" "$job" undisturbed $last 2 keep=2
done_kills=0
for ((attempt = 0; attempt < kills * 20; attempt++)); do
    ranks=$((2 + attempt % 2))
    options=()
    [ $((attempt % 3)) = 0 ] && options=(async)
    timeout -s KILL 120 mpirun -n $ranks "$job" killed $last 2 keep=2 \
        ${options[@]+"${options[@]}"} >killed.txt 2>&1 &
    launcher=$!
    if [ $done_kills -lt "$kills" ]; then
        # Not before MPI runs: Open MPI 4.1's mpirun can hang for ever when a rank dies in MPI_Init.
        for _ in $(seq 300); do
            grep -q "at step" killed.txt && break
            sleep 0.02
        done
        sleep "0.$((RANDOM % 5))$((RANDOM % 10))"
        mpirun=$(pgrep -P $launcher -x mpirun || echo 0) # 0: it has ended
        mapfile -t children < <(pgrep -P "$mpirun" -x ckpt_job)
        [ ${#children[@]} -gt 0 ] &&
            kill -KILL "${children[RANDOM % ${#children[@]}]}" 2>/dev/null &&
            done_kills=$((done_kills + 1))
    fi
    code=0
    wait $launcher || code=$?
    case $code in
    0) grep -q "at step $last" killed.txt && [ $done_kills -lt "$kills" ] && rm -rf killed ;;
    137 | 73) ;; # killed; or the dead job's other ranks still held the directory
    *) fail "exit code $code: $(tail -n 3 killed.txt)" ;;
    esac
    [ $done_kills -ge "$kills" ] && [ $code = 0 ] && break
done
[ "$done_kills" -ge "$kills" ] || fail "only $done_kills kills"
step=step-$(printf %08d $last)
diff -r "undisturbed/$step" "killed/$step" || fail "after $done_kills kills"
echo "$done_kills kills"

if [ $failures -gt 0 ]; then
    echo "$failures failures"
    exit 1
fi
