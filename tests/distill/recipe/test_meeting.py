"""Processes of a run meet: forked from this one, each with the environment that a launcher gives."""

import json
import os
from collections import Counter

import pytest

from data import known_hashes
from data.errors import InputError
from data.known_hashes import known_sha256
from distill.recipe import meeting as module
from distill.recipe.hosts import Host, Probe
from distill.recipe.meeting import meeting
from distill.recipe.reading import read_recipe

ONE_HOST = [{"LOCAL_RANK": str(rank), "LOCAL_SIZE": "2", "CROSS_RANK": "0"} for rank in range(2)]
TWO_HOSTS = [{"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "CROSS_RANK": str(rank)} for rank in range(2)]


@pytest.fixture
def met(free_port, monkeypatch):
    """A function that runs `what(rank)` in two processes that meet; gives what each returned, or how it ended."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_interface_to", lambda address, port: "lo")
    monkeypatch.setattr(module, "_COMES_WITHIN_S", 60)
    monkeypatch.setattr(known_hashes, "_known", {})

    def met(what, launched=ONE_HOST):
        pipes = []
        for rank, own in enumerate(launched):
            reading, writing = os.pipe()
            if os.fork() == 0:
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port + 8)}
                os.environ.update({"RANK": str(rank), "WORLD_SIZE": "2", **place, **own})
                try:
                    ended = what(rank)
                except BaseException as error:
                    ended = [type(error).__name__, str(error)]
                try:
                    os.write(writing, json.dumps(ended).encode())
                finally:  # nothing of a child goes on with the suite
                    os._exit(0)
            os.close(writing)
            pipes.append(os.fdopen(reading))
        found = [json.load(pipe) for pipe in pipes]
        for _ in pipes:
            os.wait()
        return found

    return met


def test_processes_of_a_host_share_what_they_hash(met, tiny_recipe, tmp_path, monkeypatch):
    recipe, files = read_recipe(tiny_recipe), [tmp_path / f"{name}.safetensors" for name in "abc"]
    for number, path in enumerate(files):
        path.write_bytes(b"x" * 10**number)
    hashed, before = Counter(), known_hashes.file_sha256
    monkeypatch.setattr(known_hashes, "file_sha256", lambda path: (hashed.update([path.name]), before(path))[1])

    def what(rank):
        with meeting() as together:
            together.agree(recipe, [], [*files, tmp_path / "none"], [])
        return [hashed, [known_sha256(path) for path in files]]

    (first, hashes), (second, others) = met(what)
    assert hashes == others == [before(path) for path in files]
    assert (first, second) == ({"c.safetensors": 1, "a.safetensors": 1}, {"b.safetensors": 1})


@pytest.mark.parametrize("launched", [ONE_HOST, TWO_HOSTS], ids=["one_host", "two_hosts"])
@pytest.mark.parametrize("failing", [0, 1])
def test_what_ends_one_process_ends_the_other_with_a_line(met, tiny_recipe, tmp_path, launched, failing):
    recipe = read_recipe(tiny_recipe)

    def what(rank):
        with meeting() as together:
            if rank == failing:
                raise InputError("its file is missing")
            together.agree(recipe, [], [], [tmp_path / "runs"])

    ended = met(what, launched)
    assert ended[failing] == ["InputError", "its file is missing"]
    # The first process says it, where it does not come from itself; the other one is silent.
    expected = [["InputError"], ["SystemExit", "2"]][1 - failing]
    assert ended[1 - failing][: len(expected)] == expected
    assert failing == 0 or ", rank 1: its file is missing" in ended[0][1]


def test_hosts_that_are_alike_agree_and_take_the_interface_that_they_meet_over(met, tiny_recipe, tmp_path):
    recipe = read_recipe(tiny_recipe)

    def what(rank):
        with meeting() as together:
            together.agree(recipe, [str(tmp_path / "tiny.json")], [], [tmp_path / "runs"])
        return [os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]]

    assert met(what, TWO_HOSTS) == [["lo", "=lo"]] * 2


def test_a_host_with_other_code_ends_all(met, tiny_recipe, tmp_path, monkeypatch):
    recipe, of = read_recipe(tiny_recipe), Host.of

    def what(rank):
        if rank == 1:
            monkeypatch.setattr(module.Host, "of", lambda *words: changed(of(*words)))
        with meeting() as together:
            together.agree(recipe, [], [], [tmp_path / "runs"])

    def changed(host):
        host.code["distill/train.py"] = ""
        return host

    first, second = met(what, TWO_HOSTS)
    assert first[0] == "InputError" and "another distill/train.py than" in first[1] and second == ["SystemExit", "2"]


def test_a_host_does_not_go_on_with_the_first_process_of_another_run(met, tiny_recipe, tmp_path, monkeypatch):
    recipe = read_recipe(tiny_recipe)
    monkeypatch.setattr("distill.recipe.hosts._SEEN_WITHIN_S", 0)

    def what(rank):
        with meeting() as together:
            if rank == 0:  # what one that has been going on for long has left in its store
                told = Host.of(recipe, []).told(Probe([tmp_path / "runs"]))
                for key, value in (("first", told), ("verdict", "")):
                    together._store.set(key, value)
                said = together._get("said 1")
                together._wait_until_heard()
                return said
            together.agree(recipe, [], [], [])

    said, ended = met(what, TWO_HOSTS)
    assert "is not the folder of this name" in said and ended == ["InputError", said]


def test_an_interface_is_one_that_others_reach():
    with pytest.raises(InputError, match=r"is this host's own for itself.*--master_addr ADDRESS"):
        module._interface_to("127.0.0.1", 29500)
    with pytest.raises(InputError, match="is not reached"):
        module._interface_to("no.such.host.invalid", 29500)


def test_alone_a_process_agrees_and_other_launchers_are_refused(tiny_recipe, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with meeting() as together:
        together.agree(read_recipe(tiny_recipe), [], [], [])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="take deepspeed"), meeting():
        pass
