"""Several hosts, for real: `deepspeed --hostfile` over SSH to two (`tests/hosts.py`), against one with two ranks."""

import json
import os
import re
import subprocess
import time

import pytest
from deepspeed.accelerator import get_accelerator

from data.cache.reader import CacheReader
from data.paths import REPOSITORY
from tests.conftest import records
from tests.hosts import NAMES, two_hosts, why_not
from tests.scripts.test_launcher import options

pytestmark = pytest.mark.skipif(
    get_accelerator().device_name() != "cpu", reason="its hosts would share the accelerator"
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if reason := why_not():
        pytest.skip(reason)
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        (hosts.folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
        yield hosts


@pytest.fixture
def handed_on(hosts, environment):
    """A function that writes the variables which DeepSpeed hands on, and gives the environment that it reads them from.

    What is compiled once, and threads; nothing of the network.
    """

    def handed_on(**variables):
        kept = {name: environment[name] for name in ("OMP_NUM_THREADS", "TORCH_EXTENSIONS_DIR") if name in environment}
        lines = [f"{name}={value}\n" for name, value in (kept | variables).items()]
        (hosts.folder / "environment").write_text("".join(lines))
        return environment | {"DS_ENV_FILE": str(hosts.folder / "environment")}

    return handed_on


@pytest.fixture
def on_hosts(hosts, handed_on, tiny_recipe):
    """A function that runs a command of the tiny recipe on both hosts.

    With `losing` the second host is lost as soon as that says so: all that runs there is killed.
    """

    def on_hosts(script, *words, losing=None, **variables):
        launcher = ["deepspeed", "--hostfile", str(hosts.folder / "hostfile"), script]
        how = {"cwd": REPOSITORY, "environment": handed_on(**variables)}
        words = [*launcher, "--config", str(tiny_recipe), *words]
        return hosts.run(*words, **how, during=losing and (lambda: _lose(hosts, losing)))

    return on_hosts


def _lose(hosts, when):
    until = time.monotonic() + 900
    while not when():
        assert time.monotonic() < until
        time.sleep(0.01)
    hosts.kill(1)


def errors(done):
    """The lines that begin with `error:`, by host; a traceback is none of them."""
    assert "Traceback" not in done.stderr, done.stderr
    return re.findall(r"^(node\d): error: (.*)$", done.stderr, re.MULTILINE)


def steps(path):
    """The whole lines of a log, without what depends on the clock."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def test_two_hosts_make_what_one_makes(hosts, on_hosts, tiny_recipe, environment, free_port, tmp_path):
    # A space, without which quotation marks would get lost on the way.
    prompts = 'data.prompts={"asr": ["transcribe"], "audiocaption": ["describe the sound", "what is heard"]}'
    runs, changes = tmp_path / "runs", ["train.stages.1.steps=10", "train.save_every=3", prompts]

    def on_one(*words):
        launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port + 6), words[0]]
        words = [*launcher, "--config", str(tiny_recipe), *words[1:]]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr

    done = on_hosts("scripts/cache_teacher.py")
    assert done.returncode == 0, done.stderr
    on_one("scripts/cache_teacher.py", *options(f"cache.folder={tmp_path}/alone"))
    contents = {CacheReader(tmp_path / name).content_sha256() for name in ("cache", "alone")}
    assert len(contents) == 1 and len(CacheReader(tmp_path / "cache")) == 12
    shards = {path.name for path in (tmp_path / "cache").glob("*.parquet")}
    assert shards == {"shard-00000-000000.parquet", "shard-00001-000000.parquet"}

    training = ["distill/train.py", *options("name=two", *changes)]
    done = on_hosts(*training, losing=lambda: len(steps(runs / "two" / "steps.jsonl")) >= 4)
    assert done.returncode != 0
    (line,) = [line for host, line in errors(done) if host == "node1"]
    assert line.startswith("rank 0: another process of this run is gone")
    begun = steps(runs / "two" / "steps.jsonl")
    assert 4 <= len(begun) < 12
    done = on_hosts(*training)
    assert done.returncode == 0, done.stderr
    assert "going on from step " in done.stdout and done.stdout.count("trained model: ") == 1
    on_one("distill/train.py", *options("name=one", *changes))
    whole = steps(runs / "one" / "steps.jsonl")
    assert len(whole) == 12 and begun == whole[: len(begun)] and steps(runs / "two" / "steps.jsonl") == whole

    scoring = ["scripts/evaluate.py", "--model", "student", *options(*changes)]
    done = on_hosts(*scoring, *options("name=two"))
    assert done.returncode == 0, done.stderr
    on_one(*scoring, *options("name=one"))
    texts = [records(tmp_path / "results" / name / "student" / "hypotheses.jsonl") for name in ("two", "one")]
    two, one = ({line["id"]: (line["hypothesis"], line["logp"]) for line in lines} for lines in texts)
    assert two == one and len(two) == len(texts[0]) == 4


def test_what_hosts_do_not_share_is_said_before_anything_is_loaded(hosts, on_hosts, tiny_recipe, tmp_path):
    (tmp_path / "runs").mkdir()
    own = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "runs")]
    assert hosts.run(*own, host=1, cwd=REPOSITORY, environment=dict(os.environ)).returncode == 0
    done = on_hosts("distill/train.py")
    assert done.returncode == 2
    ((host, line),) = errors(done)
    assert host == "node1" and line.startswith(f"host node2: {tmp_path}/runs is not the folder of this name on node1")


def test_where_the_cache_lies_has_to_be_handed_on(on_hosts, tmp_path):
    done = on_hosts("distill/train.py", *options("cache.folder={cache}/a"))
    assert done.returncode == 2 and all(
        "SALMONN_DISTILL_CACHE is not set on host node" in line for _, line in errors(done)
    )
    assert errors(done)[0][0] == "node1"
    done = on_hosts("distill/train.py", *options("cache.folder={cache}/a"), SALMONN_DISTILL_CACHE=tmp_path / "own")
    assert done.returncode == 2
    (line,) = [line for host, line in errors(done) if host == "node1"]
    assert f"{tmp_path}/own/a" in line  # the variable has come: there is no cache in that folder


def test_an_override_that_lost_its_quotation_marks_is_refused(on_hosts):
    done = on_hosts("distill/train.py", *options('data.prompts={"asr":["transcribe"]}'))
    assert done.returncode == 2
    line = dict(errors(done))["node1"]
    assert "data.prompts" in line and "only where a space is in it" in line
