"""Processes of their own: two ranks, a kill that nothing can catch, and what the launcher makes of an error."""

import json
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import torch
from deepspeed.accelerator import get_accelerator

from data.cache.reader import CacheReader
from distill.losses.settings import LossWeights
from tests.conftest import SENTENCES, write_annotation_of

REPOSITORY = Path(__file__).resolve().parents[2]


def options(*overrides):
    return [word for override in overrides for word in ("--set", override)]


def losses(path):
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


@pytest.fixture
def launch(environment):
    """Runs a command in processes of its own, to its end."""

    def launch(*words):
        return subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)

    return launch


@pytest.fixture
def train(command, tiny_recipe, fill_tiny_cache, tmp_path):
    """Runs distill/train.py in this process; gives the losses of its steps."""
    fill_tiny_cache()

    def train(name, *overrides):
        status, _, err = command("distill/train.py", "--config", tiny_recipe, *options(f"name={name}", *overrides))
        assert status == 0, err
        return losses(tmp_path / "runs" / name / "steps.jsonl")

    return train


# Small rates: Adam's first steps are the signs of gradients, and would make rounding of the small ones visible, most so
# in the first stage, whose student begins at what it is to match.
SLOW = [f"train.stages.0.lr.{part}=1e-7" for part in ("encoder", "connector")]
SLOW += [f"train.stages.1.lr.{part}=1e-4" for part in ("encoder", "connector", "llm")]


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_two_ranks_give_the_curve_of_one_with_twice_the_accumulation(train, launch, tiny_recipe, free_port, tmp_path):
    alone = train("alone", "deepspeed.gradient_accumulation_steps=2", *SLOW)
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port + 1), "distill/train.py"]
    done = launch(*launcher, "--config", tiny_recipe, *options("name=ranks", *SLOW))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs" / "ranks" / "steps.jsonl") == pytest.approx(alone, rel=1e-4)
    assert done.stdout.count("trained model: ") == 1
    assert not list(Path("/dev/shm").glob(f"deepspeed_*_{free_port + 1}_*"))  # DeepSpeed leaves them, 66 MiB each


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_two_ranks_at_zero_3_share_a_teacher_in_memory_and_write_together(
    train, launch, tiny_recipe, free_port, tmp_path
):
    changes = ["train.teacher=memory", "train.stages.1.on_policy.share=0.5", "train.stages.0.steps=1"]
    changes += SLOW
    # A batch of the validation for each rank, of texts of other lengths: neither may wait for the other's.
    changes += ["generation.max_seconds=2.5", "generation.tokens_per_second=1", "generation.max_new_tokens=20"]
    changes.append("train.timeout_s=200")  # less than `launch` waits, and enough on a busy machine
    alone = train("alone", "deepspeed.gradient_accumulation_steps=2", *changes)
    zero = '{"stage": 3, "stage3_param_persistence_threshold": 0}'
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port + 4), "distill/train.py"]
    ranks = options("name=ranks", *changes, f"deepspeed.zero_optimization={zero}")
    done = launch(*launcher, "--config", tiny_recipe, *ranks)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs" / "ranks" / "steps.jsonl"
    # The same texts of the same rows, whichever rank draws them.
    assert losses(path) == pytest.approx(alone, rel=1e-4)
    own = [json.loads(line)["on_policy"] for line in path.read_text().splitlines()]
    assert True in own and False in own[1:]
    texts = [(tmp_path / "runs" / name / "texts.jsonl").read_text() for name in ("alone", "ranks")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 2
    looks = [json.loads((tmp_path / "runs" / name / "validation.jsonl").read_text()) for name in ("alone", "ranks")]
    assert looks[1] == looks[0] | {"ce": pytest.approx(looks[0]["ce"], rel=1e-4)}


@pytest.fixture
def taken_port():
    """A port that another program listens on: the launcher's default, where that is free for us."""

    def listen(port):
        stack.enter_context(socket.create_server(("", port)))

    with ExitStack() as stack:
        yield listen


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_a_second_run_on_a_machine_has_a_port_of_its_own(launch, tiny_recipe, free_port, taken_port, tmp_path):
    with suppress(OSError):  # it is taken already
        taken_port(29500)
    stage = '[{"name": "ce", "steps": 1, "max_seconds": 6, "losses": {"ce": 1}, "lr": {"llm": 1e-3}}]'
    changes = options("cache=null", f"train.stages={stage}")
    done = launch("deepspeed", "--num_gpus", "2", "distill/train.py", "--config", tiny_recipe, *changes)
    assert done.returncode == 0, done.stderr
    taken_port(free_port + 7)
    asked = ["deepspeed", "--num_gpus", "1", "--master_port", str(free_port + 7), "distill/train.py"]
    done = launch(*asked, "--config", tiny_recipe, *changes, *options("name=other"))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and f"port {free_port + 7}, at which" in line and "--master_port PORT" in line
    assert "Traceback" not in done.stderr


def gradient(run):
    """The gradient of a run's one step, from AdamW's first moments (a tenth of it) in its ZeRO 2 checkpoint."""
    ranks = [
        torch.load(file, weights_only=False)["optimizer_state_dict"]
        for file in sorted((run / "checkpoints" / "step_1").glob("*optim_states.pt"))
    ]
    states = [rank["base_optimizer_state"]["state"] for rank in ranks]
    return [torch.cat([state[group]["exp_avg"] for state in states]) for group in range(len(states[0]))]


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
@pytest.mark.parametrize("zero", [2, 3])
def test_a_run_goes_on_with_one_rank_and_with_two_again(train, command, launch, tiny_recipe, free_port, tmp_path, zero):
    run = tmp_path / "runs" / "ranks"
    changes = ["train.save_every=1", "train.keep_checkpoints=9", *SLOW]
    # Parameters of every size are cut.
    changes.append(f'deepspeed.zero_optimization={{"stage": {zero}, "stage3_param_persistence_threshold": 0}}')
    elastic = [*changes, "train.elastic=true"]

    def of_two():
        launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port + 6), "distill/train.py"]
        done = launch(*launcher, "--config", tiny_recipe, *options("name=ranks", *elastic))
        assert done.returncode == 0, done.stderr

    def figures():
        lines = map(json.loads, (run / "steps.jsonl").read_text().splitlines())
        return [line[name] for line in lines for name in ("loss", "grad_norm", "tokens", "audio_s")]

    def back_to(step):
        for folder in (run / "checkpoints").glob("step_*"):
            if int(folder.name.removeprefix("step_")) > step:
                shutil.rmtree(folder)

    of_two()
    whole = figures()
    back_to(2)
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *options("name=ranks", *changes))
    assert status == 2 and f"{run}: it began with 2 processes" in err and "train.elastic=true" in err
    train("ranks", *elastic)
    assert figures() == pytest.approx(whole, rel=1e-5)
    assert len([*(run / "checkpoints" / "step_3").glob("*optim_states.pt")]) == 1
    back_to(3)
    of_two()
    assert figures() == pytest.approx(whole, rel=1e-5)


FROM_THE_CACHE = {"ce": 0.5, "kd": 0.5, "ctc": 0.1}
EVERY_LOSS = {name: 0.5 for name in LossWeights.model_fields}
ON_POLICY = {"kd": 0.5}


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
@pytest.mark.parametrize("losses_of", [FROM_THE_CACHE, EVERY_LOSS, ON_POLICY], ids=["cache", "memory", "on_policy"])
def test_eight_clips_have_one_gradient_however_they_are_split(
    train, launch, fill_tiny_cache, tiny_salmonn, tiny_recipe, own_data, free_port, tmp_path, losses_of
):
    texts = [text + " again" * (i // 2) for i, text in enumerate([*SENTENCES, *SENTENCES[:2]])]
    write_annotation_of(own_data, "eight", [("asr", 2.0, text) for text in texts])
    data = [f"data.train={own_data}/eight.json", f"cache.folder={tmp_path}/eight"]
    if losses_of is FROM_THE_CACHE:
        fill_tiny_cache(*data)
    elif losses_of is EVERY_LOSS:
        tiny_salmonn()  # leaves its BEATs
        data += ["teacher.weights=null", f"teacher.beats={tmp_path}/beats.pt", "train.teacher=memory"]
    stage = {"name": "all", "steps": 1, "warmup_steps": 0, "losses": losses_of}
    stage |= {"on_policy": {"max_new_tokens": 12, "end_weight": 2.0}} if losses_of is ON_POLICY else {}
    rates = {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3}

    def split(clips, accumulation):
        """Clips are 2.1 s with their margin; so many of them fill a micro-batch."""
        made = stage | {"lr": rates, "max_seconds": 2.1 * clips + 0.5}
        options = [f"deepspeed.gradient_accumulation_steps={accumulation}", f"train.stages={json.dumps([made])}"]
        return [*data, *options, "deepspeed.zero_optimization.stage=2", "deepspeed.gradient_clipping=0"]

    curves = [train("whole", *split(8, 1)), train("accumulated", *split(2, 4))]
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port + 4), "distill/train.py"]
    done = launch(*launcher, "--config", tiny_recipe, *options("name=ranks", *split(2, 2)))
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / "runs" / name for name in ("whole", "accumulated", "ranks")]
    curves.append(losses(runs[2] / "steps.jsonl"))
    (first,) = (runs[0] / "steps.jsonl").read_text().splitlines()
    assert all(json.loads(first)[name] > 0 for name in losses_of)
    norms = [json.loads((run / "steps.jsonl").read_text())["grad_norm"] for run in runs]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5) and curves[2] == pytest.approx(curves[0], rel=1e-5)
    assert norms[0] > 0 and norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-5)
    for run in runs[1:]:
        for own, whole in zip(gradient(run), gradient(runs[0]), strict=True):
            size = min(len(own), len(whole))  # past it: padding, to parts of equal length
            assert not own[size:].any() and not whole[size:].any()
            assert whole.any() and float((own[:size] - whole[:size]).norm() / whole.norm()) < 1e-5


@pytest.fixture
def begin(environment, tiny_recipe, fill_tiny_cache, free_port, tmp_path):
    """Starts a run that takes long under a launcher; gives its process and a function that waits for some steps."""
    fill_tiny_cache()
    begun = []

    def begin(*launcher):
        launcher = [word.replace("PORT", str(free_port + 5)) for word in launcher]
        changes = ["train.stages.1.steps=100000", "train.save_every=2", "deepspeed.gradient_accumulation_steps=1"]
        process = subprocess.Popen(
            [*launcher, "distill/train.py", "--config", tiny_recipe, *options(*changes)],
            cwd=REPOSITORY,
            env=environment,
            stdout=(tmp_path / "out").open("w"),
            stderr=(tmp_path / "err").open("w"),
        )
        log = tmp_path / "runs" / "tiny" / "steps.jsonl"
        until = time.monotonic() + 200
        while not log.is_file() or len(log.read_text().splitlines()) < 6:
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "err").read_text()
            time.sleep(0.05)
        begun.extend([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
        return process, begun

    yield begin
    for one in begun:
        if one.is_running():
            one.kill()


def whole_checkpoints(tmp_path):
    return [path.parent.name for path in (tmp_path / "runs" / "tiny" / "checkpoints").glob("step_*/sizes.json")]


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_a_rank_that_dies_ends_the_others_with_a_line(begin, tmp_path):
    process, family = begin("deepspeed", "--num_gpus", "2", "--master_port", "PORT")
    next(one for one in family if "--local_rank=1" in one.cmdline()).kill()
    assert process.wait(60) != 0
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    said = (tmp_path / "err").read_text()
    assert "error: rank 0: another process of this run is gone" in said and "Traceback" not in said
    assert whole_checkpoints(tmp_path)


@pytest.mark.parametrize(
    "launcher",
    [
        ["deepspeed", "--num_gpus", "1", "--master_port", "PORT"],
        ["torchrun", "--nproc_per_node", "2", "--master_port", "PORT"],
    ],
    ids=["deepspeed", "torchrun"],
)
@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_a_launcher_that_is_told_to_stop_leaves_a_checkpoint(begin, tmp_path, launcher):
    process, family = begin(*launcher)
    process.terminate()
    process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (line,) = [line for line in (tmp_path / "out").read_text().splitlines() if line.startswith("stopped at step ")]
    assert f"step_{line.split()[3].rstrip(';')}" in whole_checkpoints(tmp_path)


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
def test_two_ranks_make_the_cache_of_one(launch, tiny_recipe, free_port, tmp_path):
    def cache(folder, *ranks):
        launcher = ["deepspeed", "--master_port", str(free_port + 3), *ranks, "scripts/cache_teacher.py"]
        done = launch(*launcher, "--config", tiny_recipe, *options(f"cache.folder={tmp_path}/{folder}"))
        assert done.returncode == 0, done.stderr
        return CacheReader(tmp_path / folder)

    alone, together = cache("alone", "--num_gpus", "1"), cache("together", "--num_gpus", "2")
    assert len(alone) == 12 and alone.content_sha256() == together.content_sha256()
    shards = {path.name for path in (tmp_path / "together").glob("*.parquet")}
    assert shards == {"shard-00000-000000.parquet", "shard-00001-000000.parquet"}


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="two ranks would need two accelerators")
@pytest.mark.parametrize(("ranks", "zero"), [(1, 3), (2, 2)])
def test_training_killed_and_started_again_gives_the_same_losses_bit_for_bit(
    fill_tiny_cache, tiny_recipe, environment, free_port, tmp_path, ranks, zero
):
    fill_tiny_cache()
    changes = ["train.stages.1.steps=18", f"deepspeed.zero_optimization.stage={zero}"]
    changes.append("deepspeed.gradient_accumulation_steps=2" if ranks == 1 else "train.save_every=3")
    launcher = ["deepspeed", "--num_gpus", str(ranks), "--master_port", str(free_port + 2), "distill/train.py"]

    def start(name):
        return subprocess.Popen(
            [*launcher, "--config", tiny_recipe, *options(f"name={name}", *changes)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def steps(name):
        path = tmp_path / "runs" / name / "steps.jsonl"
        # The last line may be half-written at this moment.
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    assert start("whole").wait(300) == 0
    process = start("killed")
    while process.poll() is None and len(steps("killed")) < 3:
        time.sleep(0.005)
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.send_signal(signal.SIGKILL)
    process.wait()
    begun = steps("killed")
    assert 3 <= len(begun) < 20
    assert start("killed").wait(300) == 0
    whole = steps("whole")
    assert len(whole) == 20 and begun == whole[: len(begun)]
    assert steps("killed") == whole
    kept = {path.name for path in (tmp_path / "runs" / "killed" / "checkpoints").glob("step_*")}
    assert kept == {"step_18", "step_20"}


@pytest.mark.parametrize(
    "launcher", [["bash", "scripts/cache_teacher.sh"], ["deepspeed", "distill/train.py"]], ids=["cache", "train"]
)
def test_the_launcher_hands_on_the_line_and_the_status(launch, tiny_recipe, launcher):
    done = launch(*launcher, "--config", tiny_recipe, "--set", "tarin=1")
    assert done.returncode == 2
    assert f"error: {tiny_recipe}: unknown key 'tarin'; did you mean 'train'?" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
