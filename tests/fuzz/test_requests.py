"""What is sent to the server: an answer, or OpenAI's error object; and it goes on.

SALMONN_FUZZ=10000 python -m pytest tests/fuzz/test_requests.py
"""

import base64
import json
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.contract import inputs
from tests.student.serve.conftest import running, wav
from tests.student.use.conftest import Loud

WAV = wav(1)
FIELDS = ("model", "response_format", "stream", "language", "temperature", "prompt", "timestamp_granularities[]", "new")
VALUES = (
    "fake",
    "json",
    "srt",
    "verbose_json",
    "true",
    "en",
    "0",
    "1e999",
    "nan",
    "word",
    "segment",
    "",
    "\ud7ff\x00",
    "é",
)
PATHS = ("/v1/audio/transcriptions", "/v1/chat/completions")


@pytest.fixture(scope="module")
def server():
    from tests.student.serve.fake import Fake

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("student.use.stretches.VoiceDetector", Loud)
        with running({"fake": Fake()}, max_megabytes=1, max_seconds=5) as server:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                server.client = client
                yield server
            assert httpx.get(f"{server.url}/health").status_code == 200
            assert server.service.places.taken == 0


def require_sense(response) -> None:
    assert response.status_code in (200, 400, 403, 404, 405, 413, 429), response.text
    if response.status_code != 200:
        error = json.loads(response.text)["error"]
        assert error.keys() == {"message", "type", "param", "code"} and error["message"].isprintable()
        assert "Traceback" not in response.text and "/student/" not in error["message"]


spoiled = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=4)).map(
        lambda change: WAV[: change[0]] + change[1] + WAV[change[0] + len(change[1]) :]
    ),
    st.integers(0, len(WAV)).map(lambda end: WAV[:end]),
)


@inputs(60, 0.3)
@given(
    st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES) | st.text(max_size=20)), max_size=5),
    st.lists(st.tuples(st.sampled_from(["file", "file", "other"]), st.text(max_size=10), spoiled), max_size=2),
    st.booleans(),
)
def test_forms(server, fields, files, model):
    texts = [(name, (None, value.encode("utf-8", "replace"))) for name, value in fields]
    texts += [("model", (None, b"fake"))] if model else []
    sounds = [(name, (called, content)) for name, called, content in files]
    require_sense(server.client.post(PATHS[0], files=texts + sounds))


@inputs(40, 0.2)
@given(st.sampled_from(PATHS), st.binary(max_size=300), st.sampled_from(["", "x", "é", '"']), st.booleans())
def test_bodies_that_are_no_form(server, path, content, boundary, wrapped):
    head, tail = f"--{boundary}\r\nContent-Disposition: form-data; name=".encode(), f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}".encode()
    body = head + content + tail if wrapped else content
    require_sense(server.client.post(path, content=body, headers={"content-type": kind}))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
trees = st.recursive(
    scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3), max_leaves=8
)


def chat() -> dict:
    audio = {"data": base64.b64encode(WAV).decode(), "format": "wav"}
    content = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": "who?"}]
    return {"model": "fake", "messages": [{"role": "user", "content": content}], "stream": False}


def places(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


@inputs(60, 0.3)
@given(st.sampled_from(list(places(chat()))), trees | spoiled.map(lambda content: base64.b64encode(content).decode()))
def test_chats(server, path, value):
    whole = {"": chat()}
    node = whole
    for key in ("", *path)[:-1]:
        node = node[key]
    node[("", *path)[-1]] = value
    require_sense(server.client.post(PATHS[1], content=json.dumps(whole[""])))


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 9_000, "{" + ",".join(f'"{i}":1' for i in range(50_000)) + "}"]
)
def test_bodies_that_are_deep_or_wide(server, body):
    response = server.client.post(PATHS[1], content=body)
    require_sense(response)
    assert response.status_code == 400


@inputs(40, 0.2)
@given(st.sampled_from(["GET", "POST", "PUT", "HEAD"]), st.text("abc/%.?&{}\\", max_size=12))
def test_other_paths(server, method, path):
    response = server.client.request(method, f"/v1/{path}")
    if method != "HEAD":
        require_sense(response)


@inputs(40, 0.1)
@given(st.binary(max_size=200), st.booleans())
def test_what_is_not_http(server, content, headed):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall((f"POST {PATHS[0]} HTTP/1.1\r\nhost: localhost\r\n".encode() if headed else b"") + content)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(4096)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200", b"HTTP/1.1 100"))
