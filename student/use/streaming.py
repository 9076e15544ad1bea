"""Text while it is written: what is handed on is never taken back, also where the text is stopped for going in circles.

Its last word is held back until the next one begins, and tokens that repeat others until it is clear why they do.
"""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from student.use.guards import Stops, repeated

_NO_SPACES = 0x2E80
"""From this character on are the scripts that are written without spaces between words."""


class TextStreamer(BaseStreamer):
    """Takes ids of one text from `generate` and says what is new.

    Args:
        decode: Ids to text.
        end: The end symbol.
        say: Gets each new part of the text.
    """

    def __init__(self, decode: Callable[[list[int]], str], end: int, say: Callable[[str], None]) -> None:
        self._decode, self._end, self._say = decode, end, say
        self._ids: list[int] = []
        self.said = ""

    def put(self, value: Tensor) -> None:
        """Takes further ids; the first ones are those of the prompt, of which there are none."""
        self._ids += value.flatten().tolist()
        if self._end not in self._ids:
            settled = len(self._ids) - max(repeated(self._ids).values(), default=0)
            self.say(_whole_words(self._decode(self._ids[:settled])))

    def end(self) -> None:
        """The rest is said by who knows the whole text."""

    def say(self, text: str) -> None:
        """Says what of a text was not said yet."""
        if len(text) > len(self.said) and text.startswith(self.said):
            self._say(text[len(self.said) :])
            self.said = text


def _whole_words(text: str) -> str:
    """A text without its last word, which may go on, and the space before it."""
    text = text.rstrip("\ufffd")
    if text and ord(text[-1]) >= _NO_SPACES:
        return text
    return text[: max(text.rfind(" "), 0)].rstrip()


def pumped(work: Callable[[Callable[[object], None], Stops], None]) -> Iterator[object]:
    """What a function in a thread of its own hands on, as it comes; left early, it is told to stop, and waited for.

    Raises:
        Exception: What the function raises.
    """
    queue, stops, done = SimpleQueue(), Stops(), object()

    def run() -> None:
        try:
            work(queue.put, stops)
            queue.put((done, None))
        except BaseException as error:
            queue.put((done, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, tuple) and item[0] is done:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        stops.now = True
        thread.join()
