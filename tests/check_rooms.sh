#!/usr/bin/env bash
# The rooms of DESIGN.md section 3: who may include whom, where MPI and CUDA headers may appear, and
# what lies at the top level. Prints every violation as file:line and exits 1 if there is one.
# First it plants violations in a small tree of its own, one by one, and must find each of them.
#
# usage: check_rooms.sh SOURCE_DIR
set -u

# Rooms by rank: one may include those at or below its own. "api" is src/api*.{c,h} and fp_guard.h.
# "bench" is no part of the library: it measures all rooms, and none includes it.
rooms="base config optim device comm zero ckpt api bench"
# Rooms that see the public header alone, and the one header a neighbour may show them.
outside="train cli service python"
doors="cli:train/train.h cli:bench/bench.h"
top_level="src include launch tests configs CMakeLists.txt CMakePresets.json README.md LICENSE"
top_ignored="runs data" # and build*, by .gitignore

# includes DIR: file:line:header for every include below src and include; <header> keeps its <.
includes() {
    (cd "$1" && find src include \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -exec awk '
        /^[ \t]*#[ \t]*include/ {
            header = $0
            sub(/^[ \t]*#[ \t]*include[ \t]*/, "", header)
            if (!match(header, /^("[^"]*"|<[^>]*>)/)) {
                print FILENAME ":" FNR ":" "?" header
                next
            }
            header = substr(header, 2, RLENGTH - 2)
            print FILENAME ":" FNR ":" (substr($0, index($0, header) - 1, 1) == "<" ? "<" : "") header
        }' {} + | sort -t: -k1,1 -k2,2n)
}

# check_includes DIR: one line for each include that breaks a rule.
check_includes() {
    includes "$1" | awk -F: -v rooms="$rooms" -v outside="$outside" -v doors="$doors" '
        BEGIN {
            n = split(rooms, list, " ")
            for (i = 1; i <= n; i++)
                rank[list[i]] = i
            n = split(outside, list, " ")
            for (i = 1; i <= n; i++)
                is_outside[list[i]] = 1
            n = split(doors, list, " ")
            for (i = 1; i <= n; i++)
                door[list[i]] = 1
        }
        function complain(text) { print $1 ":" $2 ": " text }
        # The room of a path below src: its folder, or api for the files beside the folders.
        function room_of(path,    parts) {
            if (split(path, parts, "/") > 1)
                return parts[1]
            return path ~ /^(api.*|fp_guard)\.[ch]$/ ? "api" : "?" path
        }
        {
            header = $3
            for (i = 4; i <= NF; i++)
                header = header ":" $i
            system_header = header ~ /^</
            sub(/^</, "", header)
            public = $1 ~ /^include\//
            path = $1
            sub(/^src\//, "", path)
            from = public ? "include" : room_of(path)

            if (header ~ /^\?/) {
                complain("an include that is not a plain header name")
                next
            }
            if (header ~ /^mpi(-ext)?\.h$/ && from != "comm" && $1 != "include/zopt/zopt_mpi.h" &&
                $1 != "src/bench/textbook.c")
                complain("<" header ">: MPI belongs in src/comm, and in src/bench/textbook.c")
            if (header ~ /^(cuda|cublas|nccl|nvml|nvToolsExt|cooperative_groups)/ &&
                $1 !~ /^src\/device\/cuda/ && $1 !~ /^src\/comm\/(nccl|ipc)/)
                complain("<" header ">: CUDA and NCCL belong in src/device/cuda*, src/comm/{nccl,ipc}*")
            if (header ~ /(^|\/)\.\.?\//) {
                complain("\"" header "\": name the room, not a relative path")
                next
            }
            if (header ~ /^zopt\//)
                next
            to = system_header && header !~ /\// ? "" : room_of(header)
            if (system_header && !(to in rank) && !(to in is_outside))
                next
            if (public)
                complain(header ": the public headers include no room")
            else if (!(from in rank) && !(from in is_outside))
                complain(from ": no such room")
            else if (from in is_outside) {
                if (to != from && !((from ":" header) in door))
                    complain(header ": " from " sees <zopt/...> and its own folder alone")
            } else if (!(to in rank))
                complain(header ": not a header of a room, write \"room/name.h\"")
            else if (rank[to] > rank[from])
                complain(header ": " from " is before " to " and must not include it")
        }'
}

# check_top DIR: entries of the top level and of src that the design does not know.
check_top() {
    local entry name
    for entry in "$1"/*; do
        name=${entry##*/}
        case " $top_level $top_ignored " in
        *" $name "*) continue ;;
        esac
        [[ $name == build* ]] || echo "$name:1: not among the agreed entries of the top level"
    done
    for entry in "$1"/src/*; do
        name=${entry##*/}
        if [[ -d $entry ]]; then
            [[ " $rooms $outside " == *" $name "* && $name != api ]] ||
                echo "src/$name:1: no such room"
        else
            [[ $name == CMakeLists.txt || $name =~ ^(api.*|fp_guard)\.[ch]$ ]] ||
                echo "src/$name:1: only api*.c, api*.h and fp_guard.h lie beside the rooms"
        fi
    done
}

check_tree() {
    check_includes "$1"
    check_top "$1"
}

# plant_tree DIR: a tree that breaks no rule but uses every permission.
plant_tree() {
    mkdir -p "$1"/{src/{base,config,optim,device,comm,zero,ckpt,bench,train,cli},include/zopt,tests,build-x}
    echo '#include <mpi.h>' >"$1/include/zopt/zopt_mpi.h"
    echo '#include <mpi.h>' >"$1/src/comm/mpi.c"
    echo '#include "base/a.h"' >"$1/src/zero/z.c"
    echo '#include "zero/z.h"' >"$1/src/api.c"
    echo '#include "fp_guard.h"' >"$1/src/api_local.c"
    echo '#include <nccl.h>' >"$1/src/comm/nccl.c"
    echo '  #  include <cuda_runtime.h> /* for "device" */' >"$1/src/device/cuda.c"
    echo '#include "train/train.h"' >"$1/src/cli/train.c"
    echo '#include "bench/bench.h"' >"$1/src/cli/bench.c"
    printf '#include <mpi.h>\n#include "comm/a.h"\n' >"$1/src/bench/textbook.c"
    printf '#include <zopt/zopt.h>\n#include "train/a.h"\n#include <sys/stat.h>\n' >"$1/src/train/a.c"
}

# Violations: the file, and the line that is added to it. An empty line only creates the file.
planted=(
    'src/base/a.c|#include "config/setting.h"'
    'src/comm/c.h|# include "zero/zero.h"'
    'src/zero/z.c|#include "api.h"'
    'src/zero/z.c|#include <ckpt/export.h>'
    'src/zero/z.c|#include "z.h"'
    'src/zero/z.c|#include "../base/a.h"'
    'src/zero/z.c|#include HEADER'
    'src/device/d.c|#include <mpi.h>'
    'src/device/cpu.c|#include <cuda_runtime.h>'
    'src/comm/mpi.c|#include <nccl.h>'
    'src/train/a.c|#include "base/status.h"'
    'src/cli/c.c|#include "train/model.h"'
    'src/cli/c.c|#include "api.h"'
    'src/cli/c.c|#include "bench/crew.h"'
    'src/bench/crew.c|#include <mpi.h>'
    'src/bench/crew.c|#include "train/train.h"'
    'src/zero/z.c|#include "bench/bench.h"'
    'src/train/a.c|#include "bench/bench.h"'
    'include/zopt/zopt.h|#include <mpi.h>'
    'include/zopt/zopt.h|#include "base/dtype.h"'
    'src/util/u.c|'
    'src/helpers.c|'
    'notes.md|'
)

self_test() {
    local tree found row file failed=0
    tree=$(mktemp -d) || exit 1
    plant_tree "$tree/clean"
    found=$(check_tree "$tree/clean")
    if [[ -n $found ]]; then
        printf 'self-test: a tree without violations was refused:\n%s\n' "$found"
        failed=1
    fi
    for row in "${planted[@]}"; do
        rm -rf "$tree/bad"
        cp -r "$tree/clean" "$tree/bad"
        file=${row%%|*}
        mkdir -p "$(dirname "$tree/bad/$file")"
        echo "${row#*|}" >>"$tree/bad/$file"
        found=$(check_tree "$tree/bad")
        if [[ $(grep -c . <<<"$found") != 1 ]]; then
            printf 'self-test: %s: want one violation, found:\n%s\n' "$row" "$found"
            failed=1
        fi
    done
    rm -rf "$tree"
    return $failed
}

if [[ $# != 1 || ! -d $1/src || ! -d $1/include ]]; then
    echo "usage: check_rooms.sh SOURCE_DIR" >&2
    exit 64
fi
self_test || exit 1
violations=$(check_tree "$1")
if [[ -n $violations ]]; then
    printf '%s\n' "$violations"
    exit 1
fi
echo "rooms: $(includes "$1" | grep -c .) includes follow the design; ${#planted[@]} planted violations were found"
