#!/usr/bin/env bash
# The main job: set up, build, and let a small GPT learn the King James text on RANKS ranks.
#
# usage: launch/demo.sh [RANKS] [argument of zopt train]...      (default: 2 ranks)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
out="$root/runs/demo"
ranks=2
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    ranks=$1
    shift
fi

# --out says where to read the results, and the plan is of the model that --set makes.
arguments=()
sets=()
while [ $# -gt 0 ]; do
    case $1 in
    --out=*) out=${1#--out=} ;;
    --set=*) sets+=("$1") ;;
    --out | --set)
        if [ $# -lt 2 ]; then
            echo "launch/demo.sh: $1 wants a value" >&2
            exit 64
        fi
        if [ "$1" = --out ]; then out=$2; else sets+=("--set=$2"); fi
        shift
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

"$root/launch/setup.sh" build
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release
cmake --build "$root/build" --target zopt --parallel "$(nproc)"

echo
"$root/build/zopt" plan "$root/configs/gpt-kjv.json" --ranks "$ranks" "${sets[@]+"${sets[@]}"}"
echo
progress=plain
if [ -t 1 ]; then progress=line; fi
mpirun -n "$ranks" "$root/build/zopt" train "$root/configs/gpt-kjv.json" --out "$out" \
    --progress "$progress" "${sets[@]+"${sets[@]}"}" "${arguments[@]+"${arguments[@]}"}"
echo
echo "bytes counted by the run ($out/memory.json):"
cat "$out/memory.json"
