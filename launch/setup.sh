#!/usr/bin/env bash
# Make a Debian machine ready: list what is missing, install just that, and write out the text that
# the demo learns from. Where it may not or cannot install, it prints the command and goes on.
#
# usage: launch/setup.sh [--quiet] [build|test|peers]...      (default: build)
#   build   what the library, the command and the demo need
#   test    build, and what launch/test.sh needs
#   peers   what the comparisons with PyTorch need
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/help.sh
source "$root/launch/help.sh"
quiet=0

# One row for each thing: what asks for it | how it is found | the package that has it.
# cmd NAME: a command. pc NAME: a pkg-config file. file PATH: a file.
rows='
build|cmd gcc|gcc
build|file /usr/include/stdio.h|libc6-dev
build|cmd make|make
build|cmd cmake|cmake
build|cmd pkg-config|pkg-config
build|pc jansson|libjansson-dev
build|pc libxxhash|libxxhash-dev
build|pc openblas|libopenblas-pthread-dev
build|cmd mpicc|libopenmpi-dev
build|cmd mpirun|openmpi-bin
build|cmd bible|bible-kjv
build|file /usr/lib/bible.data|bible-kjv-text
test|pc check|check
test|cmd python3|python3
test|cmd valgrind|valgrind
test|file /usr/share/i18n/locales/de_DE|locales
peers|py torch|python3-torch
'

say() {
    if [ "$quiet" = 0 ]; then echo "setup: $*"; fi
}

present() { # KIND NAME
    case $1 in
    cmd) command -v "$2" >/dev/null ;;
    pc) command -v pkg-config >/dev/null && pkg-config --exists "$2" ;;
    file) [ -e "$2" ] ;;
    py) [ -x /usr/bin/python3 ] && /usr/bin/python3 -c "import $2" 2>/dev/null ;;
    esac
}

missing_packages() { # WANTED...
    local wanted=" $* " who how package kind name
    while IFS='|' read -r who how package; do
        [[ -n $who && $wanted == *" $who "* ]] || continue
        read -r kind name <<<"$how"
        present "$kind" "$name" || echo "$package"
    done <<<"$rows"
}

# Run as root where that is possible without asking.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

install_packages() { # PACKAGE...
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0) log
    log=$(mktemp)
    # Old lists may name versions that are gone: ask for new ones only if the first try fails.
    if ! { as_root "${get[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1 ||
        { as_root "${get[@]}" update >"$log" 2>&1 &&
            as_root "${get[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1; }; }; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# The King James text, a verse a line without its number ("Ge1:1 "), whole or not at all.
make_text() {
    local text="$root/data/kjv.txt" part
    [ -s "$text" ] && return 0
    if ! command -v bible >/dev/null; then
        echo "setup: data/kjv.txt is missing and so is the command bible, which writes it" >&2
        return 0
    fi
    if ! { mkdir -p "$root/data" && part=$(mktemp "$root/data/kjv.txt.XXXXXX"); }; then
        echo "setup: cannot write $root/data: data/kjv.txt is missing" >&2
        return 0
    fi
    if bible -f -l 10000 'gen1:1-rev22:21' | sed -E 's/^[0-9]?[A-Za-z]+[0-9]+:[0-9]+ //' >"$part" &&
        [ -s "$part" ]; then
        chmod 644 "$part"
        mv "$part" "$text"
        say "wrote data/kjv.txt, $(wc -c <"$text") bytes"
    else
        rm -f "$part"
        echo "setup: the command bible failed: data/kjv.txt is missing" >&2
    fi
}

main() {
    local wanted=() packages=() command
    while [ $# -gt 0 ]; do
        case $1 in
        --quiet) quiet=1 ;;
        build) wanted+=(build) ;;
        test) wanted+=(build test) ;;
        peers) wanted+=(peers) ;;
        *)
            echo "usage: launch/setup.sh [--quiet] [build|test|peers]..." >&2
            exit 64
            ;;
        esac
        shift
    done
    [ ${#wanted[@]} -gt 0 ] || wanted=(build)

    mapfile -t packages < <(missing_packages "${wanted[@]}" | sort -u)
    if [ ${#packages[@]} = 0 ]; then
        say "nothing is missing"
    else
        command="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
        say "missing: ${packages[*]}"
        if ! may_install; then
            echo "setup: cannot install here; as root: $command" >&2
        elif install_packages "${packages[@]}"; then
            say "installed: ${packages[*]}"
        else
            echo "setup: could not install (offline?); as root: $command" >&2
        fi
    fi
    make_text
}

main "$@"
