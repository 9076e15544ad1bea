"""Where the processes of a run meet before any of them loads something: they agree that they are of one run, or say
why not in one line, and share what each has read.

Each connects to the first one, at the address and port that the launcher has given to all; nothing else is known yet.
"""

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import torch.distributed as dist

from data.errors import InputError
from data.known_hashes import known_sha256, stamp_of, take_over
from data.paths import resolve
from data.ranks import launched_beside, launched_host, launched_rank, launched_world, on_several_hosts
from distill.recipe.hosts import Host, Probe, require_cache_said
from distill.recipe.recipe import Recipe
from teacher.device import leave_common_port, port_told

_COMES_WITHIN_S = 300
_HEARS_WITHIN_S = 1800
"""A store waits so long for what another process says: one that came may still hash its weights."""
_LISTENS_S = 5
_INTERFACES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}
_OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

_held: list[dist.Store] = []
"""The first process's store serves the others, and the group that they join later, for as long as it lives."""


class Meeting:
    """What the processes of a run tell one another; alone, a process agrees with itself.

    Args:
        store: Theirs; None: there is one process.
    """

    def __init__(self, store: dist.Store | None) -> None:
        self._store, self._rank, self._agreed = store, launched_rank(), store is None

    def agree(
        self, recipe: Recipe, annotations: Iterable[str], weights: Iterable[Path], folders: Iterable[Path]
    ) -> None:
        """Returns where all are of one run. The hashes of its weights are known to all then.

        Args:
            recipe: As this process has read it.
            annotations: The files of rows that it is about to read.
            weights: Its weight files.
            folders: What all processes write into.

        Raises:
            InputError: A host has something else than the first one (see `hosts.py`).
        """
        if self._store is None:
            return
        several = on_several_hosts()
        if several:
            require_cache_said(recipe)
        self._share_hashes(weights := [path for path in weights if path.is_file()])
        if not several:
            return self._end(self._heard() if self._rank == 0 else self._answered(""))
        host = Host.of(recipe, [*map(resolve, annotations), *weights])
        if self._rank > 0:
            self._store.set(f"here {self._rank}", "")
            first = self._get("first")  # empty: it has ended, and says why
            asked = launched_host() > 0 and launched_beside()[0] == 0
            fault = host.fault(first) if asked and first else ""
            self._end(self._answered(fault))
            if fault:  # which the first process, of another run, does not hear
                raise InputError(fault)
            return None
        with Probe(folders) as probe:
            for rank in range(1, launched_world()):  # all wait for what is told, so that clocks can be compared
                self._get(f"here {rank}")
            self._store.set("first", host.told(probe))
            self._end(self._heard())

    def _share_hashes(self, files: Sequence[Path]) -> None:
        """Each process of a host hashes some of these files, the largest first, and all of the host know the hashes."""
        (own, beside), host = launched_beside(), launched_host()
        largest = sorted(set(files), key=lambda path: (-path.stat().st_size, path))
        mine = [[*stamp_of(path), known_sha256(path)] for path in largest[own::beside]]
        self._store.set(f"hashes {host} {own}", json.dumps(mine))
        for other in range(beside):
            found = json.loads(self._get(f"hashes {host} {other}") or "[]")  # empty: it has ended, and says why
            take_over({tuple(stamp): sha256 for *stamp, sha256 in found})

    def leave(self, error: BaseException) -> None:
        """Tells the others, where they do not know yet, that this process ends."""
        if self._agreed:
            return
        line = f"host {platform.node()}, rank {self._rank}: {error}"
        with suppress(RuntimeError):  # the first process has ended, and the store with it
            self._store.set(f"hashes {launched_host()} {launched_beside()[0]}", "")
            if self._rank > 0:
                self._store.set(f"said {self._rank}", line)
                self._store.set(f"here {self._rank}", "")
                self._store.add("heard", 1)
                return
            self._store.set("verdict", line)
            self._store.set("first", "")
            self._wait_until_heard()

    def _answered(self, fault: str) -> str:
        """Tells the first process what is wrong here, empty: nothing; gives what it then says to all."""
        self._store.set(f"said {self._rank}", fault)
        verdict = self._get("verdict")
        self._store.add("heard", 1)
        return verdict

    def _heard(self) -> str:
        """What is wrong with any process, which all are told."""
        said = (self._get(f"said {rank}") for rank in range(1, launched_world()))
        verdict = next(filter(None, said), "")
        self._store.set("verdict", verdict)
        self._wait_until_heard()
        return verdict

    def _wait_until_heard(self) -> None:
        """The first process has the store: the others would hear nothing once it has ended."""
        until = time.monotonic() + _LISTENS_S
        while self._store.add("heard", 0) < launched_world() - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def _end(self, verdict: str) -> None:
        self._agreed = True
        if not verdict:
            return
        if self._rank == 0:
            raise InputError(verdict)
        sys.exit(2)  # the first process says it

    def _get(self, key: str) -> str:
        try:
            return self._store.get(key).decode()
        except RuntimeError as error:
            raise InputError(
                f"rank {self._rank} on {platform.node()}: another process of this run has ended, or said nothing for "
                f"{_HEARS_WITHIN_S} s; see what it said last"
            ) from error


@contextmanager
def meeting() -> Iterator[Meeting]:
    """A meeting of all processes; what ends one of them in it ends all.

    Raises:
        InputError: A process does not come, or cannot reach the first one.
    """
    for name in _OTHER_LAUNCHERS:
        if "RANK" not in os.environ and int(os.environ.get(name) or 1) > 1:
            raise InputError(
                f"{name} without RANK: mpirun and srun start no run; take deepspeed (its pdsh) or torchrun"
            )
    together = Meeting(_store() if launched_world() > 1 else None)
    try:
        yield together
    except BaseException as error:
        together.leave(error)
        raise


def _store() -> dist.Store:
    leave_common_port()
    if on_several_hosts():
        interface = _interface_to(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        for name, value in _INTERFACES.items():
            os.environ.setdefault(name, value.format(interface))
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        with port_told():
            store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=_COMES_WITHIN_S)))
    except RuntimeError as error:
        who = "others have not come to" if launched_rank() == 0 else "the first process cannot be reached at"
        raise InputError(
            f"host {platform.node()}, rank {launched_rank()}: {who} {place} within {_COMES_WITHIN_S} s; see what they "
            "said last, let hosts reach each other's ports, or name another address: deepspeed --master_addr ADDRESS"
        ) from error
    _held.append(store)
    store = dist.PrefixStore("meeting", store)
    store.set_timeout(timedelta(seconds=_HEARS_WITHIN_S))
    return store


def _interface_to(address: str, port: int) -> str:
    """The network interface by which this host reaches the first one, or on which it is reached itself.

    Raises:
        InputError: It is not reached by any that others reach too.
    """
    told = f"host {platform.node()}: {address}, the address of the run's first process,"
    mend = "name one that all hosts reach: deepspeed --master_addr ADDRESS"
    try:
        kind, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # of UDP: nothing is sent, but the system chooses the way
            own = probe.getsockname()[0]
    except OSError as error:
        raise InputError(f"{told} is not reached ({error.strerror or error}); {mend}") from error
    for name, addresses in psutil.net_if_addrs().items():
        if any(of.address.partition("%")[0] == own for of in addresses) and name != "lo":
            return name
    raise InputError(f"{told} is this host's own for itself ({own}), which no other reaches; {mend}")
