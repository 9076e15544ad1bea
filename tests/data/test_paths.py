"""Files that appear whole or not at all, whoever else writes there."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from data.paths import remove_leftovers, written_whole


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.json"
    with written_whole(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == path.parent
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one" and [*path.parent.iterdir()] == [path]


def by_safetensors(path):
    save_file({"a": np.zeros(3)}, path)


def as_its_own(path):
    path.write_text("x")


@pytest.mark.parametrize("write", [as_its_own, by_safetensors])
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_its_mode_is_that_of_any_new_file(tmp_path, umask, mode, write):
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "a") as temporary:
            write(temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_links_are_not_followed(tmp_path, monkeypatch):
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / f".a.{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), written_whole(path):
        pass
    monkeypatch.undo()
    path.symlink_to(victim)
    with written_whole(path) as temporary:
        temporary.write_text("theirs")
    assert victim.read_text() == "mine" and path.read_text() == "theirs" and not path.is_symlink()


def test_two_may_write_one_file(tmp_path):
    path = tmp_path / "a"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("links", [True, False])
def test_what_must_be_new_replaces_nothing(tmp_path, monkeypatch, links):
    def none(*_):
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr("os.link", none)
    for number in range(2):
        if number:
            with pytest.raises(FileExistsError), written_whole(tmp_path / "a", new=True) as temporary:
                temporary.write_text("1")
        else:
            with written_whole(tmp_path / "a", new=True) as temporary:
                temporary.write_text("0")
    assert (tmp_path / "a").read_text() == "0" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_and_their_folder_are_on_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert synced == [str(temporary), str(tmp_path)]


def _write_until_killed(path, begun):
    with written_whole(path) as temporary:
        temporary.write_text("half")
        begun.set()
        signal.pause()


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_write_until_killed, args=(tmp_path / "a.json", begun))
    process.start()
    assert begun.wait(60)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".notes.tmp").write_text("mine")
    for path in tmp_path.iterdir():
        os.utime(path, (0, time.time() - 7200))
    remove_leftovers(tmp_path)
    assert left.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.utime(left)
    remove_leftovers(tmp_path)
    assert left.exists()  # it may be begun this moment
    os.utime(left, (0, time.time() - 7200))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".notes.tmp"]
