"""How much sound a running server (scripts/serve.py) hears a second, of one client and of several at once.

    python scripts/bench.py serving SOUND --model kd_mini [--url http://127.0.0.1:8000] [--clients 8] [--seconds 60]

Each client sends the sound again as soon as it has its transcript. Writes results/serving.md and results/serving.json.
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from data.errors import InputError
from data.sound.stream import seconds_of
from distill.report.table import markdown, write_measured


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sound", type=Path, help="a sound file")
    parser.add_argument("--model", required=True, help="the model's name there")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server is")
    parser.add_argument("--api-key", default="none", help="what it asks for")
    parser.add_argument("--clients", type=int, default=8, help="clients at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of each of the two measurements")
    parser.add_argument("--out", type=Path, default=Path("results/serving.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    sound_s, content = seconds_of(arguments.sound), arguments.sound.read_bytes()

    def load(clients: int) -> dict:
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            of_each = list(pool.map(lambda _: _client(arguments, content, began + arguments.seconds), range(clients)))
        return {"wall_s": time.monotonic() - began, "times_s": [s for times, _ in of_each for s in times]} | {
            "failed": sum(failed for _, failed in of_each)
        }

    _client(arguments, content, 0)  # the first one warms up
    loads = {str(clients): load(clients) for clients in (1, arguments.clients)}
    measured = {"sound_s": sound_s, "cores": os.cpu_count(), "loads": loads}
    write_measured(arguments.out, measured, page(measured))


def _client(arguments: argparse.Namespace, content: bytes, until: float) -> tuple[list[float], int]:
    """Seconds of each answer, and how many requests had another one than a transcript; at least one is sent."""
    times, failed = [], 0
    head = {"authorization": f"Bearer {arguments.api_key}"}
    with httpx.Client(base_url=arguments.url, headers=head, timeout=600) as client:
        while not (times or failed) or time.monotonic() < until:
            began = time.monotonic()
            form = {"data": {"model": arguments.model}, "files": {"file": content}}
            try:
                answer = client.post("/v1/audio/transcriptions", **form)
            except httpx.HTTPError as error:
                raise InputError(f"{arguments.url}: {error}; start scripts/serve.py first") from None
            if answer.status_code == 200:
                times.append(time.monotonic() - began)
            else:
                failed += 1
                time.sleep(float(answer.headers.get("retry-after", 0.1)))
    return times, failed


def page(measured: dict) -> str:
    """The table, for people."""
    lines, alone = [], None
    for clients, load in measured["loads"].items():
        rate = measured["sound_s"] * len(load["times_s"]) / load["wall_s"]
        alone = rate if alone is None else alone
        half, most = np.quantile(load["times_s"] or [np.nan], [0.5, 0.95])
        figures = [f"{rate:.2f}", f"{rate / alone:.2f} x" if alone else "–", f"{half:.2f}", f"{most:.2f}"]
        lines.append([clients, f"{len(load['times_s']):,}", str(load["failed"]), *figures])
    header = ["clients", "transcripts", "refused or failed", "sound heard, s/s", "against one", "median, s", "95 %, s"]
    return (
        f"# Serving\n\nOne sound of {measured['sound_s']:.1f} s again and again, on {measured['cores']} cores, which "
        f"the clients share. `python scripts/bench.py serving`\n\n{markdown(header, lines)}\n"
    )
