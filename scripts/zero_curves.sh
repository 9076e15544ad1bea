#!/usr/bin/env bash
# The same few steps of the mini recipe under ZeRO 1, 2 and 3, and on two CPU ranks: one loss curve, in fp32.
# Ends in results/zero_curves.md.
set -euo pipefail
cd "$(dirname "$0")/.."
source .venv/bin/activate
# Two micro-batches a step: of one rank, or of two ranks one each.
stage='[{"name": "distil", "steps": 8, "max_seconds": 30, "warmup_steps": 4,
         "losses": {"ce": 0.2, "kd": 0.8}, "lr": {"encoder": 1e-4, "connector": 1e-4, "llm": 1e-4}}]'

train() { # NAME ACCUMULATION ZERO_STAGE [LAUNCHER OPTIONS]
    deepspeed --quiet "${@:4}" distill/train.py --config configs/kd_mini.json --set "name=zero_curves/$1" \
        --set "deepspeed.gradient_accumulation_steps=$2" --set "deepspeed.zero_optimization.stage=$3" \
        --set deepspeed.bf16.enabled=false --set "train.stages=$stage" --set data.valid=[]
}

bash scripts/cache_teacher.sh --config configs/kd_mini.json
curves=()
for zero in 1 2 3; do
    train "zero_$zero" 2 "$zero"
    curves+=("ZeRO $zero=runs/zero_curves/zero_$zero")
done
train two_ranks 1 2 --num_gpus 2
curves+=("ZeRO 2, two ranks=runs/zero_curves/two_ranks")
python scripts/report.py --curves "${curves[@]}" --out results/zero_curves.md
