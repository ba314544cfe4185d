#!/usr/bin/env bash
# tests/FAULTS.md has a row for each fault that zopt answers for, and what each row names is there.
#
# usage: tests/test_fault_table.sh BUILD_DIR
set -uo pipefail

build=$(cd "${1:?usage: tests/test_fault_table.sh BUILD_DIR}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

exec python3 - FAULTS.md 37 <(ctest --test-dir "$build" -N) <<'PYTHON'
import re, sys

table, last, known = sys.argv[1], int(sys.argv[2]), open(sys.argv[3]).read()
tests = set(re.findall(r"^ *Test +#\d+: (\S+)", known, re.M))
rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in open(table) if re.match(r"\| *\d", line)]
wrong = []
if [int(row[0]) for row in rows] != list(range(1, last + 1)):
    wrong.append("the rows are %s, not 1 to %d" % ([row[0] for row in rows], last))
for row in rows:
    if len(row) != 5 or not all(row):
        wrong.append("row %s has not five cells that say something" % row[0])
        continue
    wrong += ["row %s: ctest has no test %s" % (row[0], t) for t in row[2].split() if t not in tests]
    for place in row[3].split():
        file, word = place.split(":")
        if not re.search(r"(?<![A-Za-z0-9_])%s(?![A-Za-z0-9_])" % re.escape(word), open(file).read()):
            wrong.append("row %s: %s is not in %s" % (row[0], word, file))
print("\n".join(wrong) if wrong else "%d faults, each with its tests" % len(rows))
sys.exit(bool(wrong))
PYTHON
