"""What hosts tell of themselves, and what is refused of one that is not as the first."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from data.errors import InputError
from distill.recipe import hosts
from distill.recipe.hosts import Host, Probe, require_cache_said
from distill.recipe.reading import read_recipe


@pytest.fixture
def host(tiny_recipe, own_data):
    return replace(Host.of(read_recipe(tiny_recipe), [own_data / "train.json"]), name="node2")


@pytest.fixture
def fault(host, tmp_path, monkeypatch):
    """A function that gives what node2 says where node1 differs from it so."""
    monkeypatch.setattr(hosts, "_SEEN_WITHIN_S", 0)

    def fault(late_s=0.0, **changes):
        with Probe([tmp_path / "runs", tmp_path / "cache"]) as probe:
            told = json.loads(replace(host, name="node1", **changes).told(probe))
            return host.fault(json.dumps(told | {"now": told["now"] - late_s}))

    return fault


def test_hosts_that_are_alike_are_of_one_run(fault, tmp_path):
    assert fault() == "" and fault(late_s=5) == ""
    assert not list(tmp_path.glob("*/.hosts*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda"}, "computes on cpu, and cuda is used on node1"),
        ({"cache": "/elsewhere"}, "/elsewhere is it on node1; deepspeed does not hand the variable on"),
        ({"late_s": -90.0}, "its clock differs by -90 s from that of node1; set it"),
    ],
)
def test_what_differs_is_said_in_a_line(fault, changes, said):
    line = fault(**changes)
    assert line.startswith("host node2") and said in line and "\n" not in line


def test_other_versions_are_named_with_their_package(fault, host):
    assert "has torch " in (line := fault(versions=host.versions | {"torch": "2.0.0"})) and "2.0.0 is on node1" in line
    assert "has python 3." in fault(versions=host.versions | {"python": "3.9.1"})


def test_the_first_file_of_other_code_or_data_is_named(fault, host, own_data):
    assert "another distill/train.py than node1" in fault(code=host.code | {"distill/train.py": ""})
    assert "another teacher/new.py than node1" in fault(code=host.code | {"teacher/new.py": "1"})
    assert f"another {own_data}/train.json than node1" in fault(files={f"{own_data}/train.json": "1"})


def test_another_recipe_is_named_by_its_key(fault, host):
    recipe = json.loads(host.recipe)
    recipe["train"]["stages"][1]["losses"]["kd"] = 0.25
    assert "(train.stages.1.losses.kd)" in fault(recipe=json.dumps(recipe))


def test_a_folder_that_is_not_shared_is_refused(host, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "_SEEN_WITHIN_S", 0)
    with Probe([tmp_path / "runs", tmp_path / "cache"]) as probe:
        told = replace(host, name="node1").told(probe)
        shutil.rmtree(tmp_path / "cache")
        assert f"{tmp_path}/cache is not the folder of this name on node1" in host.fault(told)


def test_a_folder_that_shows_late_is_waited_for(host, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "aside").rename(tmp_path / "runs"))
    with Probe([tmp_path / "runs"]) as probe:
        told = replace(host, name="node1").told(probe)
        (tmp_path / "runs").rename(tmp_path / "aside")
        assert host.fault(told) == ""


def test_where_the_cache_lies_is_said_where_the_recipe_needs_it(tiny_recipe, monkeypatch):
    monkeypatch.delenv("SALMONN_DISTILL_CACHE", raising=False)
    require_cache_said(read_recipe(tiny_recipe))
    recipe = read_recipe(tiny_recipe, ["cache.folder={cache}/a"])
    with pytest.raises(InputError, match=r"SALMONN_DISTILL_CACHE is not set on host .*\.deepspeed_env"):
        require_cache_said(recipe)
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", "/shared")
    require_cache_said(recipe)
