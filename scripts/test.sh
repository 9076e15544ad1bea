#!/usr/bin/env bash
# Sets up, checks format and lint, runs all tests, two to four at a time. Arguments go to pytest, one test at a time then.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
source .venv/bin/activate
ruff format --check .
ruff check .
if [ $# = 0 ]; then
    export OMP_NUM_THREADS=1 # a worker each core: threads of their own would only wait for one another
    set -- --numprocesses logical --maxprocesses 4
fi
exec python -m pytest "$@"
