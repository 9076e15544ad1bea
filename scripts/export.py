"""Writes a trained model, teacher or student, as a package that runs without PyTorch and without this repository.

python scripts/export.py --model runs/kd_mini/model --out package [--llm q8_0|q4_0|q4_k_m|f16] [--audio q8|f32]
python package/run.py speech.wav            # needs numpy, onnxruntime, llama-cpp-python and soundfile

python scripts/export.py --runtime llama.cpp --model runs/kd_mini_stack_30s/model --out package
llama-server -m package/llm.gguf --mmproj package/mmproj.gguf       # an unmodified llama.cpp
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.paths import resolve

with redirect_stdout(sys.stderr):  # DeepSpeed says which device it found, as it is imported
    from student.device import llama_package, package
    from student.device.audio_onnx import AudioFormat
    from student.device.llm_gguf import LLMFormat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=resolve("runs/kd_mini/model"), help="a run's model folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the package's folder: new, or an earlier package"
    )
    parser.add_argument("--runtime", choices=("device", "llama.cpp"), default="device", help="what is to run it")
    parser.add_argument("--llm", choices=get_args(LLMFormat), default="q8_0", help="how the language model is stored")
    parser.add_argument("--audio", choices=get_args(AudioFormat), default="q8", help="how encoder and connector are")
    arguments = parser.parse_args()
    forms = arguments.llm, arguments.audio
    of_device = arguments.runtime == "device"
    export = (package if of_device else llama_package).export
    export(arguments.model, arguments.out, *forms, lambda text: print(text, file=sys.stderr, flush=True))
    tried = f"try: python {arguments.out}/run.py FILE" if of_device else f"see {arguments.out}/README.md"
    print(f"written: {arguments.out}; {tried}")


if __name__ == "__main__":
    run_cli(main)
