"""Whether all processes of a run are there, seen beside what the device's library does between them.

Between GPUs a process that is gone shows late, and not in Python: NCCL waits for it, within one machine until the run's
timeout, and its watchdog then ends the process with words of its own. So each process holds a connection to the first
one that nothing goes over: where it breaks, the process that sees it says so in a line and ends, and the others see
that. A machine that is gone without a word is found by the system's probes, within about a minute. (On a CPU gloo
raises at once. Not run on GPUs; the connections are tested with processes on a CPU.)
"""

import os
import secrets
import selectors
import socket
import sys
import time
from contextlib import suppress
from threading import Event, Thread

import torch.distributed as dist

from distill.training.failures import another_is_gone

_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence until the first probe and between probes, and how many may stay without an answer (Linux)."""
_MEET_S = 60
_TOKEN_BYTES, _TOKEN_S = 16, 5
_DONE = b"."


class PeerWatch:
    """Ends this process, with a line and status 2, once another process of the run is gone; until `end`.

    All ranks make one together.
    """

    def __init__(self) -> None:
        self._rank, self._ended, self._connections = dist.get_rank(), Event(), []
        try:
            self._meet()
        except OSError as error:
            told = f"warning: rank {self._rank}: does not see whether the others are there ({error})"
            print(f"{told}; one that is lost is told when train.timeout_s has passed", flush=True)
            return
        Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """From here on a process may end."""
        self._ended.set()
        for connection in self._connections:
            with suppress(OSError):  # that one has ended
                connection.sendall(_DONE)

    def _meet(self) -> None:
        """Connects the first process and each other one."""
        server, told = None, [None]
        if self._rank == 0:
            try:
                server = socket.create_server(("", 0))
                told = [(server.getsockname()[1], secrets.token_bytes(_TOKEN_BYTES))]
            except OSError as error:  # the others wait to be told
                told = [str(error)]
        dist.broadcast_object_list(told, 0)
        if isinstance(told[0], str):
            raise OSError(f"the first process: {told[0]}")
        port, token = told[0]
        if server:
            self._accept(server, token)
        else:
            self._connections.append(socket.create_connection((os.environ["MASTER_ADDR"], port), _MEET_S))
            self._connections[0].sendall(token)
        for connection in self._connections:
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _PROBES.items():
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _accept(self, server: socket.socket, token: bytes) -> None:
        """Takes the other processes' connections; whatever else finds the port (a scanner) does not know the token."""
        until = time.monotonic() + _MEET_S
        with server:
            while len(self._connections) < dist.get_world_size() - 1:
                server.settimeout(max(until - time.monotonic(), 0.001))
                connection, _ = server.accept()
                connection.settimeout(_TOKEN_S)
                with suppress(OSError):
                    if connection.recv(_TOKEN_BYTES, socket.MSG_WAITALL) == token:
                        self._connections.append(connection)
                        continue
                connection.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        said = key.fileobj.recv(1)
                    except OSError:
                        said = b""
                    if not said and not self._ended.is_set():
                        print(f"error: {another_is_gone()}", file=sys.stderr, flush=True)
                        os._exit(2)  # this thread is not the one that waits
                    selector.unregister(key.fileobj)
