import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from data.errors import InputError
from data.paths import REPOSITORY
from teacher import device
from teacher.device import cpu_has_bf16, let_segments_grow, lowering


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\nvmx flags\t: vnmi\n", True),
        ("flags\t\t: fpu avx2 amx_tile amx_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile amx_int8\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd asimdhp i8mm bf16\nCPU part\t: 0xd40\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n", False),
        ("model name\t: bf16\n", False),
        ("", False),
        (None, False),
    ],
)
def test_what_linux_says_of_the_cpu_tells_whether_it_computes_in_bf16(tmp_path, cpuinfo, has):
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert cpu_has_bf16(file) is has


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_ranks_share_the_cores_and_a_gpu_multiplies_on_its_tensor_cores(monkeypatch, kind):
    asked = {}
    monkeypatch.setattr(device, "get_accelerator", lambda: SimpleNamespace(device_name=lambda: kind))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: asked.update(threads=number))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda how: asked.update(fp32=how))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    device.prepare_process()
    assert asked == {"threads": 4} | ({"fp32": "high"} if kind == "cuda" else {})


@pytest.mark.parametrize(
    ("version", "there", "wanted"),
    [
        ("2.14.1+cu130", {}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ("2.8.0", {}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ("2.14.1", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
        ("2.14.1", {"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
    ],
)
def test_segments_grow_unless_the_person_says_how_memory_is_allocated(monkeypatch, version, there, wanted):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "__version__", version)
    let_segments_grow()
    assert {name: os.environ[name] for name in names if name in os.environ} == wanted


def test_segments_grow_before_a_device_is_asked():
    code = "import teacher.device, os, torch; print(os.environ['PYTORCH_ALLOC_CONF'], torch.cuda.is_initialized())"
    own = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=own, capture_output=True, text=True)
    assert done.stdout.split() == ["expandable_segments:True", "False"], done.stderr


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="shapes"), lowering("a.b", 1):
        raise RuntimeError("shapes do not fit")
    for error in (
        torch.OutOfMemoryError("x"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ):
        with (
            pytest.raises(InputError, match=r"rank 1: out of memory on .*: lower a\.b, which is 60; python"),
            lowering("a.b", 60),
        ):
            raise error


@pytest.mark.parametrize("end", ["sys.exit(2)", "dist.destroy_process_group()", ""])
def test_whatever_ends_a_process_it_is_in_no_group_when_the_interpreter_is_taken_apart(environment, end):
    work = f"""
import atexit, sys
import torch.distributed as dist
from teacher.device import leave_group_at_exit
atexit.register(lambda: print("in a group" if dist.is_initialized() else "alone"))  # the first registered runs last
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
leave_group_at_exit()
{end}
"""
    command = [sys.executable, "-c", work]
    ran = subprocess.run(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("alone\n", 2 if "exit" in end else 0)
