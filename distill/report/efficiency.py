"""efficiency.md: the tables of an efficiency run."""

from distill.report.measured import sound_shown
from distill.report.table import MISSING, markdown

MODELS_ROWS = [
    ("parameters, million", "parameters", 1e6, 1),
    ("weights, MiB", "weight_bytes", 2**20, 1),
    ("peak memory, MiB", "peak_memory_bytes", 2**20, 1),
    ("- without the bare process", "model_memory_bytes", 2**20, 1),
    ("TTFT, ms", "ttft_s", 1e-3, 1),
    ("TPOT, ms", "tpot_s", 1e-3, 1),
    ("end to end, ms", "end_to_end_s", 1e-3, 0),
]


def efficiency_page(found: dict) -> str:
    """What `distill.efficiency.measuring.measure` found, in Markdown."""
    names = [name for name, block in found.items() if isinstance(block, dict) and "cells" in block]
    weights = " at random weights" if found["random_weights"] else ""
    parts = [
        f"# {found['recipe']}: memory and speed{weights}",
        _how(found, names),
        markdown(["", *names], _overview(found, names)),
        "## Time to first token, ms",
        markdown(*_first(found, names)),
        "## By length and batch",
        markdown(
            ["clip, s", "batch", "model", "TTFT, ms", "TPOT, ms", "end to end, ms", "RTFx", "peak memory, MiB"],
            [line for name in names for line in _cells(name, found[name])],
        ),
        "## Weights, MiB",
        markdown(*_parts(found, names)),
    ]
    return "\n\n".join(parts) + "\n"


def _how(found: dict, names: list[str]) -> str:
    protocol, first = found["protocol"], found[names[0]]
    begins = "samples" if protocol["counts_features"] else "features"
    device = f"{first['threads']} CPU threads" if first["device"] == "cpu" else first["device"]
    memory = (
        "resident set of a process that holds this model alone, Python and its libraries with it"
        if first["device"] == "cpu"
        else "allocated on the device"
    )
    packages = [f"{name} ({found[name]['dtype']})" for name in names if found[name].get("device_llm")]
    device_note = (
        f" Device packages, in onnxruntime and llama.cpp on the CPU, in turn with what is not quantised: "
        f"{', '.join(packages)}. "
        "Their encoder's time is with the connector, they keep what the prompt has before the sound from run to run, "
        "and hear one clip at a time."
        if packages
        else ""
    )
    return (
        f"Protocol `{protocol['name']}`: {sound_shown(protocol)}, {first['seconds']:g} s, batch {first['batch']}, "
        f"greedy, 1 + {protocol['tokens']} tokens, {protocol['warmup']} runs to warm up and {protocol['runs']} "
        f"measured, models of one precision in turn; {first['dtype']} on {device}. Medians. TTFT: from {begins} to the "
        "first token; TPOT: a further token; end to end: from samples to text, RTFx: clip over that. Peak memory: "
        f"{memory}, while it runs (loading is not counted). In brackets: to the teacher.{device_note}"
    )


def _overview(found: dict, names: list[str]) -> list[list[str]]:
    def cell(name: str, key: str, unit: float, digits: int) -> str:
        shown = f"{found[name][key] / unit:,.{digits}f}"
        ratio = found["ratios"].get(name, {}).get(key)
        return shown if ratio is None or name == "teacher" else f"{shown} ({ratio:.2f} x)"

    lines = [[label, *(cell(name, key, unit, digits) for name in names)] for label, key, unit, digits in MODELS_ROWS]
    if "teacher" in found:
        released = [found["ratios"][name]["weight_bytes_to_teacher_as_released"] for name in names]
        lines.append(["weights, to the teacher's as released", *(f"{ratio:.2f} x" for ratio in released)])
    return lines


def _first(found: dict, names: list[str]) -> tuple[list[str], list[list[str]]]:
    # A device package has fewer parts than a model in PyTorch.
    parts = max((list(found[name]["ttft_parts_s"]) for name in names), key=len)
    lines = []
    for name in names:
        block = found[name]
        seconds = [*(block["ttft_parts_s"].get(part) for part in parts), block["ttft_s"], block["ttft_iqr_s"]]
        lines.append([name, *(MISSING if second is None else f"{1e3 * second:,.1f}" for second in seconds)])
    return ["model", *parts, "TTFT", "between quartiles"], lines


def _cells(name: str, block: dict) -> list[list[str]]:
    return [
        [
            *(f"{of['seconds']:g}", str(of["batch"]), name),
            *(f"{1e3 * of[key]:,.1f} ± {5e2 * of[key.replace('_s', '_iqr_s')]:,.1f}" for key in ("ttft_s", "tpot_s")),
            *(f"{1e3 * of['end_to_end_s']:,.0f}", f"{of['rtfx']:.2f}", f"{of['peak_memory_bytes'] / 2**20:,.0f}"),
        ]
        for of in sorted(block["cells"], key=lambda of: (of["batch"], of["seconds"]))
    ]


def _parts(found: dict, names: list[str]) -> tuple[list[str], list[list[str]]]:
    parts = list(dict.fromkeys(part for name in names for part in found[name]["part_bytes"]))
    lines = []
    for part in parts:
        sizes = [found[name]["part_bytes"].get(part) for name in names]
        lines.append([part, *(MISSING if size is None else f"{size / 2**20:,.1f}" for size in sizes)])
    return ["part", *names], lines
