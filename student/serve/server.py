"""The server's process: its socket, and how it ends."""

import socket
import sys
from types import FrameType

import uvicorn

from data.errors import INTERRUPTED, InputError
from student.serve.app import app_of
from student.serve.service import Service
from student.serve.settings import ServeSettings

_LAST_BYTES_S = 30
"""How long finished responses may take to be read."""


def bound(settings: ServeSettings) -> socket.socket:
    """A socket on the server's address, so that it is known to be free before models are loaded.

    Raises:
        InputError: It is not.
    """
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InputError(
            f"{settings.host}, port {settings.port}: {error.strerror}; give a --host of this machine and a --port that "
            "is free"
        ) from None
    return listening


class Server(uvicorn.Server):
    """Stops when asked: takes nothing new, finishes what it has. Asked twice, it stops at once.

    Args:
        service: What it serves.
    """

    def __init__(self, service: Service) -> None:
        self.places, self.asked = service.places, 0
        super().__init__(
            uvicorn.Config(
                app_of(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=_LAST_BYTES_S,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self.asked += 1
        self.places.closed = True
        if self.asked == 1:
            print("stopping: what is there is finished", file=sys.stderr, flush=True)
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether it ends now."""
        ends = await super().on_tick(counter)
        return ends or (self.places.closed and not self.places.taken)


def serve(service: Service, listening: socket.socket) -> int:
    """Serves until a signal comes.

    Returns:
        The exit status: 0 where all was finished.
    """
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if not service.settings.loopback and service.settings.api_key is None:
        print(f"warning: {host}: whoever reaches this machine can ask; give an --api-key", file=sys.stderr, flush=True)
    server = Server(service)
    print(f"{', '.join(service.models)}: http://{shown}:{port}/v1 (Ctrl-C stops)", file=sys.stderr, flush=True)
    try:
        server.run([listening])
    finally:
        service.stop()
    return 0 if server.asked < 2 else INTERRUPTED
