"""A model card in Markdown, with the metadata that model hubs read at its top."""

from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCardData

from data.corpora.licences import licence_of
from data.kinds import kind_of
from distill.report.blocks import Block, Code, Heading, Items, Table, Text, markdown_page
from distill.report.sets import titled
from distill.report.table import shown
from student.use.usage import Usage

_TAGS = ["audio", "audio-text-to-text", "automatic-speech-recognition", "audio-captioning", "salmonn"]
_METRICS = {"asr": ("WER", "wer", 100, 1), "aac": ("CIDEr-D", "cider_d", 1, 2)}
_USE = """from student import AudioLM

model = AudioLM.load("FOLDER")
print(model.transcribe("speech.wav").text)
print(model.caption("sound.wav").text)"""


def model_card(facts: dict, usage: Usage) -> str:
    """The card of a model.

    Args:
        facts: What `card.json` holds (`distill/models/card.py`).
        usage: How it is asked.
    """
    blocks = [*_about(facts), *_use(usage), *_scores(facts), *_sizes(facts), *_data(facts), *_limits(facts, usage)]
    return f"---\n{_metadata(facts)}\n---\n\n" + markdown_page(f"{facts['recipe']}: {facts['model']}", blocks)


def _metadata(facts: dict) -> str:
    results = []
    for name, block in facts.get("scores", {}).items():
        _, key, factor, digits = _METRICS[kind_of(name)]
        if key in block:
            task = "automatic-speech-recognition" if kind_of(name) == "asr" else "audio-captioning"
            amount = round(factor * block[key], digits)
            results.append(EvalResult(task, name, name, key, amount))
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=_TAGS,
        model_name=facts["recipe"] if results else None,
        eval_results=results or None,
    ).to_yaml()


def _about(facts: dict) -> Iterator[Block]:
    kind = "A smaller SALMONN, distilled from a larger one." if facts["model"] == "student" else "A SALMONN."
    yield Text(f"{kind} It hears speech, music and sounds, and answers in text.")
    if facts.get("description"):
        yield Text(f"Recipe {facts['recipe']}: {facts['description']}")
    if facts.get("random_weights"):
        yield Text("Its weights are random: it was made to try memory and speed, and what it writes means nothing.")
    yield Heading("Made of")
    parts = [f"{part}: {name}" for part, name in facts["made_of"].items()]
    stages = ", ".join(f"{stage['name']} ({stage['steps']:,} steps)" for stage in facts["stages"])
    yield Items([*parts, f"trained in stages: {stages}"])


def _use(usage: Usage) -> Iterator[Block]:
    yield Heading("Use")
    yield Text("In the repository of salmonn-distill, with `FOLDER` for this one:")
    yield Code(_USE)
    yield Text(
        "Or `python scripts/transcribe.py sound.wav --model FOLDER`. What it is asked, how much it hears and writes:"
    )
    header = ["task", "instruction", "most seconds at once", "most tokens", "most tokens a second of sound"]
    lines = [
        [task, use.instruction, f"{use.longest_s:g}", str(use.max_new_tokens), shown(use.tokens_per_second, 1)]
        for task, use in usage.tasks.items()
    ]
    yield Table(header, lines)


def _scores(facts: dict) -> Iterator[Block]:
    yield Heading("Scores")
    if not facts.get("scores"):
        yield Text("It has not been scored; `scripts/evaluate.py` does that, and writes the scores here.")
        return
    lines = []
    for name, block in facts["scores"].items():
        label, key, factor, digits = _METRICS[kind_of(name)]
        score, low, high = (
            shown(None if (of := block.get(at)) is None else factor * of, digits)
            for at in (key, f"{key}_low", f"{key}_high")
        )
        lines.append(
            [
                titled(label, name) + (", %" if factor == 100 else ""),
                score,
                f"{low} to {high}",
                f"{block.get('clips', 0):,}",
            ]
        )
    yield Table(["test set", "score", "95% interval", "clips"], lines)
    yield Text("WER: word error rate of transcripts, lower is better. CIDEr-D: likeness of captions, of 10.")


def _sizes(facts: dict) -> Iterator[Block]:
    yield Heading("Sizes")
    lines = [[part, f"{count / 1e6:,.1f}"] for part, count in facts["parameters"].items()]
    lines.append(["all", f"{sum(facts['parameters'].values()) / 1e6:,.1f}"])
    yield Table(["part", "million parameters"], lines)
    said = [f"weight files: {facts['weight_bytes'] / 1e6:,.1f} MB"]
    measured = facts.get("measured", {})
    if "ttft_s" in measured:
        where = f" ({measured.get('device', '?')}, {measured.get('dtype', '?')}, a clip of 10 s)"
        said.append(f"time to first token: {1e3 * measured['ttft_s']:,.1f} ms{where}")
    if "tpot_s" in measured:
        said.append(f"time for each further token: {1e3 * measured['tpot_s']:,.1f} ms")
    if "peak_memory_bytes" in measured:
        said.append(f"memory at its peak: {measured['peak_memory_bytes'] / 2**20:,.0f} MiB")
    yield Items(said)


def _data(facts: dict) -> Iterator[Block]:
    yield Heading("Training data and licences")
    if facts["data"] is None:
        yield Text("The rows could not be read when this card was written.")
    else:
        lines = [
            [row["corpus"], row["task"], f"{row['rows']:,}", f"{row['hours']:,.2f}", licence_of(row["corpus"])]
            for row in facts["data"]
        ]
        yield Table(["corpus", "task", "rows", "hours", "licence"], lines)
    yield Text(
        "The pretrained parts keep their own licences, which bind this model too. No licence is chosen here: whoever "
        "publishes it is to choose one that all of these allow."
    )


def _limits(facts: dict, usage: Usage) -> Iterator[Block]:
    yield Heading("What it cannot do")
    untrained = [task for task, use in usage.tasks.items() if not use.trained]
    tasks = sorted({row["task"] for row in facts["data"] or ()})
    limits = [
        "Longer sound is not heard as one: speech is cut at pauses, and of other sounds each window has a text.",
        "It makes up words and sounds, most of all of what it was not trained on, such as noise, other languages or "
        "several speakers at once. No text is proof of what was said.",
    ]
    if tasks:
        limits.append(f"It was trained on these tasks alone: {', '.join(tasks)}.")
    if untrained:
        limits.append(f"What it writes when used to {' or '.join(untrained)} is a guess: it was not trained to.")
    if not facts.get("scores"):
        limits.append("How well it does is not known.")
    yield Items(limits)
