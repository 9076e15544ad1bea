"""A trained model's folder, teacher or student, as a package that a small machine runs without PyTorch."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import InputError
from data.paths import written_whole
from student.device import audio_onnx, llm_gguf, mmproj_gguf
from student.device.audio_onnx import AudioFormat
from student.device.llm_gguf import LLMFormat
from student.device.run import INSTALL
from student.device.settings import FILE as SETTINGS
from student.device.settings import FILTERS, write_settings
from student.use.audio_lm import AudioLM

RUNTIME = "run.py"
MODEL_CARD = "MODEL_CARD.md"
_CARD = """# A SALMONN for a small machine

It hears English speech or other sounds of any length, and writes text. It runs on a CPU with four Python packages:

    {install}
    python run.py speech.wav

{uses}
Formats: what libsndfile reads (wav, flac, ogg, mp3). Speech of more than {longest_s:g} s is cut where it is least loud.

| file | MB | what |
| --- | --- | --- |
{files}
| `mel_filters.npy` | | mel filters |
| `settings.json` | | instructions with their token ids, ends and bounds of the texts |
| `run.py` | | all the code; `--help` says what it takes; from Python `from run import DeviceLM` |

The licences of the data and of the pretrained parts go with the weights{card}.
"""
_WHAT = {
    audio_onnx.FILE: "encoder and connector, for clips of up to 30 s",
    audio_onnx.WEIGHTS: "their weights, {audio}",
    llm_gguf.FILE: "language model, {llm}",
}
FOR_DEVICE = (audio_onnx.FILE, audio_onnx.WEIGHTS, FILTERS, RUNTIME)
"""What only this kind of package has."""
_UNFINISHED = ".unfinished"
"""Lies in a package until it is whole."""
_OURS = (*_WHAT, mmproj_gguf.FILE, FILTERS, SETTINGS, RUNTIME, MODEL_CARD, "README.md", _UNFINISHED, "__pycache__")
_HALVES = tuple(f".{name}." for name in _OURS)
"""How the names begin of what is being written."""


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
        InputError: The model cannot be exported, a package that this needs is missing, or other things lie in the
            folder.
    """
    require_own(out)
    audio_onnx.require_installed()
    write_package(AudioLM.load(model_folder, device="cpu", dtype="fp32"), out, llm, audio, say)


def write_package(model: AudioLM, out: Path, llm: LLMFormat, audio: AudioFormat, say: Callable[[str], None]) -> None:
    """As `export`, of a model in memory: in fp32, on the CPU, its LoRA folded in."""
    audio_onnx.require_exportable(model.model)
    llm_gguf.require_exportable(model.model.llm, model.processor.tokenizer, llm)
    begin(out, ())
    say("writing the language model")
    end = model.processor.config.eos_token_id
    llm_gguf.write_llm(model.model.llm, model.processor.tokenizer, end, llm, out)
    say("writing encoder and connector")
    audio_onnx.write_audio(model.model, audio, out)
    with written_whole(out / RUNTIME) as temporary:
        shutil.copyfile(Path(__file__).with_name(RUNTIME), temporary)
    has_card = copy_card(model, out)
    with written_whole(out / "README.md") as temporary:
        temporary.write_text(_card(model, out, {"llm": llm, "audio": audio}, has_card), encoding="utf-8")
    write_settings(model.processor, model.usage, out)
    finish(out)


def require_own(out: Path) -> None:
    """Refuses a folder in which something would be overwritten that no export has written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; name a folder that is new, or that an export has written")
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    strange = sorted(name for name in found if name not in _OURS and not name.startswith(_HALVES))
    if strange or (found and not found & {SETTINGS, mmproj_gguf.FILE, _UNFINISHED}):
        what = f"holds {(strange or sorted(found))[0]}, which no export wrote"
        raise InputError(f"{out}: {what}; name a folder that is new, or that an export has written")


def begin(out: Path, unwanted: Sequence[str]) -> None:
    """Takes from an earlier package what it is known by, so that half a new one is none; and its leftovers.

    Args:
        out: The package's folder.
        unwanted: Files that a package of another kind has and this one has not.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).touch()
    for name in (SETTINGS, MODEL_CARD, mmproj_gguf.FILE, *unwanted):
        (out / name).unlink(missing_ok=True)
    for path in out.iterdir():
        if path.name.startswith(_HALVES):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_card(model: AudioLM, out: Path) -> bool:
    """Copies the model card, if there is one."""
    card = model.folder and model.folder / "README.md"
    if not (card and card.is_file()):
        return False
    with written_whole(out / MODEL_CARD) as temporary:
        shutil.copyfile(card, temporary)
    return True


def finish(out: Path) -> None:
    """Says that a package is whole."""
    (out / _UNFINISHED).unlink()


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
        install=INSTALL,
        uses="".join(text for name, text in uses.items() if name in tasks) + note,
        longest_s=max(use.longest_s for use in tasks.values()),
        files="\n".join(rows),
        card=f": see [the model card]({MODEL_CARD})" if has_card else "",
    )
