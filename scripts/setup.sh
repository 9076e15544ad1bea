#!/usr/bin/env bash
# Sets up all that the mini recipe needs: .venv, the Java parts of the captioning metrics, weights, sounds.
# Run it as often as you like: what is there and right is kept, and a run that was cut off goes on.
#   bash scripts/setup.sh            for the quickstart and the tests
#   bash scripts/setup.sh --large    also the teacher's training set
# .venv is made with python3, or else any Python 3.10 to 3.14 on the PATH; PYTHON=/path/to/python names one. (On 3.14
# nothing was tried: every package has a wheel for it or is pure Python.)
set -euo pipefail
cd "$(dirname "$0")/.."

step() { echo "setup: $*"; }
fail() {
    echo "error: $*" >&2
    exit 2
}

case "${1:-}" in
    "" | --large) ;;
    *) fail "$1: unknown option; there is only --large" ;;
esac

version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
supported() { [[ $(version "$1") =~ ^3\.1[0-4]\. ]]; }

# A Python that can build a virtual environment, and compile the small operation that DeepSpeed needs.
missing_packages() {
    local name
    name=$(basename "$1")
    "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "$name-venv"
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        echo "$name-dev"
    command -v c++ >/dev/null || echo g++
}

if [ -n "${PYTHON:-}" ] && ! supported "$PYTHON"; then
    found=$(version "$PYTHON") || found="nothing that runs"
    fail "PYTHON=$PYTHON is $found, not Python 3.10 to 3.14; name another, or leave PYTHON out"
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if supported "$candidate"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "no Python 3.10 to 3.14 found; install one, or name it: PYTHON=/path/to/python $0"
    missing=$(missing_packages "$python" | paste -sd ' ')
    if [ -n "$missing" ]; then
        # $missing is a list of words, and so stands without quotes.
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            step "installing $missing (apt-get, as this is root)"
            apt-get update -qq >/dev/null
            # shellcheck disable=SC2086
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
                fail "could not install $missing; install it, then run this again"
        else
            fail "missing: $missing; run 'sudo apt-get install $missing', then this again"
        fi
    fi
    step "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || fail "could not make .venv; is the venv package of $python installed?"
fi
there=$(version .venv/bin/python)
supported .venv/bin/python || fail ".venv holds Python $there, not 3.10 to 3.14; remove .venv, run again"
if [ -n "${PYTHON:-}" ] && [ "$there" != "$(version "$PYTHON")" ]; then
    fail ".venv holds Python $there, and PYTHON=$PYTHON is $(version "$PYTHON"); remove .venv, or leave PYTHON out"
fi

wanted=$(cat requirements.txt requirements-dev.txt | sha256sum)
if [ "$(cat .venv/requirements.sha256 2>/dev/null)" != "$wanted" ]; then
    step "installing requirements-dev.txt into .venv (some minutes and 6 GB the first time)"
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -r requirements-dev.txt |
        sed -un 's/^ *\(Downloading .*\|Installing collected packages\).*/setup:   \1/p' ||
        fail "pip could not install requirements-dev.txt (see above); check the network and the disk, then run this again"
    echo "$wanted" >.venv/requirements.sha256
fi

step "Java parts of the captioning metrics"
.venv/bin/python -m distill.scoring.java_parts
step "weights"
.venv/bin/python scripts/prepare_weights.py
step "sounds"
.venv/bin/python scripts/prepare_mini.py "$@"
step "done"
