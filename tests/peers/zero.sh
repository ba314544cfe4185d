#!/usr/bin/env bash
# The same step by zopt and by PyTorch's ZeroRedundancyOptimizer over gloo, in turn, and the ratio of
# their medians. PyTorch's parameters, gradients and states are FP32; zopt's parameters and gradients
# are FP16. Either measures from the last gradient written to the last parameter usable, without norm.
#
# usage: tests/peers/zero.sh [BUILD_DIR [PARAMS [RANKS [TURNS [ROUNDS]]]]]
#        defaults: build 67108864 2 3 11; needs /usr/bin/python3 with torch (Debian: python3-torch)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${1:-$root/build}
params=${2:-67108864}
ranks=${3:-2}
turns=${4:-3}
rounds=${5:-11}
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME-lo}

if ! /usr/bin/python3 -c 'from torch.distributed.optim import ZeroRedundancyOptimizer' 2>/dev/null; then
    echo "SKIP: /usr/bin/python3 has no torch with ZeroRedundancyOptimizer: launch/setup.sh peers"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for ((turn = 1; turn <= turns; turn++)); do
    mpirun -n "$ranks" "$build/zopt" bench step --params "$params" --norm off --rounds "$rounds" \
        --json >"$work/zopt.$turn"
    mkdir "$work/torch.$turn.d"
    mpirun -n "$ranks" /usr/bin/python3 "$root/tests/peers/zero_torch.py" "$params" "$rounds" \
        "$work/torch.$turn.d" >"$work/torch.$turn"
done

/usr/bin/python3 - "$work" "$turns" <<'PYTHON'
import json, statistics, sys

work, turns = sys.argv[1], int(sys.argv[2])
rows = [json.load(open("%s/zopt.%d" % (work, i + 1)))["rows"][0] for i in range(turns)]
torch = [float(open("%s/torch.%d" % (work, i + 1)).read()) for i in range(turns)]
zopt = [row["time_ms"] for row in rows]
limit = statistics.median(row["limit_ms"] for row in rows)
assert not any(row["wrong"] for row in rows)
print("%d parameters, %d ranks, AdamW, %d turns" % (rows[0]["params"], rows[0]["ranks"], turns))
for name, ms in ("zopt, transport " + rows[0]["transport"], zopt), ("PyTorch ZeRO over gloo", torch):
    print("  %-24s %10.3f ms   x limit %6.2f   (%s)" % (
        name, statistics.median(ms), statistics.median(ms) / limit,
        ", ".join("%.3f" % value for value in ms)))
print("  PyTorch / zopt           %10.2f" % (statistics.median(torch) / statistics.median(zopt)))
PYTHON
