# shellcheck shell=bash
# Sourced first by the scripts of this folder: --help prints what a script says of itself at its top,
# and ends it.
case ${1-} in
-h | --help)
    awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
    exit 0
    ;;
esac
