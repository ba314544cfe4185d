#!/usr/bin/env bash
# What the CUDA compiler made of the kernels: no spills, the state of AdamW and of Adafactor read and
# written 128 bits at a time, AdamW's with all loads before the first use, and no instruction that the
# contract of rule.h forbids (contraction, approximate division or root, flushed subnormals). Prints
# registers by kernel.
#
# usage: tests/test_cuda_resources.sh NVCC PTX_DIR [COMPUTE_CAPABILITY]...      (default: 90)
#   PTX_DIR: where the build has kept cuda_kernels.*.ptx
set -euo pipefail

ptxas=$(dirname "$1")/ptxas
ptx_dir=$2
shift 2
[ $# -gt 0 ] || set -- 90
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*"
    exit 1
}

for capability in "$@"; do
    ptx=$ptx_dir/cuda_kernels.compute_$capability.ptx
    [ -s "$ptx" ] || fail "there is no $ptx"
    "$ptxas" -v "-arch=sm_$capability" "$ptx" -o "$work/cubin" 2>>"$work/log"
done

# GPU, kernel, registers, bytes of stack, of spills. Update kernels are named by rule and states, of
# elements.
awk '/Compiling entry function/ {
        split($0, q, "\047"); name = q[2]; gpu = q[4]
        if (match(name, /zi_rule[0-9]+ELi[0-9]+/)) {
            split(substr(name, RSTART + 7, RLENGTH - 7), q, "ELi")
            name = (name ~ /update_blocks/ ? "8-bit update" : "update") ", rule " q[1] ", " q[2] " states"
        } else if (match(name, /update_tensorsILb[01]ELi[0-9]/))
            name = "Adafactor update, " (substr(name, RSTART + 17, 1) == 1 ? "factored" : "own") \
                ", " substr(name, RSTART + RLENGTH - 1, 1) " states"
        else if (match(name, /statistics_squares.*round[0-9]/))
            name = "statistics, squares, round " substr(name, RSTART + RLENGTH - 1, 1)
        else if (match(name, /statistics_grid/))
            name = "statistics, rows and columns"
        else if (match(name, /(norm|accumulate|locate|decide|settle)/))
            name = substr(name, RSTART, RLENGTH)
    }
    /bytes stack frame/ { stack = $1; spills = $5 + $9 }
    /Used [0-9]+ registers/ { printf "%-7s %-32s %3d %4d %4d\n", gpu, name, $5, stack, spills }
    ' "$work/log" | sort >"$work/table"
cat "$work/table"
[ "$(grep -c . "$work/table")" -eq $((26 * $#)) ] || fail "not the 26 kernels that there are"
awk '$NF != 0 || $(NF - 1) != 0 { print; bad = 1 } END { exit bad }' "$work/table" ||
    fail "spills, or arrays that are not in registers"

# A thread has two groups of four elements, of the master weights and each state.
check_wide() { # NAME ENTRY LOADS STORES
    local n_loads n_stores
    awk "/\\.entry.*$2/ { on = 1 } on { print } on && /^}/ { exit }" "$ptx" >"$work/$1"
    n_loads=$(grep -c 'ld\.global\.cs\.v4\.f32' "$work/$1")
    n_stores=$(grep -c 'st\.global\.cs\.v4\.f32' "$work/$1")
    if [ "$n_loads/$n_stores" != "$3/$4" ]; then
        fail "$1: $n_loads loads and $n_stores stores of 128 bits, want $3 and $4"
    fi
    if grep -nE '(ld|st)\.global\.cs\.f32' "$work/$1"; then
        fail "$1: narrow accesses of state"
    fi
}

check_wide adamw updateIL7zi_rule0E 6 6
check_wide adafactor_own update_tensorsILb0ELi1E 4 4
check_wide adafactor_own_moment update_tensorsILb0ELi2E 6 6
check_wide adafactor update_tensorsILb1ELi0E 2 2
check_wide adafactor_moment update_tensorsILb1ELi1E 4 4
awk '/ld\.global\.cs\.v4\.f32/ { last = NR } /fma\.rn\.f32/ && !first { first = NR }
    END { exit !(last && first && last < first) }' "$work/adamw" ||
    fail "AdamW: arithmetic before the last load"

forbidden='\.ftz|\.approx|div\.full|(mul|add|sub)\.f(32|64)|mad\.f(32|64)|fma\.r[zmp]'
if grep -nE "$forbidden" "$ptx"; then
    fail "instructions that the contract forbids"
fi
echo "no spills; states of AdamW and Adafactor: 128 bits at a time; IEEE operations only"
