"""What a server counts, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kept = {"registry": self._registry}
        self.requests = Counter("salmonn_requests", "Requests that were answered.", ["route", "status"], **kept)
        self.latency = Histogram(
            "salmonn_request_seconds", "From a request's head to its last byte.", ["route"], buckets=_SECONDS, **kept
        )
        self.first_token = Histogram(
            "salmonn_first_token_seconds",
            "From a request's head to the first token of its text.",
            ["model"],
            buckets=_SECONDS,
            **kept,
        )
        self.sound = Counter("salmonn_sound_seconds", "Sound that a model heard.", ["model"], **kept)
        self.batch = Histogram("salmonn_batch_size", "Stretches of a batch.", ["model"], buckets=_SIZES, **kept)
        self._queue = Gauge("salmonn_queue_length", "Requests that are read, wait or are written.", **kept)
        self._waiting = Gauge("salmonn_waiting_stretches", "Stretches of sound that wait.", ["model"], **kept)

    def queue_is(self, length: Callable[[], float]) -> None:
        """How the length of the queue is found when somebody asks."""
        self._queue.set_function(length)

    def waiting_is(self, model: str, count: Callable[[], float]) -> None:
        """Likewise the stretches that wait for a model."""
        self._waiting.labels(model).set_function(count)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
