"""Scores in a report, test set by test set: their parts, overgeneration, and the WER by corpus and by clip length."""

from collections.abc import Sequence
from pathlib import Path

from data.kinds import KINDS, Kind
from distill.report import plots
from distill.report.blocks import Block, Heading, Items, Picture, Table, Text
from distill.report.leaderboard import Entry
from distill.report.sets import sets_of, titled
from distill.report.table import MISSING, figure, value


def accuracy(lines: Sequence[Entry]) -> list[Block]:
    """The parts of all scores, set by set."""
    return _speech(lines) + _captions(lines)


def _scored(lines: Sequence[Entry], kind: Kind, key: str) -> list[tuple[str, Entry]]:
    """Each test set of a kind with each line that has a figure of it."""
    names = sets_of((line.block for line in lines), kind)
    return [(name, line) for name in names for line in lines if value(line.block, f"{name}.{key}") is not None]


def _by_set(scored: Sequence[tuple[str, Entry]], header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of lines; where they are of test sets with names, the first column says of which."""
    if all(name in KINDS for name, _ in scored):
        return Table(header, rows)
    return Table(["set", *header], [[name, *row] for (name, _), row in zip(scored, rows, strict=True)])


def _speech(lines: Sequence[Entry]) -> list[Block]:
    speech = _scored(lines, "asr", "wer")
    if not speech:
        return []
    keys = ["ref_words", "substitutions", "deletions", "insertions"]
    rows = [
        [line.label, _percent(line, f"{of}.wer"), _interval(line, f"{of}.wer", 100, 1), _percent(line, f"{of}.cer")]
        + [figure(line.block, f"{of}.{key}", 0) for key in keys]
        for of, line in speech
    ]
    names = ["", "WER, %", "95% interval", "CER, %", "words", "substitutions", "deletions", "insertions"]
    blocks: list[Block] = [Heading("Speech"), _by_set(speech, names, rows), *_overgenerated(lines)]
    for name in dict.fromkeys(name for name, _ in speech):
        blocks += _groups([line for of, line in speech if of == name], name, "by_corpus", "corpus")
    return blocks


def _overgenerated(lines: Sequence[Entry]) -> list[Block]:
    """How much of a WER is of texts that do not end or are made up, where that was counted."""
    speech = _scored(lines, "asr", "capped_wer")
    if not speech:
        return []
    rows = [
        [line.label, _share(line, f"{of}.overgenerated_clips", f"{of}.clips")]
        + [figure(line.block, f"{of}.overgenerated_words", 0), _percent(line, f"{of}.overgeneration_rate")]
        + [_percent(line, f"{of}.{key}") for key in ("wer", "capped_wer")]
        for of, line in speech
    ]
    names = ["", "overgenerated clips", "overgenerated words", "rate, %", "WER, %", "capped WER, %"]
    about = (
        "Run-on and made-up texts. Overgenerated: clips whose text has more words than the reference, and how many "
        "words more in all; rate: over the reference's words. Capped WER: each clip counts at most as many errors as "
        "its reference has words, so that a text that does not end counts as one that is all wrong."
    )
    return [_by_set(speech, names, rows), Text(about)]


def _captions(lines: Sequence[Entry]) -> list[Block]:
    captioned = _scored(lines, "aac", "cider_d")
    if not captioned:
        return []
    keys = ["shuffled_cider_d", "spice", "spider", "fense", "meteor", "rouge_l", "bleu_1", "bleu_4", "vocabulary"]
    rows = [
        [line.label, figure(line.block, f"{of}.cider_d", 2), _interval(line, f"{of}.cider_d", 1, 2)]
        + [figure(line.block, f"{of}.{key}", 0 if key == "vocabulary" else 2) for key in keys]
        for of, line in captioned
    ]
    names = ["", "CIDEr-D", "95% interval", "shuffled", "SPICE", "SPIDEr", "FENSE", "METEOR", "ROUGE-L", "BLEU-1"]
    blocks = [Heading("Captions"), _by_set(captioned, [*names, "BLEU-4", "vocabulary"], rows)]
    blocks.append(Text("Shuffled: CIDEr-D of the same captions dealt out among the clips, which is chance."))
    missing = {k: v for of, line in captioned for k, v in line.block[of].get("not_computed", {}).items()}
    if missing:
        blocks.append(Items([f"{name}: not computed; for its parts: `{how}`" for name, how in missing.items()]))
    return blocks


def _groups(lines: Sequence[Entry], of_set: str, key: str, what: str) -> list[Block]:
    names = list(dict.fromkeys(name for line in lines for name in line.block[of_set].get(key, {})))
    if len(names) < (1 if key == "by_duration" else 2):
        return []
    rows = []
    for name in names:
        of = [line.block[of_set].get(key, {}).get(name, {}) for line in lines]
        counts = next(({k: found[k] for k in ("clips", "ref_words")} for found in of if found), {})
        rates = [MISSING if found.get("wer") is None else f"{100 * found['wer']:.1f}" for found in of]
        rows.append([name, str(counts.get("clips", MISSING)), str(counts.get("ref_words", MISSING)), *rates])
    title = f"{titled('WER', of_set)}, % by {what}"
    return [Table([title, "clips", "words", *(line.label for line in lines)], rows)]


def durations(lines: Sequence[Entry], folder: Path) -> list[Block]:
    """WER by clip length, in a picture and in figures."""
    names = sets_of((line.block for line in lines), "asr")
    timed = {name: [line for line in lines if line.block.get(name, {}).get("by_duration")] for name in names}
    timed = {name: of for name, of in timed.items() if of}
    if not timed:
        return []
    plots.draw_durations(timed, folder / "durations.png")
    tables = [block for name, of in timed.items() for block in _groups(of, name, "by_duration", "clip length")]
    return [Heading("WER by clip length"), Picture("durations.png", "WER by clip length"), *tables]


def _percent(line: Entry, key: str) -> str:
    return figure(line.block, key, 1, 0.01)


def _interval(line: Entry, key: str, factor: float, digits: int) -> str:
    low, high = (value(line.block, f"{key}_{end}") for end in ("low", "high"))
    return MISSING if None in (low, high) else f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"


def _share(line: Entry, key: str, whole: str) -> str:
    """A count, and in brackets its share of all."""
    part, every = value(line.block, key), value(line.block, whole)
    return MISSING if part is None or not every else f"{part:,.0f} ({100 * part / every:.1f}%)"
