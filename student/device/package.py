"""A trained model's folder, teacher or student, as a package that a small machine runs without PyTorch."""

import shutil
from collections.abc import Callable
from pathlib import Path

from data.errors import InputError
from data.paths import written_whole
from student.device import audio_onnx, llm_gguf
from student.device.audio_onnx import AudioFormat
from student.device.llm_gguf import LLMFormat
from student.device.settings import FILE as SETTINGS
from student.device.settings import FILTERS, write_settings
from student.use.audio_lm import AudioLM

RUNTIME = "run.py"
MODEL_CARD = "MODEL_CARD.md"
_CARD = """# A SALMONN for a small machine

It hears English speech or other sounds of any length, and writes text. It runs on a CPU with four Python packages:

    pip install numpy onnxruntime llama-cpp-python soundfile
    python run.py speech.wav

{uses}
Formats: what libsndfile reads (wav, flac, ogg, mp3). Speech of more than {longest_s:g} s is cut where it is least loud.

| file | MB | what |
| --- | --- | --- |
{files}
| `run.py` | | all the code; `--help` says what it takes; from Python `from run import DeviceLM` |

The licences of the data and of the pretrained parts go with the weights{card}.
"""
_WHAT = {
    audio_onnx.FILE: "encoder and connector, for clips of up to 30 s",
    audio_onnx.WEIGHTS: "their weights, {audio}",
    llm_gguf.FILE: "language model, {llm}",
    FILTERS: "mel filters",
    SETTINGS: "instructions with their token ids, ends and bounds of the texts",
}


def export(
    model_folder: Path, out: Path, llm: LLMFormat, audio: AudioFormat, say: Callable[[str], None] = print
) -> None:
    """Writes the package.

    Args:
        model_folder: What `AudioLM.load` takes.
        out: The package's folder; what an earlier export left in it is replaced.
        llm: How the language model is stored.
        audio: How encoder and connector are.
        say: Told what is being done.

    Raises:
        InputError: The model cannot be exported, or a package that this needs is missing.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; name a folder that is new, or that an export has written")
    audio_onnx.require_installed()
    model = AudioLM.load(model_folder, device="cpu", dtype="fp32")
    audio_onnx.require_exportable(model.model)
    out.mkdir(parents=True, exist_ok=True)
    say("writing the language model")
    end = model.processor.config.eos_token_id
    llm_gguf.write_llm(model.model.llm, model.processor.tokenizer, end, llm, out)
    say("writing encoder and connector")
    audio_onnx.write_audio(model.model, audio, out)
    with written_whole(out / RUNTIME) as temporary:
        shutil.copyfile(Path(__file__).with_name(RUNTIME), temporary)
    if has_card := (model.folder / "README.md").is_file():
        with written_whole(out / MODEL_CARD) as temporary:
            shutil.copyfile(model.folder / "README.md", temporary)
    write_settings(model.processor, model.usage, out)
    with written_whole(out / "README.md") as temporary:
        temporary.write_text(_card(model, out, {"llm": llm, "audio": audio}, has_card), encoding="utf-8")


def _card(model: AudioLM, out: Path, forms: dict[str, str], has_card: bool) -> str:
    tasks = model.usage.tasks
    uses = {
        "caption": "    python run.py bark.ogg --task caption\n",
        "ask": '    python run.py bark.ogg --task ask --question "which animal is it?"\n',
    }
    untrained = [name for name, use in tasks.items() if not use.trained]
    note = f"\nNot trained on: {', '.join(untrained)}; what it answers there is a guess.\n" if untrained else ""
    rows = [
        f"| `{name}` | {(out / name).stat().st_size / 1e6:.1f} | {what.format(**forms)} |"
        for name, what in _WHAT.items()
    ]
    return _CARD.format(
        uses="".join(text for name, text in uses.items() if name in tasks) + note,
        longest_s=max(use.longest_s for use in tasks.values()),
        files="\n".join(rows),
        card=f": see [the model card]({MODEL_CARD})" if has_card else "",
    )
