"""A report's page, section by section, from the figures of its runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.kinds import KINDS, kind_of, own_name
from data.paths import REPOSITORY
from distill.report import plots
from distill.report.accuracy import accuracy, durations
from distill.report.blocks import Block, Heading, Items, Picture, Table, Text
from distill.report.examples import examples
from distill.report.leaderboard import Entry, cells, columns, notes, rank_sums, ranked_by, ratio, scores
from distill.report.measured import conditions_shown
from distill.report.once import not_shown
from distill.report.published import SOURCE, SYSTEMS, WHERE, same_speech
from distill.report.runs import Run
from distill.report.sets import sets_in, sets_of
from distill.report.table import MISSING, figure, shown, value

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
    figures = columns(lines)
    header = ["", *(column.label for column in figures), "rank"]
    table = [cells(line, figures, rank) for line, rank in zip(lines, rank_sums(lines), strict=True)]
    blocks: list[Block] = [Heading("Leaderboard"), Table(header, table)]
    if found := [*notes(lines), *not_shown(runs)]:
        blocks.append(Items([f"Note: {note}." for note in found]))
    blocks.append(
        Text(
            "In brackets: to the teacher of the same run; of memory and times only where they were measured alike. "
            "CIDEr-D runs from 0 to 10, SPIDEr to 5.5. TTFT: time to the first token; "
            f"TPOT: time for each further token. {RANKING}{_which_count(lines)}"
        )
    )
    blocks += [Items([_measured(line) for line in lines])]
    blocks += _pareto(lines, folder) + accuracy(lines) + durations(lines, folder)
    blocks += _models(lines) + _published(lines, folder)
    blocks += _curves([run for run in runs if run.steps], folder)
    return blocks + examples(lines) + _recipes(runs)


def _which_count(lines: Sequence[Entry]) -> str:
    """Of several test sets of a kind, the one that is ranked by."""
    several = [kind for kind in KINDS if len(sets_of((line.block for line in lines), kind)) > 1]
    first = ranked_by(lines)
    counts = [f"{first[kind].label.removesuffix(', %')} (`{first[kind].of_set}`)" for kind in several]
    return f" Of the sets of a kind the recipe's first counts: {' and '.join(counts)}." if counts else ""


def _measured(line: Entry) -> str:
    """Which checkpoint, on how many clips, in which precision, on which device; how memory and times were measured."""
    names = sets_in(line.block)
    lost = sum(value(line.block, f"{name}.unreadable.clips") or 0 for name in names)
    counts = [(value(line.block, f"{name}.clips"), name) for name in names]
    clips = _listed([f"{count:,} {_clips_of(name)}" for count, name in counts if count is not None]) or "no"
    where = f"{line.block.get('dtype', MISSING)} on {line.block.get('device', MISSING)}"
    parts = [f"{line.label}: checkpoint `{line.block.get('checkpoint', MISSING)}`, {clips} clips, {where}"]
    parts += [f"{lost} of these clips could not be heard and count as empty texts"] if lost else []
    return "; ".join(filter(None, [*parts, conditions_shown(line.block)]))


def _clips_of(name: str) -> str:
    what = {"asr": "speech", "aac": "captioned"}[kind_of(name)]
    return what if name in KINDS else f"{what} ({own_name(name)})"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _pareto(lines: Sequence[Entry], folder: Path) -> list[Block]:
    def has_any(line: Entry, keys: Iterable[str]) -> bool:
        return any(value(line.block, key) is not None for key in keys)

    scored, costs = [column.key for column in scores(lines)], [key for key, *_ in plots.COSTS]
    if not any(has_any(line, scored) and has_any(line, costs) for line in lines):
        return []  # measured, but not scored, or the other way round
    plots.draw_pareto(lines, folder / "report.png")
    about = "Bars: 95% bootstrap interval over clips. Squares: teachers. Dashed: not beaten in both."
    picture = Picture("report.png", "Accuracy against cost")
    return [Heading("Accuracy against memory and latency"), picture, Text(about)]


def _models(lines: Sequence[Entry]) -> list[Block]:
    rows = []
    for line in lines:
        parameters = [figure(line.block, key, 1, 1e6) for key in ("parameters", "parameters_without_embeddings")]
        to_teacher = ratio(line, "parameters")
        parameters[0] += "" if to_teacher is None else f" ({to_teacher:.2f} x)"
        layers = [figure(line.block, key, 0) for key in ("encoder_layers", "llm_layers")]
        rows.append([line.label, *parameters, *layers])
    names = ["", "parameters, million", "outside embeddings, million", "encoder layers", "LLM layers"]
    return [Heading("Models"), Table(names, rows)]


def _published(lines: Sequence[Entry], folder: Path) -> list[Block]:
    """Systems of the challenge, where a line was scored on their speech."""
    alike = [line.label for line in lines if any(same_speech(line.block[name]) for name in sets_in(line.block, "asr"))]
    if not alike:
        return []
    plots.draw_published(folder / "published.png")
    rows = [
        [of.name, shown(of.aac, 4), f"{100 * of.wer:.2f}", f"{of.memory_gib:.2f}"]
        + [shown(None if second is None else 1e3 * second, 1) for second in (of.ttft_s, of.tpot_s, of.total_s)]
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
    rows = [[str(steps[i]["step"]), *(shown(value(steps[i], name), 3) for name in losses)] for i in chosen]
    return [*blocks, Table(["step", *losses], rows)]


def _recipes(runs: Sequence[Run]) -> list[Block]:
    """Where the settings stand: the recipe by its name, and the resolved one that the run saved."""
    texts = []
    for run in runs:
        places = [f"`configs/{run.name}.json`"] if (REPOSITORY / "configs" / f"{run.name}.json").is_file() else []
        places += ["`recipe.json` in its results folder, as it was run"] if run.recipe else []
        texts.append(f"{run.name}: {'; '.join(places) or 'its file is neither in configs/ nor in its results folder'}")
    return [Heading("Recipes" if len(runs) > 1 else "Recipe"), Items(texts)]
