# shellcheck shell=bash
# Sourced by the scripts that test the command: counts what fails and goes on. Leaves out.txt and
# err.txt in the current folder.
failures=0

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# expect CODE TEXT COMMAND...: the exit code, and TEXT (if any) somewhere in what it prints.
expect() {
    local code=$1 text=$2 got=0
    shift 2
    timeout 120 "$@" >out.txt 2>err.txt || got=$?
    if [ "$got" != "$code" ]; then
        fail "$* : exit code $got, not $code: $(tail -n 2 err.txt)"
    elif [ -n "$text" ] && ! grep -qF -- "$text" out.txt err.txt; then
        fail "$* : '$text' is not in: $(head -n 5 out.txt err.txt)"
    fi
}
