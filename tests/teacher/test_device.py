from types import SimpleNamespace

import pytest
import torch

from teacher import device
from teacher.device import cpu_has_bf16


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
