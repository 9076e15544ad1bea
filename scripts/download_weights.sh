#!/usr/bin/env bash
# Downloads the parts of a full-size teacher and student from the hub into the cache folder.
#   bash scripts/download_weights.sh            what configs/kd_1b.json names: SALMONN-3B, whose own .pth is on no hub
#   bash scripts/download_weights.sh kd_7b      what configs/kd_7b.json names: SALMONN-7B, whole
# Llama is gated: accept its licence on the hub, then run 'hf auth login' first.
# The first download of a part is taken on trust: its revision and the SHA-256 of its files are noted beside its folder
# (PART.sha256). From then on what is there and right is not fetched again, what is missing is fetched at that revision,
# and other files are refused. To hold another machine to the same files, copy the notes there first.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
weights="${SALMONN_DISTILL_CACHE:-$HOME/.cache/salmonn-distill}/weights"
recipe="${1:-kd_1b}"
case "$recipe" in
    kd_1b | kd_7b) ;;
    *)
        echo "error: $recipe: no recipe whose weights are known here; there are kd_1b and kd_7b" >&2
        exit 2
        ;;
esac
beats=BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2

# fetch REPOSITORY PART WHAT...: what 'hf download' is told to take of the repository, into the folder of the part.
fetch() {
    local folder="$weights/$2" note="$weights/$2.sha256" revision="" newest others
    mkdir -p "$folder"
    if [ -f "$note" ]; then
        if (cd "$folder" && sha256sum --check --strict --status "$note" 2>/dev/null); then return; fi
        revision=$(sed -n 's/^# revision //p' "$note")
    fi
    hf download "$1" "${@:3}" ${revision:+--revision "$revision"} --local-dir "$folder"
    if [ ! -f "$note" ]; then
        # hf keeps the commit that a file is of in the first line of a file of its own.
        newest=$(find "$folder/.cache" -name '*.metadata' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
        {
            echo "# revision $(head -n 1 "$newest")"
            (cd "$folder" && find . -type f ! -path './.cache/*' -print0 | sort -z | xargs -0 sha256sum)
        } >"$note.part"
        mv "$note.part" "$note"
    elif ! others=$(cd "$folder" && sha256sum --check --strict --quiet "$note" 2>/dev/null); then
        others=$(sed 's/: FAILED.*//' <<<"$others" | paste -sd ' ')
        echo "error: $folder: $others: not what was first downloaded; remove it and run this again," \
            "or remove $note to trust what is there" >&2
        exit 2
    fi
}

fetch openai/whisper-large-v2 whisper-large-v2 config.json model.safetensors
fetch WeiChihChen/$beats beats $beats.pt
if [ "$recipe" = kd_7b ]; then
    fetch lmsys/vicuna-7b-v1.5 vicuna-7b-v1.5
    fetch tsinghua-ee/SALMONN-7B salmonn-7b salmonn_7b_v0.pth
fi
# What is gated comes last: without its licence the rest is there.
fetch meta-llama/Llama-3.2-1B-Instruct llama-3.2-1b-instruct --exclude 'original/*'
if [ "$recipe" = kd_7b ]; then exit; fi
fetch meta-llama/Llama-3.2-3B-Instruct llama-3.2-3b-instruct --exclude 'original/*'
if [ ! -f "$weights/salmonn-3b/salmonn_3b_nota.pth" ]; then
    echo "note: Nota's SALMONN-3B is on no hub: put its file there, or train the part (README):"
    echo "  $weights/salmonn-3b/salmonn_3b_nota.pth"
fi
