"""The page: what is served, and what a person does with it in a real browser."""

import io
import os
import re
import shutil
from html.parser import HTMLParser

import httpx
import pytest
import soundfile

from data.sound.source import SoundBytes
from student.serve.page import FILES, HEADERS
from tests.student.serve.conftest import running, until, wav

TEXTS = {path: content.decode() for path, (content, _) in FILES.items()}
SCRIPTS = "\n".join(text for path, text in TEXTS.items() if path.endswith(".js"))


class Tags(HTMLParser):
    """Every tag of the page: its name and attributes."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.feed(TEXTS["/"])

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_is_open_and_takes_nothing_from_elsewhere(fake):
    with running({"fake": fake}, api_key="secret") as server:
        for path, (content, kind) in FILES.items():
            answer = httpx.get(server.url + path)
            assert answer.status_code == 200 and answer.content == content
            assert answer.headers["content-type"].startswith(kind)
            assert HEADERS.items() <= dict(answer.headers).items()
        # Beside the page nothing is open, nor does its folder show.
        for path in ("/v1/models", "/page/", "/page/__init__.py", "/page/%2e%2e/app.py"):
            assert httpx.get(server.url + path).status_code == 401
    sources = re.findall(r"[\w-]+ ([^;]+)", HEADERS["content-security-policy"])
    assert set(" ".join(sources).split()) == {"'none'", "'self'"}


def test_no_file_names_another_host():
    named = {host for text in TEXTS.values() for host in re.findall(r"//([\w\[]+(?:[.:-]\w+)*)", text)}
    assert named == {"www.w3.org", "127.0.0.1"}  # the name of SVG's language, and a message
    assert not re.search(
        r"@import|url\(|\bon\w+=|style=|<script>",
        "\n".join(text for path, text in TEXTS.items() if not path.endswith(".js")),
    )


def test_what_the_files_ask_of_each_other_is_there():
    tags = Tags().found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    asked = set(re.findall(r'\bat\("([\w-]+)"\)|querySelector\("#([\w-]+)"\)', SCRIPTS))
    assert asked and {a or b for a, b in asked} <= set(ids) and len(ids) == len(set(ids))
    linked = {attributes.get("src") or attributes.get("href") for _, attributes in tags} - {None}
    imported = {f"page/{name}" for name in re.findall(r'from "\./([\w.]+)"', SCRIPTS)}
    assert {f"/{path}" for path in linked | imported} == set(FILES) - {"/"}
    classes = {name for _, attributes in tags for name in attributes.get("class", "").split()}
    assert {name for name in re.findall(r'(?:find|say)\("\.?([a-z]+)"', SCRIPTS)} <= classes | {"h2"}


def test_whatever_is_pressed_or_filled_in_has_a_name():
    tags = Tags().found
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    wrapped = {"radio", "checkbox"}  # within their labels
    for tag, attributes in tags:
        if tag == "input" and "hidden" not in attributes and attributes["type"] not in wrapped:
            assert attributes.get("aria-label") or attributes["id"] in labelled
    assert ("html", {"lang": "en"}) in tags


# In a browser. What is waited for is asked of locators: the page's policy lets no text be run as a script.


@pytest.fixture(scope="module")
def browser():
    how = "to test the page in a browser, see CONTRIBUTING.md"
    playwright = pytest.importorskip("playwright.sync_api", reason=f"playwright is not installed; {how}")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(f"no chromium here; {how}")
    words = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=words)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a server's page; whatever it complained of, or asked of another host, fails the test at its end."""
    wrong, contexts = [], []

    def open_(server, width=1100, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(server.url) or wrong.append(request.url))
        page.goto(server.url)
        return page

    yield open_
    for context in contexts:
        context.close()
    # The browser says each answer that is no success, which some tests are after.
    assert [said for said in wrong if not said.startswith("Failed to load resource: the server responded")] == []


@pytest.fixture
def both(tiny_lm):
    """A server of two models: its page shows them side by side."""
    with running({"first": tiny_lm, "second": tiny_lm}) as server:
        yield server


def file(content, name="a.wav"):
    return {"name": name, "mimeType": "audio/wav", "buffer": content}


def done(page, count=2):
    """Waits until each model has written, and returns what stands there of each."""
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.locator(".state", has_text="done")).to_have_count(count, timeout=60_000)
    texts = page.locator(".segments").evaluate_all(
        "lists => lists.map(list => [...list.querySelectorAll('span')].map(said => said.textContent))"
    )
    page.locator("#run:not(:disabled)", has_text="Run").wait_for()
    return texts


def test_every_model_writes_of_a_sound(both, opened, tiny_lm):
    page, content = opened(both), wav(15)
    page.locator("#file").set_input_files(file(content, "<b>a.wav"))
    expected = [segment.text for segment in tiny_lm.transcribe(content).segments]
    assert len(expected) == 2 and done(page) == [expected, expected]
    assert page.locator("#name").inner_text() == "<b>a.wav"
    for name in ("ttft", "tpot", "memory"):
        for figure in page.locator(f"[data-figure={name}] dd").all_inner_texts():
            assert re.match(r"[\d.,]+\s(ms|s|kB|MB)", figure)
    # Times are held against each other where each had the machine to itself.
    assert page.locator("[data-figure=tpot] small").count() == 0
    page.locator("#in-turn").check()
    page.locator("#run").click()
    assert done(page) == [expected, expected] and page.locator("[data-figure=tpot] small").count() == 1

    page.get_by_text("Caption").click()
    page.locator("#run").click()
    captions = [segment.text for segment in tiny_lm.caption(content).segments]
    assert done(page) == [captions, captions]
    page.get_by_text("Ask", exact=True).click()
    assert page.locator("#run").is_disabled()
    page.locator("#question").fill("who?")
    page.locator("#question").press("Enter")
    answers = [segment.text for segment in tiny_lm.ask(content, "who?").segments]
    assert done(page) == [answers, answers] != [captions, captions]


def test_a_segment_plays_when_it_is_clicked(both, opened):
    page = opened(both)
    page.locator("#file").set_input_files(file(wav(15)))
    done(page)
    last = page.locator(".model").first.locator("li").last
    last.locator("span").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.locator("li.heard").first.wait_for()
    assert float(page.locator("#wave").get_attribute("aria-valuenow")) > 5
    last.get_by_role("button").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    assert page.locator("li.heard").count() == 0
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.model li span'))")
    last.get_by_role("button").press("Enter")
    page.get_by_role("button", name="Pause").wait_for()


def test_all_of_it_by_keyboard(both, opened):
    page = opened(both)
    page.on("filechooser", lambda chooser: None)  # from now on none is shown by the browser itself
    page.locator("#models article").first.wait_for()

    def tab():
        page.keyboard.press("Tab")
        return page.evaluate(
            "document.activeElement.id || document.activeElement.value || document.activeElement.tagName"
        )

    assert [tab() for _ in range(4)] == ["record", "choose", "transcribe", "in-turn"]  # others cannot be used yet
    page.locator("#choose").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file(wav(15)))
    done(page)
    page.evaluate("document.activeElement.blur()")
    page.locator("#wave").focus()
    for key, second in (("ArrowRight", "1.0"), ("End", "15.0"), ("PageDown", "5.0"), ("Home", "0.0")):
        page.keyboard.press(key)
        assert page.locator("#wave").get_attribute("aria-valuenow") == second
    assert page.locator("#wave").get_attribute("aria-valuetext") == "0:00 of 0:15"
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press(" ")
    assert [tab() for _ in range(4)] == ["play", "record", "choose", "transcribe"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tab() == "question"
    page.keyboard.type("who?")
    assert [tab(), tab()] == ["in-turn", "run"]
    page.keyboard.press(" ")
    done(page)
    assert tab() == "BUTTON"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pause").wait_for()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert "second: " in page.get_by_role("status").inner_text()


def test_a_recording_goes_as_wav(both, opened, monkeypatch):
    sent = []
    monkeypatch.setattr("student.serve.service.SoundBytes", lambda *of: sent.append(of[0]) or SoundBytes(*of))
    page = opened(both)
    page.locator("#models article").first.wait_for()
    page.get_by_role("button", name="Record").click()
    page.locator("#time", has_text="0:01").wait_for()
    assert page.locator("#play").is_disabled() and page.locator("#run").is_disabled()
    page.get_by_role("button", name="Stop").click()
    done(page)
    assert len(sent) == 2 and sent[0] == sent[1]
    wave, rate = soundfile.read(io.BytesIO(sent[0]))
    assert sent[0].startswith(b"RIFF") and rate == 16_000 and wave.ndim == 1 and abs(wave).max() > 0.05  # it beeps
    assert len(wave) / rate == pytest.approx(float(page.locator("#wave").get_attribute("aria-valuemax")), abs=0.1)
    assert len(wave) / rate > 0.9


def test_a_file_that_is_decoded_late_does_not_come_into_a_recording(fake, opened):
    with running({"fake": fake}) as server:
        page = opened(server)
        page.locator("#models article").wait_for()
        page.evaluate("""() => {
            const {prototype} = OfflineAudioContext;
            const decode = prototype.decodeAudioData;
            prototype.decodeAudioData = async function (content) {
                const buffer = await decode.call(this, content);
                await new Promise(resolve => window.go = resolve);
                return buffer;
            };
        }""")
        page.locator("#file").set_input_files(file(wav(2)))
        until(lambda: page.evaluate("'go' in window"))
        page.get_by_role("button", name="Record").click()
        page.get_by_role("button", name="Stop").wait_for()
        page.evaluate("go()")
        page.locator("#time", has_text="0:01").wait_for()
        assert page.locator("#name").inner_text() == "Recording" and not fake.batches
        assert page.locator("#play").is_disabled() and page.locator("#run").is_disabled()


def test_a_recording_that_fails_is_told_and_lets_the_microphone_go(fake, opened):
    with running({"fake": fake}, max_seconds=1) as server:
        page = opened(server)
        page.locator("#models article").wait_for()
        page.evaluate("""() => {
            const devices = navigator.mediaDevices;
            const ask = devices.getUserMedia.bind(devices);
            devices.getUserMedia = async asked => window.stream = await ask(asked);
            AudioContext.prototype.close = async () => { throw new Error("It does not close."); };
            window.Recorder = MediaRecorder;
            window.MediaRecorder = function () { throw new DOMException("", "NotSupportedError"); };
        }""")
        microphone = "stream.getTracks().map(track => track.readyState)"
        page.get_by_role("button", name="Record").click()
        page.get_by_role("alert").filter(has_text="This browser cannot record").wait_for()
        assert page.evaluate(microphone) == ["ended"]
        page.evaluate("() => { window.MediaRecorder = window.Recorder; }")
        page.get_by_role("button", name="Record").click()
        # The server's bound of a second ends it.
        page.get_by_role("alert").filter(has_text="It does not close.").wait_for()
        page.get_by_role("button", name="Record").wait_for()
        assert page.evaluate(microphone) == ["ended"]


def test_with_a_key(tiny_lm, opened):
    with running({"tiny": tiny_lm}, api_key="sécret") as server:
        page = opened(server)
        page.locator("#key").wait_for()
        assert page.locator("#choose").is_hidden()
        page.locator("#key").fill("another")
        page.locator("#key").press("Enter")
        page.get_by_role("alert").filter(has_text="not the server's key").wait_for()
        page.locator("#key").fill("sécret")
        page.get_by_role("button", name="Open").click()
        page.locator("#models article").wait_for()
        assert page.locator("#key").is_hidden() and page.get_by_role("alert").count() == 0
        page.locator("#file").set_input_files(file(wav(2)))
        assert done(page, 1)
        page.reload()
        page.locator("#models article").wait_for()
        assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_what_the_server_refuses_stands_there_in_its_words(fake, opened):
    with running({"fake": fake}, max_megabytes=1) as server:
        page = opened(server)
        page.locator("#models article").wait_for()
        drop = """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "a.txt"));
            window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));
        }"""
        page.evaluate(drop, "no sound")
        page.locator(".failed .note", has_text="sound: ").wait_for()
        page.get_by_text("This browser cannot play this file.").wait_for()
        page.evaluate("""() => {
            const read = Blob.prototype.arrayBuffer;
            window.reads = 0;
            Blob.prototype.arrayBuffer = function () { window.reads += 1; return read.call(this); };
        }""")
        page.evaluate(drop, "x" * 1_100_000)
        page.get_by_role("alert").filter(has_text="1.1 MB; this server takes").wait_for()
        assert page.evaluate("window.reads") == 0
        fake.fails = lambda stretch: stretch.start_s > 1
        page.locator("#file").set_input_files(file(wav(20)))
        page.locator(".failed .note", has_text="the server could not do this").wait_for()
        assert page.locator(".segments span").all_inner_texts() != []
        server.service.places.count = 0
        page.locator("#run").click()
        page.locator(".failed .note", has_text="requests wait already").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_narrow_window(both, opened, scheme):
    page = opened(both, width=360, scheme=scheme)
    page.locator("#file").set_input_files(file(wav(15), f"{'long' * 20}.wav"))
    done(page)
    page.get_by_text("Ask", exact=True).click()
    page.evaluate("for (const hidden of document.querySelectorAll('[hidden]:not(#file)')) hidden.hidden = false")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(CONTRASTS) == []


CONTRASTS = """() => {
    const ink = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const light = colour => {
        ink.fillStyle = colour;
        ink.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...ink.getImageData(0, 0, 1, 1).data].map(value => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        const own = getComputedStyle(element).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : own;
    };
    return [...document.querySelectorAll("body *")]
        .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
        .filter(element => element.checkVisibility() && !element.disabled)
        .map(element => {
            const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
            return [element.className || element.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        })
        .filter(([, ratio]) => ratio < 4.5);
}"""
"""Texts that stand out less than WCAG's AA asks for."""


def test_a_page_of_another_origin_gives_the_server_no_work(browser, fake):
    """It can send a form and plain text without the server's leave; only its answer is hidden from it."""
    send = """async ([url, content]) => {
      const form = new FormData();
      form.append("model", "fake");
      form.append("file", new Blob([Uint8Array.from(content)]), "a.wav");
      const sent = [["/v1/audio/transcriptions", form], ["/v1/chat/completions", "{}"]];
      for (const [path, body] of sent) await fetch(url + path, { method: "POST", mode: "no-cors", body });
    }"""
    with running({"fake": fake}) as server, running({"fake": fake}) as other:
        page = browser.new_page()
        page.goto(f"{other.url}/health")
        page.evaluate(send, [server.url, list(wav(1))])
        page.close()
        told = httpx.get(f"{server.url}/metrics").text.splitlines()
        for path in ("/v1/audio/transcriptions", "/v1/chat/completions"):
            assert f'salmonn_requests_total{{route="{path}",status="403"}} 1.0' in told
    assert not fake.batches
