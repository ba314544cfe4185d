#!/usr/bin/env bash
# What zopt writes opens in the safetensors package and in PyTorch, with the values that the run had:
# both files of a checkpoint, whole and in parts, and the model in 16 bits. Skipped where there is
# no such package; ZOPT_PYTHON is the Python to ask (pip install safetensors torch).
#
# usage: tests/test_safetensors.sh BUILD_DIR
set -euo pipefail

build=$(cd "${1:?usage: tests/test_safetensors.sh BUILD_DIR}" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/env.sh
source "$here/../launch/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python=
for candidate in "${ZOPT_PYTHON-}" python3 /usr/bin/python3; do
    if [ -n "$candidate" ] && "$candidate" -c "import safetensors.torch" 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "SKIP: no Python here has both safetensors and torch; set ZOPT_PYTHON to one that has"
    exit 77
fi

"$build/ckpt_job" whole 4 4 dump=dump.txt
"$build/ckpt_job" parts 4 4 parts=17000
for dtype in fp32 fp16 bf16; do
    "$build/zopt" ckpt export whole $dtype.safetensors --dtype $dtype
done
"$python" "$here/check_safetensors.py" dump.txt whole/step-00000004 parts/step-00000004 .
