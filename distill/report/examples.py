"""What the models of a report wrote: the same clips side by side, and each one's worst transcripts."""

from collections.abc import Sequence

from data.kinds import KINDS, own_name, set_of
from distill.report.blocks import Block, Code, Heading, Table, Text
from distill.report.leaderboard import Entry
from distill.report.sets import sets_in
from distill.report.sounds import player_sound

EXAMPLES_A_TASK = 4
WORST = 5


def examples(lines: Sequence[Entry]) -> list[Block]:
    """A few clips of each test set and task that all models here were given, with their sounds."""
    with_examples = [line for line in lines if line.block.get("examples")]
    by_line = [{(set_of(row), row["task"], row["id"]): row for row in line.block["examples"]} for line in with_examples]
    shared = [key for key in by_line[0] if all(key in rows for rows in by_line)] if with_examples else []
    rows, sounds = [], []
    for group in dict.fromkeys(key[:2] for key in shared):
        for key in [key for key in shared if key[:2] == group][:EXAMPLES_A_TASK]:
            first = by_line[0][key]
            reference = first["reference"] if isinstance(first["reference"], str) else first["reference"][0]
            rows.append([_task(*group), reference, *(found[key]["hypothesis"] for found in by_line)])
            sounds.append(player_sound(first))
    blocks: list[Block] = []
    if rows:
        blocks += [
            Heading("Examples"),
            Table(["task", "reference", *(line.label for line in with_examples)], rows, sounds),
        ]
        if any(sounds):
            blocks.append(Text("Recordings in this page keep their own licences (NOTICE)."))
    return blocks + _worst(lines)


def _worst(lines: Sequence[Entry]) -> list[Block]:
    """The worst transcripts of each line and test set, aligned."""
    blocks: list[Block] = []
    for line in lines:
        for name in sets_in(line.block, "asr"):
            if worst := line.block[name].get("worst"):
                aligned = [f"{clip['id']}\n{clip['alignment']}" for clip in worst[:WORST]]
                about = line.label if name in KINDS else f"{line.label}, {name}"
                blocks += [Text(about), Code("\n\n".join(aligned))]
    return [Heading("Worst transcripts"), *blocks] if blocks else []


def _task(of_set: str | None, task: str) -> str:
    """A task with the test set's own name, where it has one."""
    own = own_name(of_set or "")
    return f"{task} ({own})" if own else task
