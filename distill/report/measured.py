"""Whence a model's memory and times are: how they were measured, and with which others they may be compared."""

COST_KEYS = ("peak_memory_bytes", "ttft_s", "tpot_s", "rtfx")
_SUBJECT = ("checkpoint", "dtype", "parameters", "weight_bytes")
_CONDITIONS = ("seconds", "batch", "tokens", "sound", "counts_features")


def measured_of(found: dict, name: str) -> dict:
    """How a model was measured, to be kept beside its figures.

    Args:
        found: What `distill.efficiency.measuring.measure` returns, and efficiency.json holds.
        name: The model's.
    """
    protocol = found["protocol"] if isinstance(found.get("protocol"), dict) else {}
    how = protocol | found[name]
    measured = {"protocol": protocol.get("name"), "at": found.get("at")} | {key: how.get(key) for key in _CONDITIONS}
    return measured | ({"sound_set": how["sound_set"]} if how.get("sound_set") else {})


def with_efficiency(models: dict[str, dict], found: dict) -> dict[str, dict]:
    """The models of a run with what efficiency.json knows of them.

    A model that was not scored is added with its figures. Of those that were, memory and times are taken from there
    only if that measured each of them, in the same way, and later: ratios are never between two measurements.

    Args:
        models: Metrics by model.
        found: What efficiency.json holds.
    """
    blocks = {name: of for name, of in found.items() if isinstance(of, dict) and "peak_memory_bytes" in of}
    blocks.pop("ratio", None)  # the student's to the teacher's
    again = {
        name: {key: block[key] for key in COST_KEYS if key in block} | {"measured": measured_of(found, name)}
        for name, block in blocks.items()
    }
    renews = all(name in blocks and _renews(blocks[name] | again[name], block) for name, block in models.items())
    shown = {name: block | again[name] if renews else block for name, block in models.items()}
    for name, block in blocks.items():
        if name not in models:
            about = {key: block[key] for key in (*_SUBJECT, "device", "threads") if key in block}
            shown[name] = {"model": name} | about | again[name]
    return shown


def _renews(block: dict, scored: dict) -> bool:
    """Whether a measurement is a later one of what was measured as a model was scored."""
    own, former = (_subject(of) + conditions(of) for of in (block, scored))
    return None not in own and own == former and measured_at(block) > measured_at(scored) > ""


def conditions(block: dict) -> tuple:
    """What must be equal for two memories or times to be comparable; None where it was not kept."""
    return (block.get("device"), block.get("threads"), *(_measured(block).get(key) for key in _CONDITIONS))


def measured_at(block: dict) -> str:
    """When memory and times were measured, UTC in ISO 8601; empty where it was not kept."""
    at = _measured(block).get("at")
    return at if isinstance(at, str) else ""


def comparable(block: dict, other: dict) -> dict:
    """The figures of a block that may be compared with another's: memory and times only under the same conditions."""
    without = ("measured",) if conditions(block) == conditions(other) else (*COST_KEYS, "measured")
    return {key: entry for key, entry in block.items() if key not in without}


def conditions_shown(block: dict) -> str:
    """How memory and times were measured, in words; empty where there are none."""
    if not any(key in block for key in COST_KEYS):
        return ""
    how, threads = _measured(block), block.get("threads")
    if None in (seconds := how.get("seconds"), batch := how.get("batch"), tokens := how.get("tokens")):
        return "how memory and time were measured was not kept"
    where = f", {threads} threads" if block.get("device") == "cpu" and threads else ""
    begins = "" if how.get("counts_features", True) else ", features ready"
    by = "as it was scored" if how.get("protocol") == "scoring" else "from efficiency.json"
    when = f", {measured_at(block)}" if measured_at(block) else ""
    what = f"{seconds:g} s of {sound_shown(how)}, batch {batch}, 1 + {tokens} tokens{begins}{where}"
    return f"memory and time with {what} ({by}{when})"


def sound_shown(how: dict) -> str:
    """What was heard, and of which test set where that was kept."""
    of = f" of the test set {how['sound_set']}" if how.get("sound_set") else ""
    return f"{how.get('sound')}{of}"


def _subject(block: dict) -> tuple:
    return tuple(block.get(key) for key in _SUBJECT)


def _measured(block: dict) -> dict:
    how = block.get("measured")
    return how if isinstance(how, dict) else {}
