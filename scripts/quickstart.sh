#!/usr/bin/env bash
# The whole line on the mini recipe: set-up, teacher cache, distillation, scoring, table. Interrupted, it goes on.
set -euo pipefail
(($# == 0)) || { echo "error: quickstart.sh takes no arguments; it sets up, caches, distils and scores" >&2; exit 2; }
cd "$(dirname "$0")/.."
bash scripts/setup.sh
source .venv/bin/activate
config=configs/kd_mini.json
SECONDS=0
echo "== 1/3 cache: the teacher writes down what it says of the training clips"
bash scripts/cache_teacher.sh --config $config
echo "== 2/3 distil: the student learns from the cache"
deepspeed --quiet distill/train.py --config $config
echo "== 3/3 score: teacher and student on the held-out clips"
# The student's scoring measures both, in turn.
python scripts/evaluate.py --config $config --model teacher --set evaluation.measured_runs=0
python scripts/evaluate.py --config $config --model student
echo "quickstart took $((SECONDS / 60)) min $((SECONDS % 60)) s after set-up"
