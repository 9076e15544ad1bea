"""The rules of the house: who may import whom, no files that import each other, no private names of another file."""

import ast
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from data.paths import REPOSITORY

FOLDERS = ("data", "teacher", "student", "distill", "scripts")
"""Each imports from those before it, never from those after it."""
ROOMS = (
    {"distill.losses", "distill.report"},
    {"distill.recipe"},
    {"distill.models"},
    {"distill.efficiency"},
    {"distill.scoring"},
    {"distill.training"},
    {"distill.planning"},
    {"distill.bench", "distill.chaos", "distill.explore", "distill.train"},
)
"""Of distill/, likewise; those that stand side by side import nothing of each other."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module outside the tests, by its dotted name; a package goes by its `__init__`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *(f"{folder}/*.py" for folder in FOLDERS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    there = [REPOSITORY / path for path in listed if (REPOSITORY / path).is_file()]
    names = [path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".") for path in there]
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in zip(names, there, strict=True)
    }


def imported(tree: ast.Module) -> set[tuple[str, str]]:
    """Modules of the house that a module imports, with the name that it takes from each ("" for the whole)."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add((whole, "") if whole in modules() else (node.module, alias.name))
    return {(name, taken) for name, taken in found if name in modules()}


def floor_of(name: str, floors: list[set[str]]) -> tuple[int, str] | None:
    """The number of a module's floor and the room there that it lies in."""
    for number, rooms in enumerate(floors):
        for room in rooms:
            if name == room or name.startswith(f"{room}."):
                return number, room
    return None


@pytest.mark.parametrize("floors", [[{folder} for folder in FOLDERS], list(ROOMS)], ids=["folders", "rooms of distill"])
def test_imports_run_one_way(floors):
    upwards = []
    for name, tree in modules().items():
        own = floor_of(name, floors)
        for other, _ in imported(tree):
            theirs = floor_of(other, floors)
            if own and theirs and own != theirs and own[0] <= theirs[0]:
                upwards.append(f"{name} imports {other}")
    assert not upwards


def test_every_part_of_distill_has_its_floor():
    assert not [name for name in modules() if name.startswith("distill.") and floor_of(name, list(ROOMS)) is None]


def test_no_two_files_import_each_other():
    graph = {name: {other for other, _ in imported(tree)} - {name} for name, tree in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_private_names_stay_in_their_file():
    taken = [
        f"{name} takes {private} from {other}"
        for name, tree in modules().items()
        for other, private in imported(tree)
        if private.startswith("_")
    ]
    for name, tree in modules().items():
        aliases = _names_of_modules(tree)
        taken += [
            f"{name} takes {node.attr} from {node.value.id}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ]
    assert not taken


def test_no_code_is_taken_from_where_weights_and_data_are():
    """What loads a folder or a name of the hub says that code found there is not run."""
    asking = []
    for name, tree in modules().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            loads = called.split(".")[-1] in ("from_pretrained", "from_config", "load_dataset")
            said = {f"{of.arg}={ast.unparse(of.value)}" for of in call.keywords}
            if loads and called != "SalmonnProcessor.from_pretrained" and "trust_remote_code=False" not in said:
                asking.append(f"{name}, line {call.lineno}: {called}")
    assert not asking


def _names_of_modules(tree: ast.Module) -> set[str]:
    """What a file calls the house's modules that it imports whole."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name for a in node.names if f"{node.module}.{a.name}" in modules()}
    return names


def test_stdout_is_left_to_what_a_command_was_asked_for():
    """DeepSpeed prints as it is imported: what is imported beside the training has it behind `redirect_stdout`."""
    printing = [
        name
        for name, tree in modules().items()
        for node in tree.body
        if isinstance(node, ast.ImportFrom | ast.Import)
        for of in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        if of.split(".")[0] == "deepspeed" and not name.startswith("distill.training.")
    ]
    assert not printing
