"""The table of a report: which figures, in which units; and tables in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MODELS = ("teacher", "student")
HEADER = ("", *MODELS, "ratio")
MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line: the figure at a dotted key of a model's block, and how it is shown."""

    label: str
    key: str
    show: Callable[[dict, float], str]


def is_number(entry: object) -> bool:
    """Whether a JSON value is a number (JSON's true and false are Python's ints)."""
    return isinstance(entry, int | float) and not isinstance(entry, bool)


def value(block: dict, key: str) -> float | None:
    """The number at a dotted key, or None where there is none."""
    entry = block
    for name in key.split("."):
        entry = entry.get(name) if isinstance(entry, dict) else None
    return entry if is_number(entry) else None


def _wer(block: dict, wer: float) -> str:
    low, high = value(block, "asr.wer_low"), value(block, "asr.wer_high")
    return f"{100 * wer:.1f}" + ("" if None in (low, high) else f" ({100 * low:.1f} to {100 * high:.1f})")


def _cider_d(block: dict, cider_d: float) -> str:
    chance = value(block, "aac.shuffled_cider_d")
    return f"{cider_d:.2f}" + ("" if chance is None else f" ({chance:.2f})")


def _in(unit: float, digits: int = 1) -> Callable[[dict, float], str]:
    return lambda _, amount: f"{amount / unit:,.{digits}f}"


ROWS = [
    Row("WER, % (95% interval)", "asr.wer", _wer),
    Row("CIDEr-D (when shuffled)", "aac.cider_d", _cider_d),
    Row("parameters, million", "parameters", _in(1e6)),
    Row("- outside embeddings", "parameters_without_embeddings", _in(1e6)),
    Row("encoder layers", "encoder_layers", _in(1, 0)),
    Row("LLM layers", "llm_layers", _in(1, 0)),
    Row("weights, MB", "weight_bytes", _in(1e6)),
    Row("peak memory, MiB", "peak_memory_bytes", _in(2**20)),
    Row("TTFT, ms", "ttft_s", _in(1e-3)),
    Row("TPOT, ms", "tpot_s", _in(1e-3)),
]


def rows(report: dict) -> list[tuple[str, str, str, str]]:
    """The lines as text: label, teacher, student, student over teacher."""
    lines = []
    for row in ROWS:
        cells = []
        for model in MODELS:
            block = report.get(model, {})
            amount = value(block, row.key)
            cells.append(MISSING if amount is None else row.show(block, amount))
        ratio = value(report["ratio"], row.key)
        lines.append((row.label, *cells, MISSING if ratio is None else f"{ratio:.2f} x"))
    return lines


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars and line ends inside a cell would break it."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *cells])
