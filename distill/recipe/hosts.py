"""What the hosts of a run must have in common, so that their processes make one model: asked before anything is loaded.

The first process tells what its host has (`Host.of`); one of each other host says what of it is otherwise there.
"""

import json
import os
import platform
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.known_hashes import known_sha256
from data.paths import REPOSITORY, cache_dir
from distill.recipe.recipe import Recipe
from teacher.device import get_accelerator

_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "tokenizers", "numpy")
_FOLDERS = ("data", "teacher", "student", "distill", "scripts")
_CLOCKS_S = 60
"""Files' ages are asked (of what a killed process left), and logs of several hosts are read beside one another."""
_SEEN_WITHIN_S = 20
"""A network's file system may show a folder as it was for so long."""


@dataclass(frozen=True)
class Host:
    """What one host has.

    Attributes:
        name: Its name.
        versions: Of Python and of the packages that compute.
        device: What kind of device computes.
        code: A hash of each file of the repository that is run.
        cache: The cache folder, or where it is not said, empty.
        recipe: The recipe as it was read, in the host's precision, as JSON.
        files: A hash of each file of rows and of weights.
        now: Its clock, seconds.
        probe: A file that it has just written into each folder that all are to share.
        folders: These folders.
    """

    name: str
    versions: dict[str, str]
    device: str
    code: dict[str, str]
    cache: str
    recipe: str
    files: dict[str, str]
    now: float = 0.0
    probe: str = ""
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, files: Iterable[Path]) -> "Host":
        """What this host has, these files among it."""
        code = [path for folder in _FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]
        return cls(
            platform.node(),
            {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
            get_accelerator().device_name(),
            {str(path.relative_to(REPOSITORY)): known_sha256(path) for path in code},
            str(cache_dir()),
            recipe.model_dump_json(),
            {str(path): known_sha256(path) for path in files if path.is_file()},
        )

    def told(self, probe: "Probe") -> str:
        """The same with its clock, as the other hosts get it; they look for a file that lies in shared folders."""
        folders = tuple(map(str, probe.folders))
        return json.dumps(asdict(replace(self, now=time.time(), probe=probe.name, folders=folders)))

    def fault(self, told: str) -> str:
        """What is otherwise here than on the first host, and how to mend it; empty where nothing is.

        Args:
            told: What that has just told of itself; the clock is compared with this one's.
        """
        tree = json.loads(told)
        first = Host(**{field.name: tree[field.name] for field in fields(Host)})
        late_s = time.time() - first.now
        if abs(late_s) > _CLOCKS_S:
            return f"host {self.name}: its clock differs by {late_s:,.0f} s from that of {first.name}; set it (NTP)"
        return next(self._differences(first), "") or next(self._not_shared(first), "")

    def _differences(self, first: "Host") -> Iterator[str]:
        here, there = f"host {self.name}", f"on {first.name}"
        for name, own in self.versions.items():
            if own != (other := first.versions.get(name)):
                how = "install the same (bash scripts/setup.sh)"
                yield f"{here} has {name} {own or 'not'}, and {other or 'none'} is {there}; {how}"
        if self.device != first.device:
            yield f"{here} computes on {self.device}, and {first.device} is used {there}; take hosts of one kind"
        if other := _first_other(self.code, first.code):
            yield f"{here} has another {other} than {first.name}; check out the same commit, without changes"
        if self.cache != first.cache:
            yield f"{here} has the cache folder {self.cache}, and {first.cache} is it {there}; {_HAND_ON}"
        if self.recipe != first.recipe:
            key = _first_key(json.loads(self.recipe), json.loads(first.recipe))
            how = "give all the same file, and where a CPU lacks bf16 set bf16_on_cpu=always"
            yield f"{here} reads another recipe than {first.name} ({key}); {how}"
        if other := _first_other(self.files, first.files):
            yield f"{here} has another {other} than {first.name}; put the same file on both"

    def _not_shared(self, first: "Host") -> Iterator[str]:
        for folder in first.folders:
            if not _seen(Path(folder) / first.probe):
                yield (
                    f"host {self.name}: {folder} is not the folder of this name on {first.name}; all hosts write into "
                    "it: put it on a disk that they share, or name another one in the recipe"
                )


_HAND_ON = (
    "deepspeed does not hand the variable on: write SALMONN_DISTILL_CACHE=/a/shared/folder into .deepspeed_env, in the "
    "home folder or where the command is started"
)


def require_cache_said(recipe: Recipe) -> None:
    """Refuses several hosts that would guess where the recipe's `{cache}` is.

    Raises:
        InputError: The variable is not set here, and the recipe has paths in it.
    """
    if "SALMONN_DISTILL_CACHE" not in os.environ and "{cache}" in recipe.model_dump_json():
        here = f"SALMONN_DISTILL_CACHE is not set on host {platform.node()}"
        raise InputError(f"{here}, and the recipe has files in {{cache}}; {_HAND_ON}")


class Probe:
    """A file in each folder that all hosts are to share, for as long as the context lasts."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.name = f".hosts.{secrets.token_hex(8)}.tmp"
        self.folders = list(dict.fromkeys(folders))

    def __enter__(self) -> "Probe":
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.name).touch()
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self.folders:
            (folder / self.name).unlink(missing_ok=True)


def _seen(path: Path) -> bool:
    until = time.monotonic() + _SEEN_WITHIN_S
    while not (seen := path.exists()) and time.monotonic() < until:
        time.sleep(0.5)
    return seen


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_other(own: dict[str, str], others: dict[str, str]) -> str:
    """The first name whose hash is another one, or that one side lacks."""
    return min((name for name in own.keys() | others.keys() if own.get(name) != others.get(name)), default="")


def _first_key(own: Any, other: Any, at: str = "") -> str:
    """The first key (`a.b`) at which two JSON values are not the same."""
    if isinstance(own, dict) and isinstance(other, dict):
        pairs = {name: (own.get(name), other.get(name)) for name in own | other}
    elif isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        pairs = {str(i): pair for i, pair in enumerate(zip(own, other, strict=True))}
    else:
        return at
    name = next(name for name, (one, two) in pairs.items() if one != two)
    return _first_key(*pairs[name], f"{at}.{name}".removeprefix("."))
