#!/usr/bin/env bash
# Checkpoints under faults: the job is killed before each of its system calls on checkpoint files in
# turn, calls fail, disks are full, directories are read-only, links lie in wait, two jobs meet, and
# files are damaged. After each the job goes on from what is there to the same files.
#
# usage: tests/test_ckpt_faults.sh BUILD_DIR
set -uo pipefail

build=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/expect.sh
source "$here/expect.sh"
# shellcheck source=launch/env.sh
source "$here/../launch/env.sh"
# In memory where that is possible: hundreds of saves wait for the disk else.
work=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
mounted=()
clean() {
    for folder in ${mounted[@]+"${mounted[@]}"}; do umount "$folder" 2>/dev/null; done
    rm -rf "$work"
}
trap clean EXIT
cd "$work" || exit 1

job=$build/ckpt_job
zopt=$build/zopt
dir=$work/zopt-ckpt
EPERM=1 EINTR=4 EIO=5 EINVAL=22 EFBIG=27 ENOSPC=28 EDQUOT=122

fresh() { rm -rf "$dir"; }
# SPEC COMMAND...: with the fault. A program, for expect's time limit.
cat >faulty <<FAULTY
#!/bin/sh
export LD_PRELOAD="$build/libtest_fault.so" ZOPT_FAULT="\$1"
shift
exec "\$@"
FAULTY
chmod +x faulty
faulty=$work/faulty
same_as_whole() { # STEP: the files of this step are those of an undisturbed run
    diff -r "$work/whole/step-$1" "$dir/step-$1" >diff.txt 2>&1 ||
        fail "${FUNCNAME[1]}: step $1: $(head -n 3 diff.txt)"
}
no_tmp() {
    [ -z "$(find "$dir" -name '*.tmp')" ] || fail "left behind: $(find "$dir" -name '*.tmp')"
}

expect 0 "began at step 0" "$job" "$dir" 6 2
cp -r "$dir" whole
for step in 2 4 6; do test -d "whole/step-0000000$step" || fail "no step $step"; done

# ---- kills: before each call, alone and with an asynchronous save; rows 11 and 12
kills() { # STRIDE OPTIONS...
    local call n=0 code total=0 stride=$1
    shift
    for call in pwrite fsync close fallocate openat renameat; do
        for ((n = 1; ; n += stride)); do
            fresh
            expect 0 "began" "$job" "$dir" 2 2
            code=0
            "$faulty" "$call kill $n" "$job" "$dir" 4 2 "$@" >out.txt 2>&1 || code=$?
            [ $code = 137 ] || break
            total=$((total + 1))
            # Whatever was there is whole.
            "$zopt" ckpt verify "$dir" >verify.txt 2>&1 ||
                fail "after a kill before $call $n: $(cat verify.txt)"
            expect 0 "resumed at step" "$job" "$dir" 6 2 "$@"
            same_as_whole 00000006
            no_tmp
        done
        [ "$code" = 0 ] || fail "$call $n: exit code $code: $(tail -n 1 out.txt)"
    done
    [ $total -gt 20 ] || fail "only $total kills"
    echo "$total kills ($*)"
}
{ # the shell has something to say about every one
    kills 1
    kills 3 async
} 2>/dev/null

# ---- calls that fail: rows 13 and 15. What was there stays, nothing is left behind, and the next
# job saves the same.
refused() { # CODE SPEC OPTIONS...
    local code=$1 spec=$2
    shift 2
    fresh
    expect 0 "began" "$job" "$dir" 2 2
    expect "$code" "ckpt_job:" "$faulty" "$spec" "$job" "$dir" 4 2 "$@"
    no_tmp
    [ -d "$dir/step-00000002" ] || fail "$spec: step 2 is gone"
    expect 0 "resumed at step" "$job" "$dir" 6 2
    same_as_whole 00000006
}
for n in 1 2; do
    refused 73 "fallocate $ENOSPC $n"
    refused 73 "fallocate $EDQUOT $n"
    refused 73 "pwrite $ENOSPC $n"
    refused 73 "pwrite $EFBIG $n"
    refused 73 "fsync $EIO $n"
    refused 73 "pwrite $ENOSPC $n" async
    refused 73 "fsync $EIO $n" async
    refused 73 "renameat $EIO $n"
done
refused 77 "openat $EPERM 9"
# Those that were read from, by the load before the save, may fail; those of the files of a save, 12
# of them, may not.
closes=0
for n in $(seq 12 36); do
    fresh
    "$job" "$dir" 2 2 >/dev/null
    code=0
    "$faulty" "close $EIO $n" "$job" "$dir" 4 2 >out.txt 2>&1 || code=$?
    [ $code = 73 ] && closes=$((closes + 1))
    [ $code = 73 ] || [ $code = 0 ] || fail "close $n: exit code $code: $(cat out.txt)"
    expect 0 "resumed" "$job" "$dir" 6 2
    same_as_whole 00000006
done
[ $closes -ge 12 ] || fail "only $closes failures of close were noticed"

# A job that outlives a save that failed has lost nothing: what it saves next is what it would have.
for spec in "fallocate $ENOSPC 1" "pwrite $ENOSPC 2" "fsync $EIO 1" "renameat $EIO 1"; do
    for how in "" async; do
        fresh
        expect 0 "went on without step 2" "$faulty" "$spec" "$job" "$dir" 6 2 stubborn $how
        [ ! -e "$dir/step-00000002" ] || fail "$spec: step 2 was saved"
        same_as_whole 00000004
        same_as_whole 00000006
    done
done

# fsync is not tried again after it failed.
fresh
"$job" "$dir" 2 2 >/dev/null
rm -f count
ZOPT_FAULT_COUNT=$work/count "$faulty" "fsync $EIO 1" "$job" "$dir" 4 2 >out.txt 2>&1
[ "$(cat count)" = 1 ] || fail "fsync was called $(cat count) times"

# An export that is killed leaves a temporary file, which the next one removes; a user's stays.
fresh
mkdir "$dir" # the faults are for what is in it
out=$dir/out
for n in 2 3; do
    rm -f "$out"*
    { "$faulty" "pwrite kill $n" "$zopt" ckpt export whole "$out"; } >out.txt 2>&1
    [ -e "$out.tmp" ] || fail "pwrite $n: no export was killed: $(cat out.txt)"
    expect 0 "" "$zopt" ckpt export whole "$out"
    [ "$(ls "$dir")" = out ] || fail "after a killed export: $(ls "$dir")"
done
cp whole/step-00000002/model.safetensors "$out.tmp"
expect 0 "" "$zopt" ckpt export whole "$out"
cmp whole/step-00000002/model.safetensors "$out.tmp" || fail "an export has touched a user's file"
rm "$out"*
{ "$faulty" "pwrite kill 2" "$zopt" ckpt export whole "$out"; } >out.txt 2>&1
exec {held}<>"$out.tmp"
flock "$held" # as a living export does
expect 0 "" "$zopt" ckpt export whole "$out"
[ -e "$out.tmp" ] || fail "an export has removed that of another"
exec {held}>&-

# A damaged step is saved anew where two names cannot change places at once, as on NFS; if that fails
# half-way, what was there is there.
stands_in() { # CODE FAULT
    fresh
    expect 0 "began" "$job" "$dir" 4 2
    : >"$dir/step-00000004/model.safetensors"
    expect "$1" "resumed at step 2" "$faulty" "renameat2 $EINVAL 1$2" "$job" "$dir" 4 2
    no_tmp
}
stands_in 0 ""
same_as_whole 00000004
stands_in 73 ";renameat $EIO 3"
[ -e "$dir/step-00000004/model.safetensors" ] || fail "step 4 is gone: $(ls "$dir")"

# ---- row 14: short writes and reads, signals
for spec in "pwrite short 0" "pwrite $EINTR 0" "pread short 0" "pread $EINTR 0" \
    "fallocate $EINTR 0"; do
    fresh
    expect 0 "began" "$faulty" "$spec" "$job" "$dir" 4 2
    expect 0 "resumed at step 4" "$faulty" "$spec" "$job" "$dir" 6 2
    same_as_whole 00000004
    same_as_whole 00000006
done

# ---- row 13 with a real limit and a real disk
fresh
(
    ulimit -f 64 # KiB
    expect 73 "File too large" "$job" "$dir" 2 2
)
mkdir small
if mount -t tmpfs -o size=1m tmpfs small 2>/dev/null; then
    mounted+=("$work/small")
    mkdir small/zopt-ckpt
    expect 0 "began" "$job" small/zopt-ckpt 2 2
    expect 73 "No space left on device" "$job" small/zopt-ckpt 60 2
    "$zopt" ckpt verify small/zopt-ckpt >verify.txt 2>&1 || fail "full disk: $(cat verify.txt)"
    expect 0 "resumed" "$job" small/zopt-ckpt 2 2
    mount -o remount,ro "$work/small"
    expect 77 "Read-only file system" "$job" small/zopt-ckpt 60 2
else
    echo "SKIP: no tmpfs may be mounted here: a full disk, a read-only one"
fi

# ---- row 16: no such parent; a link in the place of a step being written
expect 73 "No such file or directory" "$job" nowhere/zopt-ckpt 2 2
fresh
expect 0 "began" "$job" "$dir" 2 2
mkdir elsewhere
ln -s "$work/elsewhere" "$dir/step-00000004.tmp"
expect 77 "Too many levels of symbolic links" "$job" "$dir" 4 2
[ -z "$(ls elsewhere)" ] || fail "a link was followed"

# ---- rows 17 and 18: two jobs; what a dead one left
fresh
mkfifo fifo
"$job" "$dir" 2 2 hold <fifo >holder.txt 2>&1 &
holder=$!
exec 9>fifo
for _ in $(seq 100); do
    grep -q holding holder.txt && break
    sleep 0.1
done
expect 73 "another job saves here: process $holder on " "$job" "$dir" 4 2
expect 73 "another job saves here" "$zopt" ckpt prune "$dir" --keep-last 1
kill -KILL $holder
wait $holder 2>/dev/null
exec 9>&-
mkdir "$dir/step-00000004.tmp"
touch "$dir/step-00000004.tmp/model.safetensors" "$dir/latest.tmp"
expect 0 "resumed at step 2" "$job" "$dir" 6 2
same_as_whole 00000006
no_tmp

# ---- row 19: `latest` is a hint
for text in "" "step-0000" "step-00000099" "../step-00000002" "step-00000004"; do
    fresh
    "$job" "$dir" 6 2 >/dev/null
    printf %s "$text" >"$dir/latest"
    expect 0 "latest" "$job" "$dir" 6 2
    grep -q "resumed at step 6" out.txt || fail "latest '$text': $(cat out.txt)"
done
rm "$dir/latest"
expect 0 "latest" "$job" "$dir" 6 2

# ---- rows 20 and 21: damage anywhere falls back, loudly; damage everywhere ends it
flip() { # FILE OFFSET: one bit
    python3 - "$1" "$2" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    byte = f.read(1)[0]
    f.seek(int(sys.argv[2]))
    f.write(bytes([byte ^ 4]))
PYTHON
}
for file in model optimizer; do
    bytes=$(stat -c %s "whole/step-00000006/$file.safetensors")
    for at in 0 3 9 200 4095 4096 $((bytes / 2)) $((bytes - 1)); do
        fresh
        cp -r whole "$dir"
        flip "$dir/step-00000006/$file.safetensors" "$at"
        expect 0 "step 6 CANNOT BE LOADED" "$job" "$dir" 6 2
        grep -q "resumed at step 4" out.txt || fail "$file byte $at: $(cat out.txt err.txt)"
        same_as_whole 00000006
    done
done
fresh
cp -r whole "$dir"
for step in 2 4 6; do flip "$dir/step-0000000$step/model.safetensors" 5000; done
expect 65 "none of 3 checkpoints can be loaded" "$job" "$dir" 6 2
expect 65 "DAMAGED" "$zopt" ckpt verify "$dir"
expect 65 "all are kept" "$zopt" ckpt prune "$dir" --keep-last 1
[ "$(find "$dir" -name 'step-*' | wc -l)" = 3 ] || fail "a damaged checkpoint was deleted"

# ---- rows 22 and 23 as whole files: empty, cut, longer
expect_told() { # TEXT, of step 6 in JSON; the others are fine
    python3 - out.txt "$1" <<'PYTHON' || fail "verify --json: $(head -c 500 out.txt)"
import json, sys
rows = json.load(open(sys.argv[1]))["checkpoints"]
assert [row["ok"] for row in rows] == [False, True, True], rows
assert sys.argv[2] in rows[0]["error"], rows
PYTHON
}
spoil() { # COMMAND [TEXT]: run on step 6's model file; what is said of it
    fresh
    cp -r whole "$dir"
    (cd "$dir/step-00000006" && eval "$1")
    expect 65 "" "$zopt" ckpt verify --json "$dir"
    expect_told "${2-}"
    expect 65 "DAMAGED: " "$zopt" ckpt verify "$dir/step-00000006"
    grep -qF -- "${2-}" out.txt || fail "$1: '${2-}' is not in: $(cut -c1-300 out.txt)"
    expect 0 "resumed at step 4" "$job" "$dir" 6 2
}
spoil ': >model.safetensors'
spoil 'printf 1234567 >model.safetensors'
spoil 'truncate -s -1 model.safetensors'
spoil 'printf x >>model.safetensors'
spoil 'head -c 8 /dev/zero | dd of=optimizer.safetensors conv=notrunc status=none'
spoil 'cp ../step-00000004/model.safetensors .'

# ---- rows 24 and 25: headers that lie, in a file of the right form
craft() { # HEADER DATA_BYTES, over model.safetensors
    python3 - "$1" "$2" <<'PYTHON'
import sys
header = eval(sys.argv[1]) if sys.argv[1].startswith("b") else sys.argv[1].encode()
with open("model.safetensors", "wb") as f:
    f.write(len(header).to_bytes(8, "little") + header + bytes(int(sys.argv[2])))
PYTHON
}
entry='"shape":[2],"data_offsets":[0,8]}'
f32='{"dtype":"F32",'
spoil "craft '{\"a\":{\"dtype\":\"F31\",$entry}' 8" "dtype F31 is not known"
spoil "craft '{\"a\":$f32\"shape\":[3],\"data_offsets\":[0,8]}}' 8" "its shape has 12 bytes"
spoil "craft '{\"a\":$f32\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}' 0" "64 bits"
spoil "craft '{\"a\":$f32$entry,\"a\":$f32$entry}' 8" "duplicate"
spoil "craft 'b\"{\\\"\\xff\\\":{}}\"' 0" "unable to decode byte 0xff"
spoil "craft 'b\"{}\\0\"' 0"
spoil "craft 'b\"{\\\"a\\\":\" + b\"[\" * 10000' 0" "nested deeper"
spoil "craft 'b\"{\" + b\"\\\"a\\\":0,\" * 10000000' 0" "more values than"
# However long the name, and wherever the text of the error cuts it.
spoil "craft '{\"x$(printf 'ä%.0s' {1..150})\":{\"dtype\":\"F31\",$entry}' 8" "dtype F31 is not known"

fresh
cp -r whole "$dir"
rm "$dir/step-00000006/optimizer.safetensors"
expect 0 "resumed at step 4" "$job" "$dir" 6 2
fresh
cp -r whole "$dir"
mv "$dir/step-00000006" "$dir/step-00000007"
expect 65 "step-00000007: DAMAGED: " "$zopt" ckpt verify "$dir"
grep -q "holds step 6" out.txt || fail "a step of another name: $(cat out.txt)"
expect 0 "resumed at step 4" "$job" "$dir" 4 2

# ---- row 27: a read that ends early, or fails, once the header has been read
fresh
cp -r whole "$dir"
rm -r "$dir"/step-0000000[24] # nothing else to load
expect 74 "Input/output error" "$faulty" "pread $EIO 6" "$job" "$dir" 6 2
expect 74 "safetensors: ends at byte " "$faulty" "pread cut 6" "$job" "$dir" 6 2

# ---- rows 26 and 34: other tensors, other settings
fresh
cp -r whole "$dir"
expect 78 "group.0.lr: 0.01" "$job" "$dir" 6 2 lr=0.02
expect 65 "3 tensors are not this run's: model: tensor 'extra' F32 [5] is missing" "$job" "$dir" 6 2 extra

# ---- keeping, parts, the command
fresh
expect 0 "began" "$job" "$dir" 12 2 keep=2
[ "$(find "$dir" -name 'step-*' | wc -l)" = 2 ] || fail "keep=2 kept $(ls "$dir")"
expect 0 "resumed at step 12" "$job" "$dir" 20 2 keep=1
[ -d "$dir/step-00000012" ] || fail "the checkpoint that was loaded was deleted"
[ "$(find "$dir" -name 'step-*' | wc -l)" = 2 ] || fail "keep=1 kept $(ls "$dir")"
fresh
expect 0 "began" "$job" "$dir" 6 2 parts=17000
[ -e "$dir/step-00000006/model.safetensors.index.json" ] || fail "no parts"
expect 2 "zopt.step" "$zopt" ckpt diff "$dir/step-00000006" whole/step-00000004
expect 0 "equal" "$zopt" ckpt diff "$dir/step-00000006" whole/step-00000006
expect 0 "resumed at step 6" "$job" "$dir" 8 2
sed -i 's/model-00001-of/model-00002-of/' "$dir/step-00000006/model.safetensors.index.json"
expect 65 "" "$zopt" ckpt verify "$dir/step-00000006"
latin=$(printf 'gr\374n') # no UTF-8
cp -r whole "$latin"
for action in inspect verify "diff whole" "prune --keep-last 3"; do
    # shellcheck disable=SC2086 # an action and its arguments
    expect 64 "not UTF-8" "$zopt" ckpt $action "$latin" --json
done
expect 0 "ok" "$zopt" ckpt verify "$latin"
odd='q"uo\te' # is told in JSON as it is
cp -r whole "$odd"
for action in inspect verify "diff whole/step-00000004"; do
    # shellcheck disable=SC2086 # an action and its arguments
    "$zopt" ckpt $action "$odd/step-00000004" --json >out.txt
    python3 - "$odd/step-00000004" <<'PYTHON' || fail "ckpt $action --json: $(cat out.txt)"
import json, sys
told = json.load(open("out.txt"))
told = told.get("checkpoints", [told])[0]
assert sys.argv[1] in (told.get("path"), told.get("b")), told
PYTHON
done
# An option that an action has no use for is refused, not passed over.
expect 64 "inspect has no --dtype" "$zopt" ckpt inspect whole --dtype fp16
expect 64 "verify has no --keep-last" "$zopt" ckpt verify whole --keep-last 3
expect 64 "export has no --json" "$zopt" ckpt export whole out.safetensors --json
expect 64 "diff has no --dry-run" "$zopt" ckpt diff whole whole --dry-run
# What is no checkpoint is not a damaged one; a run's folder has them further down.
mkdir -p run empty step-x
cp -r whole run/checkpoints
none() { # TEXT PATH: every action says so
    local action
    for action in inspect verify "diff whole" "prune --keep-last 1"; do
        # shellcheck disable=SC2086 # an action and its arguments
        expect 74 "$1" "$zopt" ckpt $action "$2"
        ! grep -q "DAMAGED" out.txt err.txt || fail "$action $2: $(cat out.txt)"
    done
}
none "run: there is no checkpoint; look in run/checkpoints" run
none "empty: there is no checkpoint" empty
none "step-x: there is no checkpoint" step-x
none "whloe: there is no checkpoint: No such file" whloe
none "step-00000009: there is no checkpoint" whole/step-00000009
none "latest: there is no checkpoint: Not a directory" whole/latest
[ "$(find run empty -maxdepth 1)" = $'run\nrun/checkpoints\nempty' ] || fail "made something: $(ls run empty)"
mkdir empty/step-00000001
expect 74 "step-00000001: DAMAGED: " "$zopt" ckpt verify empty

# ---- links: in the place of a file they are not followed
fresh
cp -r whole "$dir"
mv "$dir/step-00000006/model.safetensors" moved
ln -s "$work/moved" "$dir/step-00000006/model.safetensors"
expect 77 "Too many levels of symbolic links" "$job" "$dir" 6 2
grep -q "model.safetensors: cannot open" err.txt || fail "a link for a file: $(cat err.txt)"

# ---- a program in another locale writes the same bytes and reads them; "0,5" is in none of them
mkdir locales
if localedef -i de_DE -f UTF-8 locales/de_DE.UTF-8 2>/dev/null; then
    fresh
    german=(env LOCPATH="$work/locales" LC_ALL=de_DE.UTF-8)
    [ "$("${german[@]}" locale decimal_point)" = , ] || fail "the locale is not German"
    expect 0 "began" "${german[@]}" "$job" "$dir" 4 2
    same_as_whole 00000004
    expect 0 "resumed at step 4" "$job" "$dir" 6 2
    same_as_whole 00000006
    rm -r "$dir/step-00000006"
    expect 0 "resumed at step 4" "${german[@]}" "$job" "$dir" 6 2
    same_as_whole 00000006
else
    echo "SKIP: no locale can be made here: checkpoints under a decimal comma"
fi

if [ $failures -gt 0 ]; then
    echo "$failures failures"
    exit 1
fi
