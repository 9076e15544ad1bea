#!/usr/bin/env bash
# Caches the teacher's words on the rows of a split: one process a device, through DeepSpeed's launcher.
#   bash scripts/cache_teacher.sh [--config configs/kd_1b.json] [--split train] [--set a.b=c ...]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
command -v deepspeed >/dev/null || { echo "error: no deepspeed here; run 'bash scripts/setup.sh' first" >&2; exit 2; }
exec deepspeed --quiet scripts/cache_teacher.py "$@"
