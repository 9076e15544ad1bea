"""What a server takes, from whom, and what it does with what it does not take."""

import json
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.student.serve.conftest import running, transcript, until, wav
from tests.student.serve.fake import Fake

PATH = "/v1/audio/transcriptions"


def error_of(response) -> dict:
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and "Traceback" not in response.text
    return error


def counted(server, line: str) -> bool:
    return line in httpx.get(f"{server.url}/metrics").text.splitlines()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def asked_at_once(fake, server, pool, *lengths_s):
    """The answers about sounds of these lengths: the others come while the first is being written, and wait."""
    first = pool.submit(transcript, server, wav(lengths_s[0]))
    until(lambda: fake.batches)
    others = [pool.submit(transcript, server, wav(seconds)) for seconds in lengths_s[1:]]
    until(lambda: counted(server, f'salmonn_waiting_stretches{{model="fake"}} {len(others)}.0'))
    fake.go.set()
    return [future.result() for future in (first, *others)]


def test_what_waits_is_written_together(fake, pool):
    fake.go.clear()
    with running({"fake": fake}) as server:
        texts = [answer.json()["text"] for answer in asked_at_once(fake, server, pool, 1, 2, 2.5, 1.5, 9)]
        assert texts == ["1 s", "2 s", "2.5 s", "1.5 s", "9 s"]
        # Those of like length: none is padded to more than twice its own.
        assert [len(batch) for batch in fake.batches] in ([1, 3, 1], [1, 1, 3])
        assert counted(server, 'salmonn_batch_size_count{model="fake"} 3.0')
        assert counted(server, 'salmonn_sound_seconds_total{model="fake"} 16.0')
        until(lambda: counted(server, f'salmonn_requests_total{{route="{PATH}",status="200"}} 5.0'))
        until(lambda: counted(server, f'salmonn_request_seconds_count{{route="{PATH}"}} 5.0'))
        assert counted(server, 'salmonn_first_token_seconds_count{model="fake"} 5.0')


@pytest.mark.parametrize(("margin_s", "sizes"), [(None, [1, 2, 2]), (0.5, [1, 4])])
def test_a_batch_is_as_large_as_what_is_heard_allows(loud, pool, margin_s, sizes):
    """Of a model without a margin each stretch is filled up to 30 s."""
    fake = Fake(max_seconds=60.0, margin_s=margin_s)
    fake.go.clear()
    with running({"fake": fake}) as server:
        answers = asked_at_once(fake, server, pool, 1, 2, 2.5, 1.5, 3)
        assert {answer.status_code for answer in answers} == {200}
        assert [len(batch) for batch in fake.batches] == sizes


def test_a_short_sound_does_not_wait_for_a_long_one(fake, pool):
    fake.go.clear()
    with running({"fake": fake}) as server:
        long = pool.submit(transcript, server, wav(200))
        until(lambda: fake.batches)
        short = pool.submit(transcript, server, wav(3))
        until(lambda: counted(server, "salmonn_queue_length 2.0"))
        until(lambda: any(len(job.ready) and job.seconds == 3 for job in server.service._batchers["fake"]._jobs))
        fake.go.set()
        assert short.result().json()["text"] == "3 s" and long.result().status_code == 200
        assert [3.0] in fake.batches[1:3] and len(fake.batches) >= 7


def test_beyond_the_queue_is_refused_and_told_when_to_ask_again(fake, pool):
    fake.go.clear()
    with running({"fake": fake}, max_queue=2) as server:
        held = [pool.submit(transcript, server, wav(1)) for _ in range(2)]
        until(lambda: counted(server, "salmonn_queue_length 2.0"))
        refused = transcript(server, wav(1))
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert error_of(refused)["code"] == "queue_full"
        fake.go.set()
        assert [future.result().status_code for future in held] == [200, 200]
        assert transcript(server, wav(1)).status_code == 200


def test_a_body_over_the_bound_is_not_read(fake):
    with running({"fake": fake}, max_megabytes=0.1) as server:
        assert transcript(server, wav(2)).status_code == 200  # 64 kB
        refused = transcript(server, wav(4))
        assert refused.status_code == 413 and error_of(refused)["code"] == "body_too_large"
        given = []

        def parts():  # of no stated length
            yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(20):
                given.append(1)
                yield bytes(50_000)

        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert httpx.post(server.url + PATH, content=parts(), headers=kind).status_code == 413
        # Only the head comes, and the answer does not wait for more.
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000000\r\n\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        until(lambda: server.service.places.taken == 0)


def test_a_sound_over_the_bound_is_refused(fake):
    with running({"fake": fake}, max_seconds=3) as server:
        refused = transcript(server, wav(4))
        assert refused.status_code == 400 and error_of(refused)["code"] == "sound_too_long" and not fake.batches


@pytest.mark.parametrize("stream", ["false", "true"])
def test_who_goes_away_frees_the_place(fake, stream):
    fake.go.clear()
    with running({"fake": fake}, max_queue=1) as server:
        request = httpx.Request(
            "POST", server.url + PATH, data={"model": "fake", "stream": stream}, files={"file": ("a", wav(1))}
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            until(lambda: fake.batches)
            assert transcript(server, wav(1)).status_code == 429
        until(lambda: server.service.places.taken == 0)
        until(lambda: fake.ended)  # nor is its text written on
        fake.go.set()
        assert transcript(server, wav(2)).json()["text"] == "2 s"


def test_a_key_opens_all_but_health(fake):
    with running({"fake": fake}, api_key="sécret") as server:
        for brought in ({}, {"authorization": "Bearer another"}, {"authorization": "sécret".encode()}):
            refused = transcript(server, wav(1), headers=brought)
            assert refused.status_code == 401 and error_of(refused)["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/metrics").status_code == 401 and not fake.batches
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        assert transcript(server, wav(1), headers={"authorization": "Bearer sécret".encode()}).status_code == 200


def test_pages_of_other_hosts_are_not_heard(fake):
    with running({"fake": fake}) as server:
        led = httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example:8000"})
        assert led.status_code == 403 and error_of(led)["code"] == "wrong_host"
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        before = httpx.options(f"{server.url}{PATH}", headers=asked)
        assert before.status_code == 405 and not [name for name in before.headers if name.startswith("access-control")]


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({}, True),  # curl, and OpenAI's client
        ({"origin": "http://{own}"}, True),  # the page in a browser that does not say which site it asks for
        ({"origin": "http://{own}", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://sound.example", "host": "sound.example"}, True),  # behind a proxy with TLS
        ({"origin": "https://sound.example", "host": "SOUND.example:443"}, True),
        ({"origin": "https://sound.example", "sec-fetch-site": "same-origin"}, True),  # one that changes the host
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"origin": "http://{own}", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "null"}, False),  # a file, or a frame in a sandbox
        ({"origin": "null", "host": ""}, False),
        ({"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"}, False),  # another server of this machine
        ({"origin": "http://127.0.0.1:1"}, False),
        ({"origin": "http://127.0.0.1"}, False),
        ({"origin": "http://{own}.evil.example"}, False),
        ({"origin": ""}, False),
        ({"origin": "x" * 5_000 + "\x80"}, False),
    ],
)
@pytest.mark.parametrize("api_key", [None, "secret"])
def test_pages_of_other_origins_give_no_work(fake, headers, admitted, api_key):
    with running({"fake": fake}, api_key=api_key) as server:
        own = server.url.removeprefix("http://")
        headers = {name: value.replace("{own}", own).encode("latin-1") for name, value in headers.items()}
        if headers.get("host", b"").lower().startswith(b"sound") and not api_key:
            pytest.skip("without a key it answers to localhost alone")
        headers |= {"authorization": f"Bearer {api_key}"} if api_key else {}  # the right one changes nothing
        answer = transcript(server, wav(1), headers=headers)
        # JSON that is sent as text asks no leave of the server either.
        chat = httpx.post(server.url + CHAT, content=b"{}", headers=headers | {"content-type": "text/plain"})
        if admitted:
            assert answer.status_code == 200 and chat.status_code == 400
        else:
            for refused in (answer, chat):
                error = error_of(refused)
                assert refused.status_code == 403 and error["code"] == "wrong_origin"
                assert "\n" not in error["message"] and len(error["message"]) < 300
            assert not fake.batches and not server.service.places.taken
        assert not [name for name in answer.headers if name.startswith("access-control")]
        # What only tells is told to whom asks: without leave no page can read it.
        assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200


def test_no_file_has_a_name_that_was_sent(fake, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    fake.go.clear()
    with running({"fake": fake}) as server, ThreadPoolExecutor(1) as pool:
        form = {"data": {"model": "fake"}, "files": {"file": ("../../here.wav", wav(50))}}  # 1.6 MB: over what is kept
        future = pool.submit(httpx.post, server.url + PATH, timeout=60, **form)
        until(lambda: fake.batches)
        assert not list(folder.iterdir())
        fake.go.set()
        assert future.result().status_code == 200
    assert sorted(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize("content", [b"", b"no sound", wav(1), wav(40)], ids=len)  # 40 s are over a text's bound
def test_a_sound_that_is_sent_as_a_text_is_told_how(fake, content):
    part = b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    body = part % (b"model", b"fake") + part % (b"file", content) + b"--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with running({"fake": fake}) as server:
        refused = httpx.post(server.url + PATH, content=body, headers=kind)
        other = httpx.post(server.url + PATH, data={"model": "fake", "file": "a.wav"})
    for answer in (refused, other):
        error = error_of(answer)
        assert answer.status_code == 400 and error["param"] == "file"
        assert "send it as a file, with a file name" in error["message"]


def test_whether_it_is_there_can_be_asked_by_head(fake):
    with running({"fake": fake}, api_key="secret") as server:
        for path in ("/", "/page/style.css", "/health"):
            head, whole = httpx.head(server.url + path), httpx.get(server.url + path)
            assert head.status_code == whole.status_code == 200 and not head.content
            assert head.headers["content-length"] == str(len(whole.content))
        assert httpx.head(f"{server.url}/v1/models").status_code == 401
        server.service.places.closed = True
        assert httpx.head(f"{server.url}/health").status_code == 503


def test_a_fault_of_the_model_is_told_without_its_words(fake, pool):
    fake.fails = lambda stretch: stretch.seconds == 2
    fake.go.clear()
    with running({"fake": fake}) as server:
        first = pool.submit(transcript, server, wav(1))
        until(lambda: fake.batches)
        good, bad = (pool.submit(transcript, server, wav(seconds)) for seconds in (1.5, 2))
        until(lambda: counted(server, 'salmonn_waiting_stretches{model="fake"} 2.0'))
        fake.go.set()
        # One that fails does not fail those of its batch.
        assert first.result().status_code == good.result().status_code == 200
        assert bad.result().status_code == 500 and "secret" not in bad.result().text
        assert error_of(bad.result())["type"] == "server_error"
        streamed = transcript(server, wav(2), data={"stream": "true"})
        assert streamed.status_code == 500 and error_of(streamed)
        assert transcript(server, wav(1)).status_code == 200


def test_what_goes_wrong_behind_the_first_words_is_the_last_event(fake):
    fake.fails = lambda stretch: stretch.start_s > 1
    with running({"fake": fake}) as server:
        lines = transcript(server, wav(70), data={"stream": "true"}).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert [event.get("type") for event in events[:-1]] == ["transcript.text.delta"] and "error" in events[-1]


def test_asked_to_stop_it_finishes_what_it_has_and_takes_no_more(fake, pool):
    fake.go.clear()
    with running({"fake": fake}) as server:
        held = [pool.submit(transcript, server, wav(1))]
        until(lambda: fake.batches)
        held += [pool.submit(transcript, server, wav(seconds)) for seconds in (9, 2, 2.5, 3, 2, 9.5, 70)]
        until(lambda: counted(server, "salmonn_queue_length 8.0"))  # one is being written, the others wait
        server.server.handle_exit(15, None)
        refused = transcript(server, wav(1))
        assert refused.status_code == 503 and error_of(refused)["code"] == "stopping"
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert not any(future.done() for future in held)
        fake.go.set()
        texts = [future.result().json()["text"] for future in held]
        assert texts[:-1] == ["1 s", "9 s", "2 s", "2.5 s", "3 s", "2 s", "9.5 s"] and texts[-1].count(" s") > 1
        server.thread.join(20)
        assert not server.thread.is_alive()
