"""Hears sound files and writes what is said or heard in them, with numpy, onnxruntime, llama-cpp-python and soundfile.

python run.py FILE... [--task transcribe|caption|ask] [--question Q] [--format text|json] [--beams N] [--threads N]

This one file is all the code; what it reads lies beside it: settings.json, mel_filters.npy, audio.onnx, llm.gguf.
From Python: `DeviceLM(folder).transcribe("a.wav")`.

Letters: M mel bins, T frames of 10 ms, W audio tokens, H width of the language model, V vocabulary.
"""

import argparse
import ctypes
import io
import json
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from math import ceil, gcd
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

try:
    import llama_cpp
except ImportError:
    llama_cpp = None
else:
    _SILENT = llama_cpp.llama_log_callback(lambda level, text, _: None)  # held here: C keeps where it lies

INSTALL = 'pip install numpy "onnxruntime>=1.22" "llama-cpp-python>=0.3.36,<0.4" soundfile'
RATE, FFT, HOP, WINDOW_S = 16_000, 400, 160, 30
SILENT = 1e-3
"""Amplitude (-60 dB of full scale) that nothing in silence exceeds."""
LEAST_S, LOUDEST, RATES, MOST_CHANNELS = 0.025, 10.0, (1_000, 768_000), 64
"""Seconds, amplitude (1 is full scale), samples a second and channels that a sound has."""
BLOCK_S, BLOCK_VALUES = 10, 1 << 22
"""What is read of a file at once, at most: seconds, and frames x channels."""
MOST_BEAMS = 127
"""llama.cpp has 256 rows: one for the prompt, two for each beam."""
QUESTION = "{}"


class InputError(Exception):
    """Something that was given is wrong, in one line."""


def resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Mono blocks at 16 kHz, by a windowed sinc of 32 zero crossings on either side."""
    if rate == RATE:
        yield from blocks
        return
    up, down = RATE // gcd(RATE, rate), rate // gcd(RATE, rate)
    half = ceil(32 * max(1.0, down / up))
    edge = 0.95 * min(1.0, up / down)
    apart = np.arange(up)[:, None] / up - np.arange(1 - half, half + 1)
    window = np.i0(8 * np.sqrt(np.maximum(1 - (apart / half) ** 2, 0))) / np.i0(8.0)
    table = (edge * np.sinc(edge * apart) * window).astype(np.float32)
    held, begin, made, read = np.zeros(half, np.float32), -half, 0, 0

    def until(end: int) -> np.ndarray:
        parts = []
        for first in range(made, end, 4096):
            place = np.arange(first, min(first + 4096, end)) * down
            taps = (place // up - begin)[:, None] + np.arange(1 - half, half + 1)
            parts.append(np.einsum("nt,nt->n", held[taps], table[place % up]))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    for block in blocks:
        held, read = np.concatenate([held, block]), read + len(block)
        end = max((read - half) * up // down, made)
        yield until(end)
        made = end
        done = made * down // up - half - begin
        held, begin = held[done:], begin + done
    held = np.concatenate([held, np.zeros(half + 1, np.float32)])
    yield until(ceil(read * up / down))


def mono(blocks: Iterator[np.ndarray], mix: bool, rate: int, name: str) -> Iterator[np.ndarray]:
    """Blocks as the one channel that is heard.

    Raises:
        InputError: They hold no sound, or what cannot be one.
    """
    frames, silent, others = 0, True, False
    for block in blocks:
        part = block.mean(1) if mix else block[:, 0]
        if not (np.abs(part) <= LOUDEST).all():  # nor is NaN
            raise InputError(f"{name}: samples are no numbers, or over {LOUDEST:g} times full scale; write it anew")
        frames, silent, others = frames + len(part), silent and not part.any(), others or bool(block.any())
        yield part
    if frames < LEAST_S * rate:
        raise InputError(
            f"{name}: {1000 * frames / rate:.3g} ms of sound, less than one frame of {1000 * LEAST_S:g} ms"
        )
    if silent and others:
        raise InputError(f"{name}: silent on the first channel alone, which is the one that is heard; make it mono")


def read_sound(path: str, mix: bool) -> Iterator[np.ndarray]:
    """A file's samples at 16 kHz, mono, some seconds at a time; `-` is standard input.

    Raises:
        InputError: It cannot be read, or see `mono`.
    """
    try:
        # Opened by its number: libsndfile would believe a name that ends in .raw.
        how = os.O_RDONLY | getattr(os, "O_BINARY", 0)
        source = io.BytesIO(sys.stdin.buffer.read()) if path == "-" else os.fdopen(os.open(path, how), "rb")
        with source, soundfile.SoundFile(source) as file:
            rate, channels = file.samplerate, file.channels
            if not RATES[0] <= rate <= RATES[1]:
                raise InputError(f"{path}: {rate:,} samples a second; a sound has {RATES[0]:,} to {RATES[1]:,}")
            if channels > MOST_CHANNELS:
                raise InputError(f"{path}: {channels} channels; a sound has at most {MOST_CHANNELS}")
            frames = min(BLOCK_S * rate, BLOCK_VALUES // channels)
            yield from resampled(mono(file.blocks(frames, dtype="float32", always_2d=True), mix, rate, path), rate)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: no sound that can be read here ({error})") from None


def stretches(blocks: Iterator[np.ndarray], longest_s: float, speech: bool) -> Iterator[tuple[float, np.ndarray]]:
    """A sound in parts that are heard at once, with their beginnings in seconds.

    Speech is cut where it is least loud in the second half of what fits, all else into windows of one length.
    """
    limit, wave, first = int(longest_s * RATE), np.zeros(0, np.float32), 0

    def length() -> int:
        if not speech:
            return limit if len(wave) >= 2 * limit else -(-len(wave) // 2)
        frame, low = RATE // 50, limit // 2
        power = np.square(wave[low:limit][: (limit - low) // frame * frame]).reshape(-1, frame).mean(1)
        return low + frame * int(np.argmin(np.convolve(power, np.ones(9), mode="same")[4:-4]) + 4) + frame // 2

    for block in blocks:
        wave = np.concatenate([wave, block])
        while len(wave) > 2 * limit:
            count = length()
            yield first / RATE, wave[:count]
            wave, first = wave[count:], first + count
    while len(wave) > limit:
        count = length()
        yield first / RATE, wave[:count]
        wave, first = wave[count:], first + count
    if len(wave):
        yield first / RATE, wave


def log_mel(wave: np.ndarray, filters: np.ndarray, margin_s: float | None) -> np.ndarray:
    """Whisper's log-mel spectrogram (M, T) of a clip with a margin of silence, or in 30 s; T is even."""
    limit = WINDOW_S * RATE
    padded = limit if margin_s is None else min(len(wave) + round(margin_s * RATE), limit)
    samples = np.zeros(max(padded // (2 * HOP), 1) * 2 * HOP, np.float32)
    kept = min(len(wave), len(samples))
    samples[:kept] = wave[:kept]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, FFT // 2, mode="reflect"), FFT)[::HOP][:-1]
    bins = np.fft.rfft(frames * window, axis=1)
    power = (np.square(bins.real) + np.square(bins.imag)).astype(np.float32)
    spectrum = np.log10(np.maximum(filters @ power.T, 1e-10))
    return (np.maximum(spectrum, spectrum.max() - 8.0) + 4.0) / 4.0


def circling(ids: Sequence[int]) -> int:
    """How many tokens at the end of a text only repeat what stands before them: three times it, and twelve or more."""
    most = 0
    for length in range(1, min(40, len(ids) - 1) + 1):
        count = 0
        while count + length < len(ids) and ids[-1 - count] == ids[-1 - count - length]:
            count += 1
        if count >= max(3 * length, 12):
            most = max(most, count)
    return most


def _free(context: int | None, model: int) -> None:
    if context:
        llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


class LLM:
    """The language model in llama.cpp, which reads tokens and embeddings one after the other.

    Its memory is freed by `close()`, or when nobody holds it any more.

    Args:
        path: The GGUF file.
        context: Most positions of a prompt with its text.
        threads: How many.
        beams: Texts that are written beside each other.
    """

    def __init__(self, path: Path, context: int, threads: int, beams: int = 1) -> None:
        if llama_cpp is None:
            raise InputError(f"llama_cpp: not installed; {INSTALL}")
        options = llama_cpp.llama_context_default_params()
        if not hasattr(options, "kv_unified"):
            raise InputError(f"llama_cpp: of another version; {INSTALL}")
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise InputError(f"{path}: not a language model that this llama.cpp reads; export it again")
        options.n_ctx = options.n_batch = context
        options.n_ubatch, options.n_seq_max, options.kv_unified = min(context, 256), 2 * beams + 1, True
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, options)
        self.close = weakref.finalize(self, _free, self.context, model)
        if not self.context:
            self.close()
            raise InputError(f"{path}: no memory for {context} positions; take fewer --beams, or close other programs")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)

    def read(self, given: Sequence[int] | np.ndarray, first: int, rows: Sequence[int] = (0,), answer: bool = True):
        """Reads on: token ids, or embeddings (W, H), from position `first`.

        Args:
            given: With several rows one token for each; else of row 0.
            first: Its place in the text.
            rows: Which text each token belongs to.
            answer: Whether what comes next is asked for.

        Returns:
            Logits (rows, V) after the last position of each row; None without an answer.
        """
        count = len(given)
        batch, asked = llama_cpp.llama_batch(n_tokens=count), np.zeros(count, np.int8)
        if isinstance(given, np.ndarray):
            data = np.ascontiguousarray(given, np.float32)
            batch.embd = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        else:
            data = np.array(given, np.int32)
            batch.token = data.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        together = len(rows) > 1
        place = np.full(count, first, np.int32) if together else np.arange(first, first + count, dtype=np.int32)
        owners = [(ctypes.c_int32 * 1)(row) for row in (rows if together else [rows[0]] * count)]
        ones = np.ones(count, np.int32)
        batch.pos = place.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.n_seq_id = ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.seq_id = (ctypes.POINTER(ctypes.c_int32) * count)(*[ctypes.cast(of, type(batch.pos)) for of in owners])
        asked[(slice(None) if together else slice(count - 1, None))] = answer
        batch.logits = asked.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if status := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama.cpp could not read {count} positions from {first} on (status {status})")
        if not answer:
            return None
        found = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(found, (len(rows), self.size))

    def forget(self, first: int = 0, row: int = -1) -> None:
        """Forgets what a row has read from a position on; all rows, if none is named."""
        llama_cpp.llama_memory_seq_rm(self.memory, row, first, -1)

    def copy(self, row: int, to: int) -> None:
        """Lets another row have read what a row has read."""
        llama_cpp.llama_memory_seq_cp(self.memory, row, to, -1, -1)

    def ids(self, text: str, special: bool) -> list[int]:
        """A text's token ids; `special`: whether what reads like a special token is one."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), room, len(room), False, special)
        return list(room[:count])

    def specials(self, ids: Sequence[int]) -> int:
        """How many of these are special tokens."""
        return sum(llama_cpp.llama_vocab_is_control(self.vocabulary, i) for i in ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        found, room = b"", ctypes.create_string_buffer(512)
        for i in ids:
            count = llama_cpp.llama_token_to_piece(self.vocabulary, i, room, len(room), 0, False)
            found += room.raw[: max(count, 0)]
        return found.decode("utf-8", "replace")


class DeviceLM:
    """Hears sounds and writes; frees its memory at the end of a `with`, by `close()`, or when nobody holds it.

    Args:
        folder: Of the package; where this file lies, if none is named.
        threads: As many as there are processors, if not given.
        beams: As the settings say, if not given; 1 is greedy.
        guarded: Whether silence has no text, and one that goes in circles ends; models are scored without.

    Raises:
        InputError: It is no such folder, or there are no such threads or beams.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        threads: int | None = None,
        beams: int | None = None,
        guarded: bool = True,
    ) -> None:
        folder = Path(folder or Path(__file__).parent)
        if threads is not None and threads < 1:
            raise InputError(f"--threads {threads}: give 1 or more")
        try:
            self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            if self.settings["format"] != 1:
                raise ValueError("of another version")
            self.filters = np.load(folder / "mel_filters.npy")
            self.beams = self.settings["num_beams"] if beams is None else beams
            tasks = self.settings["tasks"].values()
            texts = max(len(task["before"]) + len(task["after"]) + task["max_new_tokens"] for task in tasks)
            self.room = self.slots(WINDOW_S * RATE, 100 * WINDOW_S) + texts * self.beams + 512
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise InputError(f"{folder}: no device package ({why}); write one with scripts/export.py") from None
        if not 1 <= self.beams <= MOST_BEAMS:
            raise InputError(f"--beams {self.beams}: give 1 to {MOST_BEAMS}")
        threads = threads or os.cpu_count() or 1
        self.guarded = guarded
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = False  # which keeps what the longest clip took
        # Its threads would go on to look for work while llama.cpp's want the processors.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = folder / "audio.onnx"
        try:
            self.hearing = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have nothing in common
            why = " ".join(str(error).split())
            raise InputError(
                f"{path}: this onnxruntime cannot read it ({why}); export it again, or {INSTALL}"
            ) from None
        self.llm = LLM(folder / "llm.gguf", self.room, threads, self.beams)
        self._kept: list[int] = []

    def close(self) -> None:
        """Frees the memory; nothing can be heard any more."""
        if self.llm:
            self.llm.close()
        self.llm = self.hearing = None

    def __enter__(self) -> "DeviceLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transcribe(self, sound: str) -> dict:
        """What is said: `text`, `segments` with their times and flags."""
        return self.result(sound, "transcribe")

    def caption(self, sound: str) -> dict:
        """What is heard."""
        return self.result(sound, "caption")

    def ask(self, sound: str, question: str) -> dict:
        """The answer to a question about a sound."""
        return self.result(sound, "ask", question)

    def result(self, sound: str, task: str, question: str = "") -> dict:
        """A sound's text.

        Raises:
            InputError: The sound cannot be read, the model has not learnt the task, or the question is too long.
        """
        before, after = self.prompt(task, question)
        use, segments, end = self.settings["tasks"][task], [], 0.0
        for start, wave in stretches(read_sound(sound, self.settings["mix"]), use["longest_s"], task == "transcribe"):
            end = start + len(wave) / RATE
            text, flags = self.write(wave, before, after, self.cap(use, len(wave) / RATE))
            segments.append({"start_s": round(start, 3), "end_s": round(end, 3), "text": text, "flags": flags})
        joined = (" " if task == "transcribe" else "\n").join(of["text"] for of in segments if of["text"])
        return {"text": joined, "seconds": round(end, 3), "segments": segments}

    def cap(self, use: dict, seconds: float) -> int:
        """Most tokens of a text about a clip."""
        pace, seconds = use["tokens_per_second"], max(seconds, 1.0)
        return use["max_new_tokens"] if pace is None else min(use["max_new_tokens"], 10 + int(pace * seconds))

    def prompt(self, task: str, question: str = "") -> tuple[list[int], list[int]]:
        """The ids before the audio tokens and after them.

        Raises:
            InputError: The model has not learnt the task, or the question is too long, missing, or not asked for.
        """
        use = self.settings["tasks"].get(task)
        if use is None:
            raise InputError(f"{task}: the model has not learnt this; it can {', '.join(self.settings['tasks'])}")
        if (QUESTION in use["instruction"]) != bool(question.strip()):
            raise InputError("--question: goes with --task ask, which needs one, such as --question 'what is heard?'")
        if QUESTION not in use["instruction"]:
            before, after = use["before"], use["after"]
        else:
            try:
                question.encode()
            except UnicodeEncodeError:
                raise InputError("--question: not in UTF-8; write it in that") from None
            before, after = self.around(use["instruction"].replace(QUESTION, question.strip()))
        self.require_room(before, after, use["max_new_tokens"])
        return before, after

    def around(self, told: str) -> tuple[list[int], list[int]]:
        """As `prompt`, of any instruction."""
        before, after = (self._piece(piece, told) for piece in self.settings["pieces"])
        return self.settings["begin"] + before, after

    def _piece(self, piece: str, told: str) -> list[int]:
        """A piece of the prompt: special tokens in it are such, those in what a person wrote are plain text."""
        parts = [self.llm.ids(part, special=True) for part in piece.split(QUESTION)]
        whole = self.llm.ids(piece.replace(QUESTION, told), special=True)
        if self.llm.specials(whole) == sum(map(self.llm.specials, parts)):
            return whole
        inside = self.llm.ids(told, special=False)
        return parts[0] + [i for part in parts[1:] for i in (*inside, *part)]

    def slots(self, samples: int, mel_frames: int) -> int:
        """Audio tokens of a clip."""
        audio = self.settings["audio"]
        window, stride, frames = audio["window_frames"], audio["window_stride"], (mel_frames + 1) // 2
        if audio["margin_s"] is None and not audio["reference_padding"]:
            heard = (-(-samples // HOP) + 1) // 2
            frames = min(frames, window + max(-(-(heard - window) // stride), 0) * stride)
        return max((frames - window) // stride + 1, 1)

    def features(self, wave: np.ndarray) -> np.ndarray:
        """Log-mel (1, M, T) of a clip of 1 to 30 s."""
        return log_mel(wave, self.filters, self.settings["audio"]["margin_s"])[None]

    def audio_tokens(self, mel: np.ndarray, samples: int) -> np.ndarray:
        """Audio tokens (W, H) of a clip."""
        return self.hearing.run(None, {"mel": mel})[0][: self.slots(samples, mel.shape[2])]

    def prefill(self, before: list[int], audio: np.ndarray, after: list[int]) -> tuple[np.ndarray, int]:
        """Reads a prompt; what stood before the sound in the last one too is remembered.

        Returns:
            Logits (1, V) of the first token, and the position that it will have.
        """
        place = len(before)
        if before and self._kept == before:
            self.llm.forget(place)
        else:
            self._kept = []  # if this is interrupted, nothing is
            self.llm.forget()
            if before:
                self.llm.read(before, 0, answer=False)
            self._kept = before
        logits = self.llm.read(audio, place, answer=not after)
        place += len(audio)
        return (self.llm.read(after, place) if after else logits), place + len(after)

    def require_room(self, before: list[int], after: list[int], cap: int) -> None:
        """Refuses a prompt that leaves no room for the longest sound and its text: llama.cpp would end the process.

        Raises:
            InputError: It does.
        """
        longest = self.slots(WINDOW_S * RATE, 100 * WINDOW_S)
        over = len(before) + longest + len(after) + self.beams * cap - self.room
        if over > 0:
            raise InputError(f"--question: too long by {over} tokens; shorten it")

    def write(self, wave: np.ndarray, before: list[int], after: list[int], cap: int) -> tuple[str, list[str]]:
        """A clip's text, and its flags: silence, repeats (it went in circles), cut (it was longer than `cap`)."""
        self.require_room(before, after, cap)
        if not len(wave) or (self.guarded and np.abs(wave).max() <= SILENT):
            return "", ["silence"]
        wave = np.pad(wave, (0, max(0, RATE - len(wave))))
        logits, place = self.prefill(before, self.audio_tokens(self.features(wave), len(wave)), after)
        ids = self.greedy(logits, place, cap) if self.beams == 1 else self.search(logits, place, cap)
        if ids and ids[-1] == self.settings["end"]:
            return self.said(ids[:-1]), []
        again = self.circling(ids)
        return self.said(ids[: len(ids) - again]), ["repeats" if again else "cut"]

    def circling(self, ids: list[int]) -> int:
        """How many tokens of a text are too many, where that is looked at."""
        return circling(ids) if self.guarded else 0

    def said(self, ids: list[int]) -> str:
        """The text of ids."""
        return self.llm.text(ids).strip().lower()

    def greedy(self, logits: np.ndarray, place: int, cap: int) -> list[int]:
        """The most probable token, one after the other, up to the end symbol."""
        ids: list[int] = []
        while True:
            ids.append(int(np.argmax(logits[0])))
            if ids[-1] == self.settings["end"] or len(ids) >= cap or self.circling(ids):
                return ids
            logits = self.llm.read(ids[-1:], place + len(ids) - 1)

    def search(self, logits: np.ndarray, place: int, cap: int) -> list[int]:
        """Beam search, as transformers does it: the best text by its mean log-probability.

        Row 0 has the prompt; the beams lie in one half of the other rows, and go on in the other half.
        """
        rows, others = [0], list(range(1, self.beams + 1))
        spare = list(range(self.beams + 1, 2 * self.beams + 1))
        texts, scores_R, ended = [[]], np.zeros(1), []
        while True:
            logp_RV = logits - logits.max(1, keepdims=True).astype(np.float64)
            logp_RV -= np.log(np.exp(logp_RV).sum(1, keepdims=True))
            total = (scores_R[:, None] + logp_RV).ravel()
            best = np.argpartition(total, -2 * self.beams)[-2 * self.beams :]
            found = [(total[i], i // self.llm.size, [*texts[i // self.llm.size], i % self.llm.size]) for i in best]
            found.sort(key=lambda one: -one[0])
            over = [ids[-1] == self.settings["end"] or len(ids) >= cap or self.circling(ids) > 0 for *_, ids in found]
            ended += [
                (of[0] / len(of[2]), of[2])
                for of, is_over in list(zip(found, over, strict=True))[: self.beams]
                if is_over
            ]
            ended = sorted(ended, key=lambda one: -one[0])[: self.beams]
            going = [of for of, is_over in zip(found, over, strict=True) if not is_over][: self.beams]
            done = len(ended) == self.beams and (not going or going[0][0] / len(going[0][2]) <= ended[-1][0])
            if done or len(texts[0]) + 1 >= cap:
                for row in range(1, 2 * self.beams + 1):
                    self.llm.forget(row=row)
                return [int(i) for i in ended[0][1]]
            for row, (_, parent, _) in zip(others, going, strict=False):
                self.llm.copy(rows[parent], row)
            for row in rows:
                if row:
                    self.llm.forget(row=row)
            rows, others, spare = others[: len(going)], spare, others
            texts, scores_R = [ids for *_, ids in going], np.array([score for score, *_ in going])
            logits = self.llm.read([ids[-1] for ids in texts], place + len(texts[0]) - 1, rows)


def write_all(model: DeviceLM, arguments: argparse.Namespace) -> int:
    """Writes the texts of all sounds; one that cannot be heard is told in a line, and the others go on.

    Returns:
        The exit status: 2 where a sound could not be heard.

    Raises:
        InputError: What is asked is wrong for any sound.
    """
    model.prompt(arguments.task, arguments.question)
    status, several = 0, len(arguments.files) > 1
    for name in arguments.files:
        try:
            result = model.result(name, arguments.task, arguments.question)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = 2
            continue
        if arguments.format == "json":
            print(json.dumps({"file": name} | result, ensure_ascii=False), flush=True)
        else:
            print(f"{name}\t{' '.join(result['text'].split())}" if several else result["text"], flush=True)
    return status


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="sound files; - is standard input")
    parser.add_argument("--task", choices=("transcribe", "caption", "ask"), default="transcribe")
    parser.add_argument("--question", default="", help="what --task ask asks")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--beams", type=int, help="texts that are searched beside each other; 1 is greedy")
    parser.add_argument("--threads", type=int, help="as many as there are processors, if not given")
    parser.add_argument("--model", help="the package's folder; the one that this file lies in, if not given")
    arguments = parser.parse_intermixed_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding
    try:
        with DeviceLM(arguments.model, arguments.threads, arguments.beams) as model:
            sys.exit(write_all(model, arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
