#!/usr/bin/env bash
# The main job: set up, build, and let a small GPT learn the King James text on RANKS ranks.
#
# usage: launch/demo.sh [RANKS] [argument of zopt train]...      (default: 2 ranks)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out="$root/runs/demo"
ranks=2
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    ranks=$1
    shift
fi

"$root/launch/setup.sh" build
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"

cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release -DZOPT_TESTS=OFF
cmake --build "$root/build" --parallel "$(nproc)"

echo
"$root/build/zopt" plan "$root/configs/gpt-kjv.json" --ranks "$ranks"
echo
progress=plain
if [ -t 1 ]; then progress=line; fi
mpirun -n "$ranks" "$root/build/zopt" train "$root/configs/gpt-kjv.json" --out "$out" \
    --progress "$progress" "$@"
echo
echo "bytes counted by the run ($out/memory.json):"
cat "$out/memory.json"
