"""The leaderboard: accuracy, memory, latency and size of every model of every run, and the challenge's ranking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data.kinds import KINDS, Kind, kind_of
from distill.report.measured import COST_KEYS, comparable, conditions, measured_at
from distill.report.runs import Run
from distill.report.sets import sets_in, sets_of, titled
from distill.report.table import MISSING, is_number, value

CHALLENGE_WEIGHTS = {"asr": 1, "aac": 1, "peak_memory_bytes": 2, "ttft_s": 1, "tpot_s": 1}
"""Of the ranks that are added up; the challenge's weight of latency, 2, is shared by TTFT and TPOT.
A kind of score stands for the page's first test set of it."""


@dataclass(frozen=True)
class Entry:
    """A line: a model, its figures, and the figures of the teacher that it is compared with."""

    label: str
    run: str
    model: str
    block: dict
    teacher: dict

    @property
    def is_teacher(self) -> bool:
        """Whether ratios are to this line."""
        return self.block is self.teacher


@dataclass(frozen=True)
class Column:
    """A figure: its name, its dotted key, the unit that it is shown in, digits after the point; a score's test set."""

    label: str
    key: str
    unit: float = 1
    digits: int = 1
    higher_is_better: bool = False
    of_set: str = ""


def entries(runs: Sequence[Run]) -> list[Entry]:
    """All models, each teacher once, as the first run shows it in which it was measured.

    Ratios are to the teacher of the same run, which was measured beside its student; a run without one is compared with
    the page's first.
    """
    teachers: dict[tuple, dict] = {}
    for block in (run.models["teacher"] for run in runs if "teacher" in run.models):
        shown = teachers.setdefault(_same(block), block)
        if "ttft_s" in block and "ttft_s" not in shown:
            teachers[_same(block)] = block
    first = next(iter(teachers.values()), {})
    found = []
    for run in runs:
        for model, block in run.models.items():
            if model == "teacher" and teachers[_same(block)] is not block:
                continue  # it stands there already, as another run measured it
            label = model
            if len(runs) > 1 and (model != "teacher" or len(teachers) > 1):
                label = f"{run.name} {model.removeprefix('student').lstrip('_')}".strip()
            found.append(Entry(label, run.name, model, block, run.models.get("teacher", first)))
    return found


def scores(lines: Sequence[Entry]) -> list[Column]:
    """A figure for each test set in the recipe's order; of a kind that no line was scored on, an empty one."""
    names = sets_of(line.block for line in lines)
    if not any(kind_of(name) == "asr" for name in names):
        names.insert(0, "asr")
    if not any(kind_of(name) == "aac" for name in names):
        names.append("aac")
    title, key = _captions_by(lines)
    return [
        Column(f"{titled('WER', name)}, %", f"{name}.wer", 0.01, of_set=name)
        if kind_of(name) == "asr"
        else Column(titled(title, name), f"{name}.{key}", digits=2, higher_is_better=True, of_set=name)
        for name in names
    ]


def _captions_by(lines: Sequence[Entry]) -> tuple[str, str]:
    """The captions' figure: SPIDEr where all that was captioned has it, else CIDEr-D under its own name."""
    captioned = [line.block[name] for line in lines for name in sets_in(line.block, "aac")]
    captioned = [of for of in captioned if value(of, "cider_d") is not None]
    spider = captioned and all(value(of, "spider") is not None for of in captioned)
    return ("SPIDEr", "spider") if spider else ("CIDEr-D", "cider_d")


def ranked_by(lines: Sequence[Entry]) -> dict[Kind, Column]:
    """The scores that count in the ranking: of the first test set of each kind."""
    shown = scores(lines)
    return {kind: next(column for column in shown if kind_of(column.of_set) == kind) for kind in KINDS}


def columns(lines: Sequence[Entry]) -> list[Column]:
    """The figures shown: scores, then what they cost."""
    return [
        *scores(lines),
        Column("size, MB", "weight_bytes", 1e6),
        Column("memory, MiB", "peak_memory_bytes", 2**20),
        Column("TTFT, ms", "ttft_s", 1e-3),
        Column("TPOT, ms", "tpot_s", 1e-3),
    ]


def ratio(entry: Entry, key: str) -> float | None:
    """The figure over the teacher's; None for the teacher itself, and where the two cannot be compared."""
    own, baseline = value(entry.block, key), value(comparable(entry.teacher, entry.block), key)
    if entry.is_teacher or own is None or not baseline or not math.isfinite(own / baseline):
        return None
    return own / baseline


def cells(entry: Entry, shown: Sequence[Column], rank_sum: int | None) -> list[str]:
    """A line as text: label, each figure with its ratio to the teacher in brackets, the ranking's sum."""
    texts = [entry.label]
    for column in shown:
        amount, to_teacher = value(entry.block, column.key), ratio(entry, column.key)
        text = MISSING if amount is None else f"{amount / column.unit:,.{column.digits}f}"
        texts.append(text if to_teacher is None else f"{text} ({to_teacher:.2f} x)")
    return [*texts, MISSING if rank_sum is None else str(rank_sum)]


def rank_sums(lines: Sequence[Entry]) -> list[int | None]:
    """The challenge's rule: ranks by WER, captions, memory and latency, weighed and added up; the least wins.

    Of several test sets of a kind the first counts.

    Ranks are among the lines that have all figures, on the same clips, memory and times measured in the same way; a
    rank is one more than the number of lines that are better. None where a figure is missing, or a line has no rival.
    """
    first = ranked_by(lines)
    captions = first["aac"].key
    keys = {first[key].key if key in first else key: weight for key, weight in CHALLENGE_WEIGHTS.items()}
    names = [column.of_set for column in first.values()]
    ranked = [i for i, line in enumerate(lines) if all(value(line.block, key) is not None for key in keys)]
    sums: list[int | None] = [None] * len(lines)
    for i in ranked:
        rivals = [j for j in ranked if _arena(lines[j].block, names) == _arena(lines[i].block, names)]
        if len(rivals) < 2:
            continue
        sums[i] = 0
        for key, weight in keys.items():
            sign = -1 if key == captions else 1
            own = sign * value(lines[i].block, key)
            sums[i] += weight * (1 + sum(sign * value(lines[j].block, key) < own for j in rivals))
    return sums


def ratios(teacher: dict, student: dict) -> dict:
    """Student over teacher for every number both have, in the same nesting; nothing where the teacher's is zero."""
    result = {}
    for name, above in student.items():
        below = teacher.get(name)
        if isinstance(above, dict) and isinstance(below, dict):
            result[name] = ratios(below, above)
        elif is_number(above) and is_number(below) and below and math.isfinite(above / below):
            result[name] = above / below
    return result


def notes(lines: Sequence[Entry]) -> list[str]:
    """What was not the same for a line and its teacher, so that a ratio does not mean what it says."""
    found, apart = [], []
    for line in lines:
        if line.is_teacher or not line.teacher:
            continue
        for name in sets_of((line.teacher, line.block)):
            what = {"asr": "speech clips", "aac": "captioned clips"}[kind_of(name)]
            what += "" if name in KINDS else f" of {name}"
            own, baseline = (block.get(name, {}) for block in (line.block, line.teacher))
            if own and baseline and own.get("clips") != baseline.get("clips"):
                counts = f"{baseline.get('clips')} {what}, the {line.label} on {own.get('clips')}"
                found.append(f"the teacher was scored on {counts}")
            elif own and baseline and own.get("data", "") != baseline.get("data", ""):
                found.append(f"the {line.label} was scored on other {what} than the teacher")
        for key in ("device", "dtype"):
            if line.teacher.get(key) != line.block.get(key):
                found.append(
                    f"{key}: {line.teacher.get(key)} for the teacher, {line.block.get(key)} for the {line.label}"
                )
        if all(any(key in block for key in COST_KEYS) for block in (line.block, line.teacher)):
            if conditions(line.block) != conditions(line.teacher):
                found.append(
                    f"memory and time of the {line.label} were measured otherwise than the teacher's: no ratio"
                )
            elif measured_at(line.block) != measured_at(line.teacher):
                apart.append(line.label)
    if apart:
        found.append(f"not timed in turn with the teacher, but at another time: {', '.join(apart)}")
    return list(dict.fromkeys(found))


def _same(block: dict) -> tuple:
    """What tells one teacher's scores from another's."""
    data = sorted((name, data) for name in sets_in(block) if (data := block[name].get("data")))
    return (block.get("checkpoint"), block.get("dtype"), block.get("device"), block.get("data"), *data)


def _arena(block: dict, names: Sequence[str]) -> tuple:
    """Which clips a line was scored on, and how it was measured."""
    sets = (block.get(name, {}) for name in names)
    return (*((of.get("clips"), of.get("data")) for of in sets), *conditions(block))
