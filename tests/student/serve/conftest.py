"""A server with a tiny model in a thread of its own, and the official client."""

import io
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
import soundfile

from tests.conftest import sound
from tests.student.use.conftest import loud, tiny_lm  # noqa: F401 (fixtures)

RATE = 16_000


def wav(seconds: float, seed: int = 1) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, seed), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def until(true, seconds: float = 20) -> None:
    """Waits until something is true."""
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.01)


@contextmanager
def running(models, **settings):
    """A server of these models: its address, and what is in it."""
    from student.serve.server import Server, bound
    from student.serve.service import Service
    from student.serve.settings import ServeSettings

    service = Service(models, ServeSettings(port=0, **settings))
    listening = bound(service.settings)
    server = Server(service)
    thread = Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until(lambda: server.started)
    host, port = listening.getsockname()
    address = f"http://{host}:{port}"
    try:
        yield SimpleNamespace(url=address, port=port, service=service, server=server, thread=thread)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def served(tiny_lm):  # noqa: F811
    with running({"tiny": tiny_lm}) as server:
        yield server


@pytest.fixture
def client(served):
    from openai import OpenAI

    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def fake(loud):  # noqa: F811
    from tests.student.serve.fake import Fake

    return Fake()


def transcript(server, content: bytes, **given):
    """The response to a sound."""
    import httpx

    fields = {"model": "fake"} | given.pop("data", {})
    address = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(address, data=fields, files={"file": ("a.wav", content)}, timeout=60, **given)
