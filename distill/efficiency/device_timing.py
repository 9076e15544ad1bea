"""A process without PyTorch that times a device package on command, as `distill/efficiency/timing.py` times a model."""

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from distill.efficiency.resident import forget_resident_peak, resident_bytes


def runtime(package: Path) -> ModuleType:
    """The code that lies in a package."""
    spec = importlib.util.spec_from_file_location("device_run", package / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(lm, wave: np.ndarray, prompt: tuple[list[int], list[int]], tokens: int) -> dict:
    """Writes exactly 1 + `tokens` tokens about a clip, greedily.

    Args:
        lm: The package's `DeviceLM`.
        wave: The clip's samples.
        prompt: The ids before the audio tokens and after them.
        tokens: After the first.

    Returns:
        The seconds of `distill.efficiency.timing.Run`; encoder and connector are one, called `encoder`.
    """
    before, after = prompt
    began = time.perf_counter()
    mel = lm.features(wave)
    featured = time.perf_counter()
    audio = lm.audio_tokens(mel, len(wave))
    heard = time.perf_counter()
    logits, place = lm.prefill(before, audio, after)
    ids = [int(np.argmax(logits[0]))]
    first = time.perf_counter()
    for step in range(tokens):
        ids.append(int(np.argmax(lm.llm.read(ids[-1:], place + step)[0])))
    last = time.perf_counter()
    lm.said(ids)
    ended = time.perf_counter()
    parts = {"features": featured - began, "encoder": heard - featured, "prefill": first - heard}
    return parts | {"step": (last - first) / tokens, "total": ended - began}


def main() -> None:
    """Answers each line of the standard input; its end ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--instruction", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--answers", type=int, required=True, help="file descriptor of the pipe for answers")
    arguments = parser.parse_args()
    answers = os.fdopen(arguments.answers, "w")

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    run = runtime(arguments.package)
    bare = resident_bytes("VmRSS")
    try:
        lm = run.DeviceLM(arguments.package, arguments.threads, beams=1)
        prompt = lm.around(arguments.instruction)
        loading = resident_bytes("VmHWM")
        answer({"process_bytes": bare, "loading_peak_bytes": loading, "threads": arguments.threads})
        forget_resident_peak()
        for line in sys.stdin:
            asked = json.loads(line)
            wave = np.load(asked["clip"])
            if asked["fresh"]:
                forget_resident_peak()
            found = timed(lm, wave, prompt, asked["tokens"])
            answer(found | {"peak_memory_bytes": resident_bytes("VmHWM")})
    except run.InputError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
