#!/usr/bin/env bash
# Keep a training run going until it is done: start it with mpirun, or srun inside a Slurm job; start
# it again from its newest checkpoint when a rank has died or hung, on fewer ranks where a host is
# gone (the result is the same bits); pass "save and stop" on; and give up where nothing moves on.
#
# usage: launch/run.sh [OPTION]... RUNFILE [argument of zopt train]...
#   -n, --ranks N         ranks to start (default: Slurm's number of tasks, else 1)
#   --min-ranks N         go on with as few as N where hosts are gone (default: the number of ranks)
#   --hostfile FILE       hosts, in Open MPI's format ("node1 slots=8"); see launch/hostfile.example
#   --max-restarts N      starts in a row without a newer checkpoint before giving up (default: 3)
#   --backoff SECONDS     wait before the first restart, doubled for each without progress, to 64
#                         times as long (default: 2)
# ZOPT names the command (default: build/zopt), ZOPT_LAUNCHER_PATIENCE the seconds after which mpirun
# is killed when its ranks are gone and it is not (default: 15). SIGTERM, SIGINT and SIGUSR1 mean:
# save and stop; a second one: stop at once. A --resume of the trainer's holds until there is a
# checkpoint newer than what was there, and when Slurm has queued the job again, until there is one
# newer than what it names. The exit code is the last run's; 75 where the run can go on
# but hosts are missing.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
zopt=${ZOPT:-$root/build/zopt}
ranks=${SLURM_NTASKS:-1}
min_ranks=
hostfile=
max_restarts=3
backoff=2
out=

launcher_patience=${ZOPT_LAUNCHER_PATIENCE:-15} # seconds for mpirun to follow its ranks
child=   # the launcher that runs
stops=0  # signals that asked to stop
asker=   # passes that on to the launcher
resume=  # 1: the trainer's arguments say from where
from=    # and that is

# Codes that a new start cannot change: done, or zopt's own verdicts (see README), a command that
# cannot be run, a launcher that somebody stopped.
final_codes=" 0 2 64 65 70 73 74 77 78 126 127 130 143 "

say() {
    echo "run.sh: $*" >&2
}

usage() { # TEXT
    say "$1"
    echo "usage: launch/run.sh [-n N] [--min-ranks N] [--hostfile FILE] [--max-restarts N]" \
        "[--backoff SECONDS] RUNFILE [argument of zopt train]..." >&2
    exit 64
}

# ------------------------------------------------------------------ arguments

# Options of this script come before the run file; what follows is the trainer's, and --out is read
# to find the checkpoints, --resume to know whether restarts have to replace it.
parse() {
    while [ $# -gt 0 ]; do
        local value=${2-}
        case $1 in
        -n | --ranks) ranks=$value ;;
        --min-ranks) min_ranks=$value ;;
        --hostfile) hostfile=$value ;;
        --max-restarts) max_restarts=$value ;;
        --backoff) backoff=$value ;;
        -*) usage "unknown option $1" ;;
        *) break ;;
        esac
        [ $# -ge 2 ] || usage "$1 wants a value"
        shift 2
    done
    [ $# -gt 0 ] || usage "no run file given"
    arguments=("$@")
    min_ranks=${min_ranks:-$ranks}
    local number
    for number in "$ranks" "$min_ranks" "$max_restarts" "$backoff"; do
        [[ $number =~ ^(0|[1-9][0-9]{0,8})$ ]] || usage "'$number' is not a whole number"
    done
    if [ "$min_ranks" -lt 1 ] || [ "$min_ranks" -gt "$ranks" ]; then
        usage "wants 1 <= --min-ranks <= ranks, not $min_ranks and $ranks"
    fi
    [ -z "$hostfile" ] || [ -r "$hostfile" ] || usage "cannot read $hostfile"
    find_out "$@"
}

find_out() {
    local run_file=$1
    while [ $# -gt 0 ]; do
        case $1 in
        --out=*) out=${1#--out=} ;;
        --out) out=${2-} ;;
        --resume=*) resume=1 from=${1#--resume=} ;;
        --resume) resume=1 from=${2-} ;;
        esac
        shift
    done
    if [ -z "$out" ]; then
        out=runs/$(basename "$run_file" .json)
        arguments+=(--out "$out")
    fi
    [ "$resume" = 1 ] || arguments+=(--resume auto)
}

# ------------------------------------------------------------------ hosts

# Names and slots of the hosts that answer. Under Slurm, of its nodes; else of the host file.
live_hosts() {
    local host slots
    if [ -n "${SLURM_JOB_NODELIST-}" ]; then
        local nodes=${SLURM_JOB_NUM_NODES:-1}
        sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format="%N %T" |
            awk -v slots=$(((ranks + nodes - 1) / nodes)) \
                '$2 !~ /down|fail|drained|\*/ && !seen[$1]++ { print $1, slots }'
        return
    fi
    sed -E 's/#.*//; s/slots *= */ /; s/max_slots.*//' "$hostfile" | while read -r host slots; do
        [ -n "$host" ] || continue
        if [ "$host" = localhost ] || [ "$host" = "$(hostname)" ] ||
            ssh -n -o BatchMode=yes -o ConnectTimeout=5 "$host" true 2>/dev/null; then
            echo "$host ${slots:-1}"
        fi
    done
}

# The launcher and its options, for as many ranks as there is room for. Fails where that is too few.
choose_launcher() {
    local now=$ranks hosts slots
    if [ -z "$hostfile" ] && [ -z "${SLURM_JOB_NODELIST-}" ]; then
        launcher=(mpirun -n "$ranks")
        return 0
    fi
    hosts=$(live_hosts)
    slots=$(awk '{ n += $2 } END { print n + 0 }' <<<"$hosts")
    if [ "$slots" -lt "$now" ]; then now=$slots; fi
    if [ "$now" -lt "$min_ranks" ]; then
        say "room for $slots ranks, at least $min_ranks are wanted"
        return 1
    fi
    if [ "$now" -lt "$ranks" ]; then say "hosts are missing: $now of $ranks ranks"; fi
    if [ -n "${SLURM_JOB_NODELIST-}" ]; then
        launcher=(srun --mpi=pmix --kill-on-bad-exit=1 -n "$now" -N "$(wc -l <<<"$hosts")"
            -w "$(awk '{ print $1 }' <<<"$hosts" | paste -sd,)")
    else
        launcher=(mpirun -n "$now" -x OPENBLAS_NUM_THREADS
            --host "$(awk '{ print $1 ":" $2 }' <<<"$hosts" | paste -sd,)")
    fi
}

# ------------------------------------------------------------------ one start

# The newest step that a directory has a checkpoint of; -1: none. Only whole ones have such names.
newest_in() { # DIRECTORY
    local name newest=-1 step
    for name in "$1"/step-*; do
        step=${name##*/step-}
        [[ $step =~ ^[0-9]+$ ]] || continue
        step=$((10#$step))
        if [ "$step" -gt "$newest" ]; then newest=$step; fi
    done
    echo "$newest"
}

newest_step() {
    newest_in "$out/checkpoints"
}

# The step that --resume begins at: of a checkpoint, or of the newest in a directory of them.
step_of_resume() {
    local name=${from%"${from##*[!/]}"} # without slashes behind
    name=${name##*/}
    if [[ $name =~ ^step-([0-9]+)$ ]]; then
        echo $((10#${BASH_REMATCH[1]}))
    else
        newest_in "$from"
    fi
}

# Whether a process has children that are not zombies.
has_living_children() { # PID
    local pids pid state
    read -ra pids < <(cat /proc/"$1"/task/*/children 2>/dev/null)
    for pid in "${pids[@]+"${pids[@]}"}"; do
        state=$(sed 's/.*) //' /proc/"$pid"/stat 2>/dev/null)
        if [[ -n $state && $state != Z* ]]; then return 0; fi
    done
    return 1
}

# Ranks save and stop on SIGUSR1, which launchers pass on at once; of a SIGTERM they would leave the
# ranks a second. mpirun loses the signal where its ranks are not there yet, so it is sent until the
# end: to ranks that know it is nothing. Only mpirun in its own end, its ranks gone, would die of it.
ask_to_stop() { # PID
    local had_ranks=0 has_ranks
    while kill -0 "$1" 2>/dev/null; do
        has_ranks=0
        if has_living_children "$1"; then has_ranks=1; fi
        if [ "$has_ranks" -ge "$had_ranks" ]; then
            had_ranks=$has_ranks
            kill -USR1 "$1" 2>/dev/null
        fi
        sleep 1
    done
}

# Called by a trap.
# shellcheck disable=SC2317
stop() {
    stops=$((stops + 1))
    [ -n "$child" ] || return 0
    if [ "$stops" = 1 ]; then
        say "saving and stopping"
        ask_to_stop "$child" &
        asker=$!
    else
        say "stopping at once"
        kill -TERM "$child" 2>/dev/null
    fi
}

# mpirun of Open MPI 4.1 can hang in its own end (PMIx_server_finalize) after a rank was killed: once
# its ranks have been gone for a while, it is killed too.
watch_launcher() { # PID
    local had_ranks=0 seconds_alone=0
    while sleep 1 && kill -0 "$1" 2>/dev/null; do
        if has_living_children "$1"; then
            had_ranks=1
            seconds_alone=0
        elif [ "$had_ranks" = 1 ]; then
            seconds_alone=$((seconds_alone + 1))
        fi
        if [ "$seconds_alone" -ge "$launcher_patience" ]; then
            say "the ranks are gone and ${launcher[0]} is not: killing it"
            kill -KILL "$1" 2>/dev/null
            return
        fi
    done
}

# Run the launcher to its end; leaves its exit code in `code`. In a process group of its own, so that
# an interrupt from the terminal comes here alone.
run_once() {
    set -m
    "${launcher[@]}" "$zopt" train "${arguments[@]}" </dev/null &
    child=$!
    set +m
    local watcher=
    if [ "${launcher[0]}" = mpirun ]; then
        watch_launcher "$child" &
        watcher=$!
    fi
    # A signal may have come when there was no child to pass it on to.
    if [ "$stops" -gt 0 ] && [ -z "$asker" ]; then
        ask_to_stop "$child" &
        asker=$!
    fi
    # A signal ends a wait too, and then its code is not the child's.
    while wait "$child"; kill -0 "$child" 2>/dev/null; do :; done
    wait "$child"
    code=$?
    child=
    local helper
    for helper in $watcher $asker; do
        kill "$helper" 2>/dev/null
        wait "$helper" 2>/dev/null
    done
}

# A pause that a signal ends.
pause() { # SECONDS
    [ "$1" -gt 0 ] || return 0
    sleep "$1" &
    wait $!
    kill $! 2>/dev/null
}

# ------------------------------------------------------------------ until it is done

main() {
    parse "$@"
    if [ -n "$hostfile" ]; then
        export OMPI_MCA_orte_default_hostfile="$hostfile" # env.sh then leaves the network on
    fi
    # shellcheck source=launch/env.sh
    source "$root/launch/env.sh"
    local before after idle=0 delay=$backoff
    # An earlier start of this job may have come further: its checkpoints count.
    if [ "$resume" = 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] &&
        [ "$(newest_step)" -gt "$(step_of_resume)" ]; then
        say "queued again: going on from the newest checkpoint in $out, not from $from"
        arguments+=(--resume auto) # the last one counts
        resume=
    fi
    while :; do
        before=$(newest_step)
        code=75
        if choose_launcher; then run_once; fi
        after=$(newest_step)
        if [ "$stops" -gt 0 ]; then
            # A rank that had not come to its handler yet is killed by SIGUSR1: nothing is lost.
            if [ "$code" = $((128 + $(kill -l USR1))) ]; then code=75; fi
            break
        fi
        [[ $final_codes != *" $code "* ]] || break
        if [ "$after" -gt "$before" ]; then
            idle=0
            delay=$backoff
            # Another start from where the first began would be refused now.
            if [ "$resume" = 1 ]; then arguments+=(--resume auto); fi # the last one counts
            resume=
        else
            idle=$((idle + 1))
            if [ "$idle" -gt "$max_restarts" ]; then
                say "exit code $code, and $idle starts in a row brought no newer checkpoint: giving up"
                break
            fi
        fi
        if [ "$after" -lt 0 ]; then after=none; fi
        say "exit code $code; newest checkpoint: $after; starting again in $delay s"
        pause "$delay"
        [ "$stops" = 0 ] || break
        if [ "$delay" -lt $((64 * backoff)) ]; then delay=$((2 * delay)); fi
    done
    exit "$code"
}

trap stop TERM INT USR1
main "$@"
