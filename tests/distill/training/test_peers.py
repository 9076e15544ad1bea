"""Processes that watch one another while none of them says anything."""

import signal
import subprocess
import sys
import time

import pytest
from torch.distributed import TCPStore

from data.paths import REPOSITORY

pytestmark = pytest.mark.timeout(400)

WORK = """
import os, sys, time
from datetime import timedelta
import torch.distributed as dist
from distill.training.peers import PeerWatch
from teacher.device import leave_group_at_exit
seconds = timedelta(seconds=100)
store = dist.TCPStore("127.0.0.1", int(sys.argv[2]), is_master=False, timeout=seconds)
dist.init_process_group("gloo", store=store, timeout=seconds, world_size=3, rank=int(os.environ["RANK"]))
leave_group_at_exit()
if sys.argv[1] == "deaf":
    import socket
    def create_server(*_):
        raise OSError("no port is free")
    socket.create_server = create_server
if sys.argv[1] == "strangers":
    import socket
    accept = PeerWatch._accept
    def with_strangers(self, server, token):
        wrong, silent = (socket.create_connection(server.getsockname()) for _ in range(2))
        wrong.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        accept(self, server, token)
        assert len(self._connections) == 2 and silent.recv(1) == b""
        try:
            assert wrong.recv(1) == b""
        except ConnectionResetError:
            pass
        print("alone", file=sys.stderr, flush=True)
    PeerWatch._accept = with_strangers
watch = PeerWatch()
if sys.argv[1] == "deaf":
    sys.exit()
print("watching", flush=True)
if sys.argv[1] in ("ends", "strangers"):
    watch.end()
    time.sleep(2 * (dist.get_rank() == 0))  # the others are gone by then
else:
    time.sleep(600)  # as in a call that does not come back
"""


@pytest.fixture
def processes(environment, tmp_path):
    """Starts three ranks, which meet at a port of this process, and waits until they watch."""
    begun, store = [], TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(what):
        (tmp_path / "work.py").write_text(WORK)
        for rank in range(3):
            own = {"RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
            process = subprocess.Popen(
                [sys.executable, tmp_path / "work.py", what, str(store.port)],
                env=environment | own | {"PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            begun.append(process)
        if what != "deaf":
            assert [process.stdout.readline() for process in begun] == ["watching\n"] * 3
        return begun

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("lost", [0, 2])
def test_one_that_is_lost_ends_the_others_with_a_line(processes, lost):
    ranks = processes("waits")
    began = time.monotonic()
    ranks[lost].send_signal(signal.SIGKILL)
    for rank in {0, 1, 2} - {lost}:
        assert ranks[rank].wait(60) == 2
        (line,) = [line for line in ranks[rank].stderr.read().splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: rank {rank}: another process of this run is gone; see what it said last")
    assert time.monotonic() - began < 30


def test_those_that_are_through_may_end(processes):
    for process in processes("ends"):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "error" not in err, err


def test_who_is_no_process_of_the_run_is_sent_away(processes):
    first, *others = processes("strangers")
    for process in (first, *others):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert ("alone" in err) == (process is first)


def test_where_the_first_cannot_be_reached_all_say_so_and_go_on(processes):
    for rank, process in enumerate(processes("deaf")):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.startswith(f"warning: rank {rank}: does not see whether the others are there (the first process: no")
