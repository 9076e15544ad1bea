"""The page of what is in the data: tables, pictures, and some clips to listen to."""

import io
from collections import Counter

import numpy as np
import soundfile

from data.errors import InputError
from data.look.gathering import Entry, Look
from data.look.html import Html, heading, image, page, paragraph, player, table
from data.look.plots import MOST
from data.sound.audio import SAMPLE_RATE, load_audio

_MOST_WORDS = 25
_HEARD_S = 10

_CAPTIONS = {
    "amounts.png": "Rows and hours by corpus and task",
    "durations_by_corpus.png": "Clips' lengths by corpus",
    "durations_by_task.png": "Clips' lengths by task",
    "words_by_corpus.png": "Texts' lengths by corpus",
    "words_by_task.png": "Texts' lengths by task",
}


def look_page(title: str, look: Look, pictures: dict[str, bytes]) -> str:
    """The whole page."""
    rows = sum(len(group.words) for group in look.groups.values())
    hours = sum(look.file_s.values()) / 3600
    parts = [
        paragraph(
            f"{rows:,} rows over {sum(look.files.values()):,} sound files of {hours:,.2f} hours. In the histograms the "
            "orange line is the median, and the last bar holds all that is longer; a picture has the "
            f"{MOST} corpora or tasks with the most rows."
        ),
        heading("Corpora and tasks"),
        _groups(look),
    ]
    for name, png in pictures.items():
        parts += [heading(_CAPTIONS[name]), image(png, _CAPTIONS[name])]
    parts += [heading("Formats, rates and channels"), _formats(look)]
    parts += [heading("Vocabulary"), *_vocabulary(look)]
    parts += [heading("Samples"), *_samples(look)]
    return page(title, *parts)


def _groups(look: Look) -> Html:
    header = ["corpus", "task", "rows", "hours", "mean, s", "median, s", "longest, s", "under 1 s", "over 30 s"]
    header += ["mean words", "most words", "without text"]
    lines = []
    for (corpus, task), group in look.groups.items():
        seconds = np.frombuffer(group.durations_s, np.float32).astype(float)
        words = np.frombuffer(group.words, np.uint32)
        line = [corpus, task, len(seconds), seconds.sum() / 3600, seconds.mean(), float(np.median(seconds))]
        line += [seconds.max(), int((seconds < 1).sum()), int((seconds > 30).sum())]
        lines.append([*line, words.mean(), int(words.max()), group.textless])
    return table(header, lines)


def _formats(look: Look) -> Html:
    lines = [[suffix, rate, channels, count] for (suffix, rate, channels), count in look.formats.most_common()]
    return table(["format", "rate, Hz", "channels", "files"], lines)


def _vocabulary(look: Look) -> list[Html]:
    tasks: dict[str, Counter[str]] = {}
    for (_, task), group in look.groups.items():
        tasks.setdefault(task, Counter()).update(group.vocabulary)
    lines, common = [], []
    for task, words in tasks.items():
        counts = np.array(sorted(words.values(), reverse=True) or [0])
        said = int(counts.sum())
        share = 100 * counts[:1000].sum() / max(said, 1)
        lines.append([task, said, len(words), int((counts == 1).sum()), float(share)])
        common.append([task, ", ".join(f"{word} ({count:,})" for word, count in words.most_common(_MOST_WORDS))])
    header = ["task", "words", "different ones", "of them seen once", "the 1,000 most common make up, %"]
    return [table(header, lines), table(["task", "the most common words"], common)]


def _samples(look: Look) -> list[Html]:
    lines = []
    for (corpus, task), entries in look.samples.items():
        for entry in entries:
            sound = _heard(entry)
            lines.append([corpus, task, sound, entry.text or "(no text)"])
    about = paragraph(f"The first {_HEARD_S} s of some clips, drawn by a hash of their ids.")
    return [about, table(["corpus", "task", "clip", "text"], lines)]


def _heard(entry: Entry) -> str:
    try:
        samples = load_audio(entry.sound, start_s=entry.start_s, end_s=entry.end_s)[: _HEARD_S * SAMPLE_RATE]
    except InputError as error:
        return str(error)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="MP3")
    return player(buffer.getvalue())
