#!/usr/bin/env bash
# The program in README.md compiles with the commands given there, and prints the same alone and on 3
# ranks, and with the library where it was installed.
#
# usage: tests/test_readme.sh BUILD_DIR
set -euo pipefail

build=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/README.md" >"$work/example.c"
[ "$(grep -c . "$work/example.c")" -gt 20 ]
# shellcheck disable=SC2046
cc -std=c11 -Wall -Wextra -Werror "-I$root/include" "$work/example.c" "$build/libzopt.a" \
    $(pkg-config --libs ompi-c jansson libxxhash) -lpthread -lm -o "$work/example"
"$work/example" >"$work/alone"
cat "$work/alone"
grep -q '^w\[500\] = 0\.\(499\|500\)' "$work/alone"
for ranks in 2 3; do
    mpirun -n "$ranks" "$work/example" >"$work/several"
    cmp "$work/alone" "$work/several"
done

cmake --install "$build" --prefix "$work/installed" >/dev/null
pc=$(find "$work/installed" -name zopt.pc)
# shellcheck disable=SC2046
cc -std=c11 "$work/example.c" $(PKG_CONFIG_PATH=${pc%/*} pkg-config --cflags --libs zopt) -o "$work/moved"
"$work/moved" >"$work/moved.txt"
cmp "$work/alone" "$work/moved.txt"
"$work/installed/bin/zopt" --version
