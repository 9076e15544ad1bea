"""A report's page, section by section, from the figures of its runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.paths import REPOSITORY
from distill.report import plots
from distill.report.blocks import Block, Code, Heading, Items, Picture, Table, Text
from distill.report.leaderboard import Entry, cells, columns, notes, rank_sums, ratio
from distill.report.measured import conditions_shown
from distill.report.published import SOURCE, SYSTEMS, WHERE, same_speech
from distill.report.runs import Run
from distill.report.sounds import player_sound
from distill.report.table import MISSING, value

EXAMPLES_A_TASK = 4
WORST = 5
CURVE_ROWS = 8
RANKING = (
    "Rank: the challenge's rule, the weighted sum of the ranks by WER (weight 1), captions (1), memory (2) and latency "
    "(2: TTFT 1, TPOT 1) among the lines here that have all of them on the same clips and device; the least is best."
)


def sections(runs: Sequence[Run], lines: Sequence[Entry], folder: Path) -> list[Block]:
    """The page's blocks; its pictures are drawn into the folder.

    Args:
        runs: Whose logs and recipes are shown.
        lines: The leaderboard's.
        folder: Where the page will lie.
    """
    shown = columns(lines)
    header = ["", *(column.label for column in shown), "rank"]
    table = [cells(line, shown, rank) for line, rank in zip(lines, rank_sums(lines), strict=True)]
    blocks: list[Block] = [Heading("Leaderboard"), Table(header, table)]
    if found := notes(lines):
        blocks.append(Items([f"Note: {note}." for note in found]))
    blocks.append(
        Text(
            "In brackets: to the teacher of the same run; of memory and times only where they were measured alike. "
            "CIDEr-D runs from 0 to 10, SPIDEr to 5.5. TTFT: time to the first token; "
            f"TPOT: time for each further token. {RANKING}"
        )
    )
    blocks += [Items([_measured(line) for line in lines])]
    blocks += (
        _pareto(lines, folder)
        + _accuracy(lines)
        + _durations(lines, folder)
        + _models(lines)
        + _published(lines, folder)
    )
    blocks += _curves([run for run in runs if run.steps], folder)
    return blocks + _examples(lines) + _recipes(runs)


def _measured(line: Entry) -> str:
    """Which checkpoint, on how many clips, in which precision, on which device; how memory and times were measured."""
    lost = sum(value(line.block, f"{kind}.unreadable.clips") or 0 for kind in ("asr", "aac"))
    counts = [(value(line.block, key), what) for key, what in (("asr.clips", "speech"), ("aac.clips", "captioned"))]
    clips = " and ".join(f"{count:,} {what}" for count, what in counts if count is not None) or "no"
    where = f"{line.block.get('dtype', MISSING)} on {line.block.get('device', MISSING)}"
    parts = [f"{line.label}: checkpoint `{line.block.get('checkpoint', MISSING)}`, {clips} clips, {where}"]
    parts += [f"{lost} of these clips could not be heard and count as empty texts"] if lost else []
    return "; ".join(filter(None, [*parts, conditions_shown(line.block)]))


def _pareto(lines: Sequence[Entry], folder: Path) -> list[Block]:
    def has_any(line: Entry, keys: Iterable[str]) -> bool:
        return any(value(line.block, key) is not None for key in keys)

    scores, costs = [column.key for column in columns(lines)[:2]], [key for key, *_ in plots.COSTS]
    if not any(has_any(line, scores) and has_any(line, costs) for line in lines):
        return []  # measured, but not scored, or the other way round
    plots.draw_pareto(lines, folder / "report.png")
    about = "Bars: 95% bootstrap interval over clips. Squares: teachers. Dashed: not beaten in both."
    picture = Picture("report.png", "Accuracy against cost")
    return [Heading("Accuracy against memory and latency"), picture, Text(about)]


def _accuracy(lines: Sequence[Entry]) -> list[Block]:
    """The parts of both scores."""
    blocks: list[Block] = []
    speech = [line for line in lines if value(line.block, "asr.wer") is not None]
    if speech:
        keys = ["ref_words", "substitutions", "deletions", "insertions"]
        rows = [
            [line.label, _percent(line, "asr.wer"), _interval(line, "asr.wer", 100, 1), _percent(line, "asr.cer")]
            + [_number(line, f"asr.{key}", 0) for key in keys]
            for line in speech
        ]
        names = ["", "WER, %", "95% interval", "CER, %", "words", "substitutions", "deletions", "insertions"]
        blocks += [Heading("Speech"), Table(names, rows)]
        blocks += _groups(speech, "by_corpus", "corpus")
    captioned = [line for line in lines if value(line.block, "aac.cider_d") is not None]
    if captioned:
        keys = ["shuffled_cider_d", "spice", "spider", "fense", "meteor", "rouge_l", "bleu_1", "bleu_4", "vocabulary"]
        rows = [
            [line.label, _number(line, "aac.cider_d", 2), _interval(line, "aac.cider_d", 1, 2)]
            + [_number(line, f"aac.{key}", 0 if key == "vocabulary" else 2) for key in keys]
            for line in captioned
        ]
        names = ["", "CIDEr-D", "95% interval", "shuffled", "SPICE", "SPIDEr", "FENSE", "METEOR", "ROUGE-L", "BLEU-1"]
        blocks += [Heading("Captions"), Table([*names, "BLEU-4", "vocabulary"], rows)]
        blocks.append(Text("Shuffled: CIDEr-D of the same captions dealt out among the clips, which is chance."))
        missing = {k: v for line in captioned for k, v in line.block["aac"].get("not_computed", {}).items()}
        if missing:
            blocks.append(Items([f"{name}: not computed; for its parts: `{how}`" for name, how in missing.items()]))
    return blocks


def _groups(lines: Sequence[Entry], key: str, what: str) -> list[Block]:
    names = list(dict.fromkeys(name for line in lines for name in line.block["asr"].get(key, {})))
    if len(names) < (1 if key == "by_duration" else 2):
        return []
    rows = []
    for name in names:
        of = [line.block["asr"].get(key, {}).get(name, {}) for line in lines]
        counts = next(({k: found[k] for k in ("clips", "ref_words")} for found in of if found), {})
        rates = [MISSING if found.get("wer") is None else f"{100 * found['wer']:.1f}" for found in of]
        rows.append([name, str(counts.get("clips", MISSING)), str(counts.get("ref_words", MISSING)), *rates])
    return [Table([f"WER, % by {what}", "clips", "words", *(line.label for line in lines)], rows)]


def _durations(lines: Sequence[Entry], folder: Path) -> list[Block]:
    timed = [line for line in lines if line.block.get("asr", {}).get("by_duration")]
    if not timed:
        return []
    plots.draw_durations(timed, folder / "durations.png")
    picture = Picture("durations.png", "WER by clip length")
    return [Heading("WER by clip length"), picture, *_groups(timed, "by_duration", "clip length")]


def _models(lines: Sequence[Entry]) -> list[Block]:
    rows = []
    for line in lines:
        parameters = [_number(line, key, 1, 1e6) for key in ("parameters", "parameters_without_embeddings")]
        to_teacher = ratio(line, "parameters")
        parameters[0] += "" if to_teacher is None else f" ({to_teacher:.2f} x)"
        rows.append([line.label, *parameters, *(_number(line, key, 0) for key in ("encoder_layers", "llm_layers"))])
    names = ["", "parameters, million", "outside embeddings, million", "encoder layers", "LLM layers"]
    return [Heading("Models"), Table(names, rows)]


def _published(lines: Sequence[Entry], folder: Path) -> list[Block]:
    """Systems of the challenge, where a line was scored on their speech."""
    alike = [line.label for line in lines if same_speech(line.block)]
    if not alike:
        return []
    plots.draw_published(folder / "published.png")
    rows = [
        [of.name, _shown(of.aac, 4), f"{100 * of.wer:.2f}", f"{of.memory_gib:.2f}"]
        + [_shown(None if second is None else 1e3 * second, 1) for second in (of.ttft_s, of.tpot_s, of.total_s)]
        + [of.device]
        for of in SYSTEMS
    ]
    names = ["", "caption score", "WER, %", "memory, GiB", "TTFT, ms", "TPOT, ms", "both, ms", "device"]
    what = (
        f"On {WHERE}; of the lines above, these have a WER of the same speech: {', '.join(alike)}. Caption scores as "
        f"published, by protocols that differ, some on a validation split; times of other machines. Source: {SOURCE}."
    )
    return [
        Heading("Published systems"),
        Text(what),
        Picture("published.png", "Accuracy against cost of the published systems"),
        Table(names, rows),
    ]


def _curves(runs: Sequence[Run], folder: Path) -> list[Block]:
    """The picture of all steps, and of a single run a few evenly spaced ones in figures."""
    if not runs:
        return []
    plots.draw_losses(runs, folder / "losses.png")
    blocks: list[Block] = [Heading("Learning curve" + "s" * (len(runs) > 1)), Picture("losses.png", "Loss by step")]
    if len(runs) > 1:
        return blocks
    steps = runs[0].steps
    losses = [name for name in plots.LOSSES if any(name in row for row in steps)]
    chosen = sorted({round(i * (len(steps) - 1) / (CURVE_ROWS - 1)) for i in range(CURVE_ROWS)})
    rows = [[str(steps[i]["step"]), *(_shown(value(steps[i], name), 3) for name in losses)] for i in chosen]
    return [*blocks, Table(["step", *losses], rows)]


def _examples(lines: Sequence[Entry]) -> list[Block]:
    """A few clips of each task that all models here were given, with their sounds; and the worst transcripts."""
    with_examples = [line for line in lines if line.block.get("examples")]
    by_line = [{(row["task"], row["id"]): row for row in line.block["examples"]} for line in with_examples]
    shared = [key for key in by_line[0] if all(key in rows for rows in by_line)] if with_examples else []
    rows, sounds = [], []
    for task in dict.fromkeys(task for task, _ in shared):
        for key in [key for key in shared if key[0] == task][:EXAMPLES_A_TASK]:
            first = by_line[0][key]
            reference = first["reference"] if isinstance(first["reference"], str) else first["reference"][0]
            rows.append([task, reference, *(found[key]["hypothesis"] for found in by_line)])
            sounds.append(player_sound(first))
    blocks: list[Block] = []
    if rows:
        blocks += [
            Heading("Examples"),
            Table(["task", "reference", *(line.label for line in with_examples)], rows, sounds),
        ]
        if any(sounds):
            blocks.append(Text("Recordings in this page keep their own licences (NOTICE)."))
    worst = [line for line in lines if line.block.get("asr", {}).get("worst")]
    if worst:
        blocks.append(Heading("Worst transcripts"))
    for line in worst:
        aligned = [f"{clip['id']}\n{clip['alignment']}" for clip in line.block["asr"]["worst"][:WORST]]
        blocks += [Text(line.label), Code("\n\n".join(aligned))]
    return blocks


def _recipes(runs: Sequence[Run]) -> list[Block]:
    """Where the settings stand: the recipe by its name, and the resolved one that the run saved."""
    texts = []
    for run in runs:
        places = [f"`configs/{run.name}.json`"] if (REPOSITORY / "configs" / f"{run.name}.json").is_file() else []
        places += ["`recipe.json` in its results folder, as it was run"] if run.recipe else []
        texts.append(f"{run.name}: {'; '.join(places) or 'its file is neither in configs/ nor in its results folder'}")
    return [Heading("Recipes" if len(runs) > 1 else "Recipe"), Items(texts)]


def _number(line: Entry, key: str, digits: int, unit: float = 1) -> str:
    amount = value(line.block, key)
    return _shown(None if amount is None else amount / unit, digits)


def _percent(line: Entry, key: str) -> str:
    return _number(line, key, 1, 0.01)


def _interval(line: Entry, key: str, factor: float, digits: int) -> str:
    low, high = (value(line.block, f"{key}_{end}") for end in ("low", "high"))
    return MISSING if None in (low, high) else f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"


def _shown(amount: float | None, digits: int) -> str:
    return MISSING if amount is None else f"{amount:,.{digits}f}"
