#!/usr/bin/env bash
# All checks, in the order in which they fail quickest. Stops at the first that fails.
#
#   scripts/test.sh                 everything, as CI runs it
#   scripts/test.sh --fast          the same without measuring coverage
#   scripts/test.sh [--fast] ARGS   ARGS go to pytest: -k words, -x, a file, -m soak ...
#                                   (a selection is not held to the coverage floors)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

case "${1:-}" in
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac

coverage=yes
if [ "${1:-}" = "--fast" ]; then
    coverage=no
    shift
fi

current=""
began=0

step() { # step NAME COMMAND...: run it, say its name and how long it took
    current=$1
    shift
    began=$SECONDS
    printf '\n=== %s\n' "$current"
    "$@"
    printf '=== %s: ok (%d s)\n' "$current" $((SECONDS - began))
    current=""
}

on_exit() {
    local status=$?
    if [ "$status" -ne 0 ]; then
        printf '\n=== FAILED: %s (%d s)\n' "${current:-before the first step}" $((SECONDS - began)) >&2
    fi
}
trap on_exit EXIT

# Four at once: many tests wait for processes, so two cores carry them well. Files stay together, as far as
# they share a hub, until a worker has nothing left and takes over half of what another has.
parallel=(-n 4 --dist worksteal)

step "environment" ./scripts/setup_env.sh --dev

bin="$root/.venv/bin"
[ -d "$bin" ] || bin="$root/.venv/Scripts"
python="$bin/python"

step "ruff check" "$python" -m ruff check .
step "ruff format" "$python" -m ruff format --check .
step "mypy" "$python" -m mypy
step "import-linter" "$bin/lint-imports" --no-logo

if [ "$coverage" = no ]; then
    step "pytest" "$python" -m pytest "${parallel[@]}" "$@"
else
    # Each process writes a data file of its own; they become one before the report.
    step "forget old coverage data" "$python" -m coverage erase
    step "pytest" "$python" -m coverage run -m pytest "${parallel[@]}" "$@"
    step "combine coverage data" "$python" -m coverage combine --quiet
    if [ $# -gt 0 ]; then
        step "coverage report" "$python" -m coverage report --fail-under=0
    else
        step "coverage of everything" "$python" -m coverage report
        step "coverage of the core" "$python" -m coverage report \
            --include='ecorelay/core/*' --fail-under=100
    fi
fi

printf '\n=== all checks passed (%d s)\n' "$SECONDS"
