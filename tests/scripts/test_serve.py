"""The command that serves, in a process of its own."""

import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.student.serve.conftest import transcript, until, wav
from tests.student.use.conftest import loud, tiny_lm  # noqa: F401 (fixtures)

PATH = "/v1/audio/transcriptions"


@pytest.fixture
def model(tiny_lm, tmp_path):  # noqa: F811
    tiny_lm.save_pretrained(tmp_path / "tiny" / "model")
    return tmp_path / "tiny" / "model"


def test_it_serves_until_sigterm_and_ends_with_status_0(model, environment, tmp_path):
    words = [sys.executable, "scripts/serve.py", "--model", str(model), "--port", "0", "--host", "127.0.0.1"]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(words, cwd=REPOSITORY, stderr=log, stdout=log, env=environment)
    try:
        until(lambda: process.poll() is not None or "http://" in (tmp_path / "log").read_text(), 300)
        said = (tmp_path / "log").read_text()
        server = SimpleNamespace(url=re.search(r"tiny: (http://127\.0\.0\.1:\d+)/v1", said)[1])
        until(lambda: _healthy(server), 60)
        given = {"data": {"model": "tiny", "response_format": "verbose_json"}}
        assert transcript(server, wav(2), **given).json()["duration"] == 2
        request = httpx.Request("POST", f"{server.url}{PATH}", data={"model": "tiny"}, files={"file": ("a", wav(3))})
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        body = request.read()
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as held:
            held.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body[:1000])
            until(lambda: "salmonn_queue_length 1.0" in httpx.get(f"{server.url}/metrics").text)
            process.send_signal(signal.SIGTERM)
            until(lambda: not _healthy(server), 60)
            assert transcript(server, wav(1), **given).status_code == 503
            held.sendall(body[1000:])  # which is finished
            assert held.recv(4096).startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
    finally:
        process.kill()
    said = (tmp_path / "log").read_text()
    assert "stopping: what is there is finished" in said and "Traceback" not in said and "warning" not in said


def _healthy(server) -> bool:
    try:
        return httpx.get(f"{server.url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_what_cannot_be_served_is_told_in_a_line(command, model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, complaint in [
            (["--model", tmp_path], "no trained model there"),
            (["--model", model, "--model", model], "both would be called tiny"),
            (["--model", model, "--port", port], f"port {port}"),
            (["--model", model, "--host", "no.such.invalid"], "no.such.invalid"),
            (["--model", model, "--max-queue", 0], "--max-queue 0"),
            (["--model", model, "--api-key", ""], "--api-key"),
        ]:
            status, out, err = command("scripts/serve.py", *words)
            assert status == 2 and not out and "Loading" not in err
            (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
            assert complaint in line


def test_an_open_address_without_a_key_is_warned_of(monkeypatch, capsys):
    from student.serve import server
    from student.serve.service import Service
    from student.serve.settings import ServeSettings

    monkeypatch.setattr(server.Server, "run", lambda self, sockets: None)
    for given, warned in [({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "api_key": "k"}, False), ({}, False)]:
        service = Service({}, ServeSettings(port=0, **given))
        with server.bound(service.settings) as listening:
            assert server.serve(service, listening) == 0
        assert ("warning: " in capsys.readouterr().err) is warned
