#!/bin/sh
# Creates or refreshes .venv and installs the given requirement files and this project (editable).
# PYTHON=... names the interpreter; otherwise the first of the usual names that is 3.11 or newer is taken.
set -eu
cd "$(dirname "$0")/.."
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "LLM Scheduler needs Python 3.11 or newer; set PYTHON=/path/to/python3.11." >&2
    return 1
}

# A moved checkout or a vanished interpreter: only a new environment helps.
if [ -e .venv ]; then
    built_for=$(cat .venv/.built-for 2>/dev/null || pwd)
    if [ "$built_for" != "$(pwd)" ] || ! is_new_enough .venv/bin/python; then
        rm -rf .venv
    fi
fi

if [ ! -x .venv/bin/pip ]; then
    python=$(find_python)
    echo "Creating .venv with $("$python" --version)"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian and Ubuntu split these two modules off.
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get install -qq -y python3-venv >/dev/null || { apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null; }
        else
            echo "$python lacks the module venv or ensurepip. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    "$python" -m venv .venv
fi
pwd > .venv/.built-for

set -- $(printf -- '-r %s ' "$@")
echo "Installing pinned packages into .venv"
.venv/bin/python -m pip install --quiet --no-deps "$@"
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
