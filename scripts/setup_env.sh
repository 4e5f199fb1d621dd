#!/usr/bin/env bash
# Make .venv and install ecorelay into it, editable. A second run finds nothing to do and is quick.
#
#   scripts/setup_env.sh          what is needed to run ecorelay
#   scripts/setup_env.sh --dev    also what the checks and tests need
#
# Needs Python 3.11 or newer and, the first time, the network. Uses uv when it is there.
# PYTHON=/path/to/python chooses the interpreter. Written for bash 3.2, the one macOS has.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
oldest="3.11"
log="$venv/setup.log"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say ""
    say "setup failed: $1"
    shift
    while [ $# -gt 0 ]; do
        say "  $1"
        shift
    done
    exit 1
}

extra=""
kind="run"
case "${1:-}" in
    "") ;;
    --dev) extra="[dev]" kind="dev" ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) fail "unknown argument '$1'" "usage: scripts/setup_env.sh [--dev]" ;;
esac

# What a user's own configuration of pip or Python must not change here.
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

venv_python() {
    if [ -x "$venv/bin/python" ]; then
        printf '%s\n' "$venv/bin/python"
    elif [ -x "$venv/Scripts/python.exe" ]; then
        printf '%s\n' "$venv/Scripts/python.exe"
    else
        return 1
    fi
}

# Everything that, when it changes, makes an installation stale: what is installed, by which
# steps, and where (scripts inside .venv hold absolute paths).
wanted_stamp() {
    printf '%s\n' "$root"
    cd "$root" && cksum pyproject.toml ecorelay/__init__.py scripts/setup_env.sh
}

stamped() { # stamped KIND: is this kind of installation there, and current?
    [ -f "$venv/.ecorelay-$1" ] && [ "$(cat "$venv/.ecorelay-$1")" = "$stamp" ]
}

# Of the interpreters, the first that is new enough; what was found instead goes into $too_old.
python=""
too_old=""
find_python() {
    local candidate version
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if new_enough "$candidate"; then
            python=$(command -v "$candidate")
            return 0
        fi
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        too_old="$too_old $candidate is $version;"
    done
    return 1
}

fail_without_python() {
    local seen="none was found"
    [ -z "$too_old" ] || seen="found:${too_old%;}"
    fail "ecorelay needs Python $oldest or newer ($seen)" \
        "Debian, Ubuntu:  sudo apt install python3.11 python3.11-venv   (or a newer release)" \
        "Fedora:          sudo dnf install python3.12" \
        "macOS:           brew install python" \
        "anywhere:        install uv (https://docs.astral.sh/uv/); it brings its own Python" \
        "or name one:     PYTHON=/path/to/python3.12 $0"
}

remove_venv() {
    [ -e "$venv" ] || return 0
    if [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
        fail "$venv is in the way and is no virtual environment" "move it away, then run this again"
    fi
    rm -rf "$venv"
}

make_venv() {
    remove_venv
    if command -v uv >/dev/null 2>&1; then
        # Without a usable Python of its own, uv fetches one.
        if uv venv --quiet --seed --python "${python:-$oldest}" "$venv" >/dev/null 2>&1; then
            return 0
        fi
        rm -rf "$venv"
    fi
    [ -n "$python" ] || fail_without_python
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        local version
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python has no venv module (Debian and Ubuntu package it apart)" \
            "sudo apt install python$version-venv" \
            "or install uv, which needs none: https://docs.astral.sh/uv/"
    fi
    local words
    if ! words=$("$python" -m venv "$venv" 2>&1); then
        rm -rf "$venv"
        fail "$python could not make a virtual environment in $venv" "$words"
    fi
}

install() {
    local py=$1
    if command -v uv >/dev/null 2>&1; then
        if (cd "$root" && uv pip install --quiet --python "$py" -e ".$extra") >"$log" 2>&1; then
            return 0
        fi
        # pip may be configured (a mirror, a proxy) where uv is not: let it try too.
    fi
    if ! "$py" -m pip --version >/dev/null 2>&1; then
        "$py" -m ensurepip --default-pip >>"$log" 2>&1 || true
    fi
    (cd "$root" && "$py" -m pip install --quiet -e ".$extra") >>"$log" 2>&1
}

stamp=$(wanted_stamp)

if py=$(venv_python) && new_enough "$py"; then
    # The stamp of the tests covers both: it installs everything the other does.
    if stamped dev || stamped "$kind"; then
        exit 0
    fi
    # A checkout that was moved: the scripts in .venv still name the old place.
    moved_from=$(cat "$venv"/.ecorelay-* 2>/dev/null | head -n 1 || true)
    if [ -n "$moved_from" ] && [ "$moved_from" != "$root" ]; then
        find_python || true
        make_venv
    fi
else
    find_python || true
    make_venv
fi
py=$(venv_python) || fail "no python in $venv after making it" "remove $venv, then run this again"

say "installing ecorelay into $venv (the first time this takes a while) ..."
rm -f "$venv"/.ecorelay-*
if ! install "$py"; then
    say "--- the end of $log:"
    tail -n 15 "$log" >&2 || true
    fail "the packages could not be installed" \
        "no network?        the first run needs it; afterwards everything is in .venv" \
        "behind a proxy?    set HTTPS_PROXY=http://host:port" \
        "a mirror?          set PIP_INDEX_URL (pip) or UV_INDEX_URL (uv)" \
        "broken .venv?      rm -rf $venv" \
        "then run this again"
fi
printf '%s\n' "$stamp" >"$venv/.ecorelay-$kind"
