#!/usr/bin/env bash
# Downloads the parts of the full-size teacher and student from the hub into the cache folder; what is there is not fetched again.
#   bash scripts/download_weights.sh
# Llama is gated: accept its licence on the hub, then run 'hf auth login' first. SALMONN-3B's own .pth is on no hub.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
weights="${SALMONN_DISTILL_CACHE:-$HOME/.cache/salmonn-distill}/weights"
beats=BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2

hf download openai/whisper-large-v2 config.json model.safetensors --local-dir "$weights/whisper-large-v2"
hf download WeiChihChen/$beats $beats.pt --local-dir "$weights/beats"
hf download meta-llama/Llama-3.2-3B-Instruct --exclude 'original/*' --local-dir "$weights/llama-3.2-3b-instruct"
hf download meta-llama/Llama-3.2-1B-Instruct --exclude 'original/*' --local-dir "$weights/llama-3.2-1b-instruct"
if [ ! -f "$weights/salmonn-3b/salmonn_3b_nota.pth" ]; then
    echo "note: Nota's SALMONN-3B is on no hub: put its file there, or train the part (README):"
    echo "  $weights/salmonn-3b/salmonn_3b_nota.pth"
fi
