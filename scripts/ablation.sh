#!/usr/bin/env bash
# Cross-entropy alone against cross-entropy + distillation (the teacher's cached distribution and its audio tokens):
# three seeds, the same start for both arms of a seed (encoder and connector aligned to the teacher), the same steps and
# batches. What is done is kept, so an interrupted run goes on. Ends in results/ablation.md.
#   bash scripts/setup.sh --large; bash scripts/ablation.sh [LAUNCHER OPTIONS, such as --num_gpus 2]
set -euo pipefail
cd "$(dirname "$0")/.."
source .venv/bin/activate
config=configs/kd_mini_long.json
start_steps=100 steps=120
rates='"lr": {"encoder": 2e-4, "connector": 2e-4, "llm": 2e-4}'
batch='"max_seconds": 60, "warmup_steps": 20'
alignment='"losses": {"encoder": 1, "audio_tokens": 1}, "lr": {"encoder": 5e-4, "connector": 5e-4}'

train() { deepspeed --quiet "${launcher[@]}" distill/train.py "$@"; }

launcher=("$@")
bash scripts/cache_teacher.sh --config $config
arms=()
for arm in ce kd; do
    folders=()
    for seed in 0 1 2; do
        start=ablation/start_$seed
        train --config $config --set name=$start --set seed=$seed --set train.validate_every=1000 \
            --set "train.stages=[{\"name\": \"encoder\", \"steps\": $start_steps, $batch, $alignment}]"
        case $arm in
            ce) losses='{"ce": 1.0}' ;;
            kd) losses='{"ce": 0.2, "kd": 0.8, "audio_tokens": 1.0}' ;;
        esac
        run=(--config $config --set name=ablation/${arm}_$seed --set seed=$seed --set train.validate_every=1000
            --set "student.weights=runs/$start/model"
            --set "train.stages=[{\"name\": \"$arm\", \"steps\": $steps, $batch, \"losses\": $losses, $rates}]")
        train "${run[@]}"
        python scripts/evaluate.py "${run[@]}" --model student
        folders+=("results/ablation/${arm}_$seed/student")
    done
    arms+=("$arm=$(IFS=,; echo "${folders[*]}")")
done
python scripts/report.py --ablation "${arms[@]}" --out results/ablation.md
