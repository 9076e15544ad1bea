"""Every end that comes from outside is one line, from the real error."""

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from data.errors import InputError
from distill.training.failures import as_input_error


def full_disk():
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def full_disk_under_torch():
    torch.save(torch.zeros(100_000), "/dev/full")


def collapsed_scale():
    DynamicLossScaler(1.0, 1000, min_scale=1.0, delayed_shift=1, consecutive_hysteresis=False).update_scale(True)


def a_process_is_gone():
    raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2")


def nccl_was_aborted():
    raise RuntimeError("NCCL communicator was aborted on rank 0.")


def nccl_fails():
    raise torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:2, ncclRemoteError")


@pytest.fixture
def first_rank(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)


@pytest.mark.parametrize("fail", [a_process_is_gone, nccl_was_aborted, nccl_fails])
def test_a_process_that_is_gone_is_told_in_one_line(fail, tmp_path, first_rank):
    with pytest.raises(InputError, match="rank 0: another process of this run is gone"), as_input_error(tmp_path, 60):
        fail()


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (full_disk, "No space left on device.*make room on the disk, then the same command goes on"),
        (full_disk_under_torch, "make room on the disk, then the same command goes on from the last checkpoint"),
        (collapsed_scale, "fp16: gradients overflow even at the lowest loss scale"),
    ],
)
def test_an_end_from_outside_is_told_in_one_line(fail, line, tmp_path):
    with pytest.raises(InputError, match=line) as raised, as_input_error(tmp_path, 60):
        fail()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), FileNotFoundError("gone"), InputError("a line")])
def test_what_it_does_not_know_stays_as_it_is(error, tmp_path):
    with pytest.raises(type(error)) as same, as_input_error(tmp_path, 60):
        raise error
    assert same.value is error
