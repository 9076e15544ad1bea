"""scripts/download_weights.sh against a hub that only pretends: what is noted, fetched again and refused."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data.paths import REPOSITORY

PARTS = ["beats", "llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "whisper-large-v2"]
# Writes a file of the asked or the newest revision where it is missing, with the note that the real one makes of it.
HUB = """#!/usr/bin/env bash
echo "$*" >>"$LOG"
revision=$NEWEST
while [ $# -gt 0 ]; do
    case "$1" in
        --revision) revision=$2 ;;
        --local-dir) folder=$2 ;;
    esac
    shift
done
[ -f "$folder/model.bin" ] || echo "$CONTENT of $revision" >"$folder/model.bin"
mkdir -p "$folder/.cache/huggingface/download"
printf '%s\\netag\\n0.0\\n' "$revision" >"$folder/.cache/huggingface/download/model.bin.metadata"
exit "$ENDS"
"""


@pytest.fixture
def download(tmp_path):
    """Runs the script; gives its exit status, its lines of complaint, and what the hub was asked for."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    hub = tmp_path / "bin" / "hf"
    hub.parent.mkdir()
    hub.write_text(HUB)
    hub.chmod(0o755)

    def download(*recipe, newest="1111", content="weights", ends=0):
        log = tmp_path / "log"
        log.write_text("")
        environment = {"PATH": f"{hub.parent}:{os.environ['PATH']}", "SALMONN_DISTILL_CACHE": str(tmp_path)}
        environment |= {"LOG": str(log), "NEWEST": newest, "CONTENT": content, "ENDS": str(ends)}
        command = ["bash", "scripts/download_weights.sh", *recipe]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr.splitlines(), log.read_text().splitlines()

    return download


@pytest.fixture
def weights(tmp_path) -> Path:
    return tmp_path / "weights"


def test_the_first_download_is_noted_and_not_fetched_again(download, weights):
    status, complaints, asked = download()
    assert (status, complaints, len(asked)) == (0, [], 4)
    assert sorted(path.name for path in weights.glob("*.sha256")) == [f"{part}.sha256" for part in PARTS]
    revision, digest = (weights / "beats.sha256").read_text().splitlines()
    assert revision == "# revision 1111" and digest.endswith("  ./model.bin") and len(digest.split()[0]) == 64
    assert download(newest="2222") == (0, [], [])


def test_what_is_missing_comes_from_the_noted_revision(download, weights):
    download()
    (weights / "beats/model.bin").unlink()
    status, complaints, asked = download(newest="2222")
    assert (status, complaints, len(asked)) == (0, [], 1) and "--revision 1111" in asked[0]
    assert (weights / "beats/model.bin").read_text() == "weights of 1111\n"


def test_other_files_than_the_first_are_refused(download, weights):
    download()
    note = (weights / "beats.sha256").read_text()
    (weights / "beats/model.bin").unlink()
    status, complaints, _ = download(content="others")
    assert (status, len(complaints)) == (2, 1)
    assert complaints[0].startswith(f"error: {weights}/beats: ./model.bin: not what was first downloaded; ")
    assert (weights / "beats.sha256").read_text() == note


def test_a_download_that_was_cut_off_is_not_trusted(download, weights):
    assert download(ends=1)[0] == 1
    assert not list(weights.glob("*.sha256*"))
    assert download()[0] == 0 and len(list(weights.glob("*.sha256"))) == 4


def test_a_note_that_came_first_holds_another_machine_to_its_files(download, weights):
    download()
    for part in PARTS:
        shutil.rmtree(weights / part)
    status, _, asked = download(newest="2222")
    assert status == 0 and [words.count("--revision 1111") for words in asked] == [1] * 4


def test_each_recipe_gets_what_it_names(download, weights):
    assert download("kd_7b")[0] == 0
    recipe = (REPOSITORY / "configs/kd_7b.json").read_text()
    assert {path.name for path in weights.iterdir() if path.is_dir()} == {
        name.split("/")[0] for name in re.findall(r'\{cache\}/weights/([^"]+)"', recipe)
    }
    status, complaints, asked = download("kd_3b")
    assert status == 2 and asked == [] and complaints[0].startswith("error: kd_3b: ")
