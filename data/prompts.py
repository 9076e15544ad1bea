"""Instructions by task: several wordings in training, one in tests."""

from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from data.errors import InputError
from data.paths import resolve
from data.rows.manifest import Manifest
from data.strict_json import loads

QUESTION = "{}"
"""Where a wording has this, the row's question comes in."""


def _from_file(given: Any) -> Any:
    """Wordings, also where they are named by the JSON file that they are in."""
    if isinstance(given, str):
        try:
            content = loads(resolve(given).read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror
            raise ValueError(f"{given} cannot be read ({reason}); name a JSON file of wordings by task") from None
        except ValueError as error:
            raise ValueError(f"{given} is no JSON file of wordings by task ({error})") from None
        if not isinstance(content, dict) or not all(map(_are_wordings, content.values())):
            raise ValueError(
                f"{given} is no JSON file of wordings by task (an object with a valid array of texts for each)"
            )
        given = content
    if not isinstance(given, dict):
        return given
    return {task: tuple(of) if isinstance(of, list) else of for task, of in given.items()}


def _are_wordings(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(wording, str) for wording in given)


Prompts = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_from_file)]
"""The wordings of each task's instruction."""


def instruction(prompts: Prompts, task: str, row_id: str | None = None, question: str = "") -> str:
    """A task's wording: the first, or for a training row (by its id) always the same one of all.

    Args:
        prompts: The recipe's.
        task: The row's task.
        row_id: The training row's id; None in tests.
        question: What the row asks, where the wording has a place for it.

    Raises:
        InputError: The recipe has no wording for the task, or the row no question.
    """
    if not prompts.get(task):
        raise InputError(f"no prompt for task '{task}'; add its wordings to data.prompts of the recipe")
    # A sum of bytes and not hash(): Python salts that anew in each process.
    wording = prompts[task][0 if row_id is None else sum(row_id.encode()) % len(prompts[task])]
    if QUESTION in wording and not question.strip():
        raise InputError(f"task '{task}' asks what its rows ask, but a row asks nothing; give each of them a \"Q\"")
    return wording.replace(QUESTION, question.strip())


def require_prompts(rows: Manifest, prompts: Prompts) -> None:
    """Refuses rows that could not be asked about, before anything is computed.

    Raises:
        InputError: A task of theirs has no wording, or a row no question that its wording needs.
    """
    for task in rows.table.column("task").unique().to_pylist():
        of_task = rows.among("task", [task])
        if not of_task.any():
            continue
        if not prompts.get(task):
            raise InputError(f"no prompt for task '{task}'; add its wordings to data.prompts of the recipe")
        if any(QUESTION in wording for wording in prompts[task]):
            silent = of_task & np.fromiter((not asked.strip() for asked in rows.values("question")), bool, len(rows))
            if silent.any():
                row = rows.where(silent)[0]
                raise InputError(f"row {row.id}: task '{task}' asks what the row asks, but it has no \"Q\"; add it")
