"""A trained model's folder as two files for an unmodified llama.cpp: `llm.gguf`, and `mmproj.gguf` beside it."""

import json
from collections.abc import Callable
from pathlib import Path

from data.paths import written_whole
from data.prompts import QUESTION
from student.device import llm_gguf, mmproj_gguf
from student.device.audio_onnx import AudioFormat
from student.device.llm_gguf import LLMFormat
from student.device.package import FOR_DEVICE, begin, copy_card, finish, require_own
from student.use.audio_lm import AudioLM
from teacher.processor import SalmonnProcessor

_TEMPLATE = """\
{%- set ns = namespace(sound='', said='') -%}
{%- set content = messages[-1].content -%}
{%- set parts = [content] if content is string else content | map(attribute='text') | list -%}
{%- for part in parts -%}
{%- if '<__media' in part -%}
{%- set ns.sound = '<__media' + part.split('<__media')[1].split('>')[0] + '>' -%}
{%- endif -%}
{%- set ns.said = ns.said + part -%}
{%- endfor -%}
{%- set said = ns.said.replace(ns.sound, '') | trim if ns.sound else ns.said | trim -%}
"""
"""Of the last message, which llama.cpp gives as one text or in parts, the sound's place and what is asked of it."""
_CARD = """# A SALMONN for llama.cpp

It hears English speech or other sounds, and writes text. It runs in llama.cpp as it is (tried with the one of
llama-cpp-python {version}):

    llama-server -m llm.gguf --mmproj mmproj.gguf --temp 0
    llama-mtmd-cli -m llm.gguf --mmproj mmproj.gguf --temp 0 --jinja --audio speech.wav -p "{instruction}"

The server takes `POST /v1/chat/completions` with one message: an `input_audio` and a text, which is one of

{instructions}

It has learnt no other words, no system message and no earlier turns.

Give it less than 30 s. llama.cpp hears every sound in pieces of 30 s, the last one filled up with silence, so a short
one costs as much as a long one; of 30 s or more it makes several pieces, which this model was not trained on. Speech of
more than {longest_s:g} s is longer than nearly all that it was trained on.

| file | MB | what |
| --- | --- | --- |
| `llm.gguf` | {llm_mb:.1f} | language model, {llm}, with its tokenizer and the layout of the prompt |
| `mmproj.gguf` | {audio_mb:.1f} | Whisper's encoder and the connector (the projector `ultravox`), {audio} |

The licences of the data and of the pretrained parts go with the weights{card}.
"""
_VERSION = "0.3.36"


def chat_template(processor: SalmonnProcessor) -> str:
    """The layout of the prompt, in Jinja, as llama.cpp reads it: the same text around the sound as in training."""
    before, after = processor.prompt_pieces
    begin_text = processor.tokenizer.bos_token or ""
    pieces = [_printed(begin_text + before), "{{ ns.sound }}", _printed(after)]
    return _TEMPLATE + "".join(pieces)


def _printed(piece: str) -> str:
    """A piece of the prompt as Jinja prints it, with what is said in its place."""
    texts = ["{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else "" for text in piece.split("{}")]
    return "{{ said }}".join(texts)


def export(
    model_folder: Path, out: Path, llm: LLMFormat, audio: AudioFormat, say: Callable[[str], None] = print
) -> None:
    """Writes both files and a card.

    Args:
        model_folder: What `AudioLM.load` takes.
        out: Their folder; what an earlier export left in it is replaced.
        llm: How the language model is stored.
        audio: How encoder and connector are.
        say: Told what is being done.

    Raises:
        InputError: The model cannot be exported, a package that this needs is missing, or other things lie in the
            folder.
    """
    require_own(out)
    write_package(AudioLM.load(model_folder, device="cpu", dtype="fp32"), out, llm, audio, say)


def write_package(model: AudioLM, out: Path, llm: LLMFormat, audio: AudioFormat, say: Callable[[str], None]) -> None:
    """As `export`, of a model in memory: in fp32, on the CPU, its LoRA folded in."""
    mmproj_gguf.require_exportable(model.model)
    llm_gguf.require_exportable(model.model.llm, model.processor.tokenizer, llm)
    begin(out, FOR_DEVICE)
    say("writing the language model")
    end, template = model.processor.config.eos_token_id, chat_template(model.processor)
    llm_gguf.write_llm(model.model.llm, model.processor.tokenizer, end, llm, out, template)
    say("writing encoder and connector")
    mmproj_gguf.write_mmproj(model.model, audio, out)
    has_card = copy_card(model, out)
    with written_whole(out / "README.md") as temporary:
        temporary.write_text(_card(model, out, {"llm": llm, "audio": audio}, has_card), encoding="utf-8")
    finish(out)


def _card(model: AudioLM, out: Path, forms: dict[str, str], has_card: bool) -> str:
    tasks = model.usage.tasks
    known = {name: use.instruction for name, use in tasks.items() if use.trained}
    said = {name: "your question" if QUESTION in words else f"`{words}`" for name, words in known.items()}
    return _CARD.format(
        version=_VERSION,
        instruction=next(iter(known.values()), "..."),
        instructions="\n".join(f"- {words} ({name})" for name, words in said.items()),
        longest_s=max(use.longest_s for use in tasks.values()),
        llm_mb=(out / llm_gguf.FILE).stat().st_size / 1e6,
        audio_mb=(out / mmproj_gguf.FILE).stat().st_size / 1e6,
        card=": see [the model card](MODEL_CARD.md)" if has_card else "",
        **forms,
    )
