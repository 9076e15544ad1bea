"""An unmodified llama.cpp with sounds, by the libraries inside llama-cpp-python."""

import ctypes
from pathlib import Path

import numpy as np


class Mtmd:
    """An LLM and what is before it, from `llm.gguf` and `mmproj.gguf`.

    Args:
        folder: Theirs.
        context: Most positions.
        threads: How many.
    """

    def __init__(self, folder: Path, context: int = 512, threads: int = 1) -> None:
        import llama_cpp
        from llama_cpp import mtmd_cpp

        self.llama, self.mtmd, self.size = llama_cpp, mtmd_cpp, context
        self._silent = llama_cpp.llama_log_callback(lambda level, text, _: None)
        for quiet in (llama_cpp.llama_log_set, mtmd_cpp.mtmd_helper_log_set):
            quiet(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(folder / "llm.gguf").encode(), options)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        of_sound = mtmd_cpp.mtmd_context_params_default()
        of_sound.use_gpu, of_sound.n_threads, of_sound.warmup = False, threads, False
        self.hearing = mtmd_cpp.mtmd_init_from_file(str(folder / "mmproj.gguf").encode(), self.model, of_sound)
        assert self.model and self.hearing and mtmd_cpp.mtmd_support_audio(self.hearing)
        of_text = llama_cpp.llama_context_default_params()
        of_text.n_ctx = of_text.n_batch = of_text.n_ubatch = context
        of_text.n_threads = of_text.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, of_text)

    def close(self) -> None:
        """Frees the memory."""
        self.mtmd.mtmd_free(self.hearing)
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)

    def _chunks(self, text: str, wave: np.ndarray) -> int:
        data = np.ascontiguousarray(wave, np.float32)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        sound = self.mtmd.mtmd_bitmap_init_from_audio(len(data), pointer)
        chunks, raw = self.mtmd.mtmd_input_chunks_init(), text.encode()
        told = self.mtmd.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
        sounds = (self.mtmd.mtmd_bitmap_p_ctypes * 1)(sound)
        assert self.mtmd.mtmd_tokenize(self.hearing, chunks, ctypes.byref(told), sounds, 1) == 0
        self.mtmd.mtmd_bitmap_free(sound)
        return chunks

    def marker(self) -> str:
        """What stands for the sound in a text."""
        return self.mtmd.mtmd_default_marker().decode()

    def heard(self, text: str, wave: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
        """The token ids of the texts around the sound, and its audio tokens (N, H)."""
        chunks, ids, audio = self._chunks(text, wave), [], []
        for i in range(self.mtmd.mtmd_input_chunks_size(chunks)):
            chunk = self.mtmd.mtmd_input_chunks_get(chunks, i)
            count = self.mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            if self.mtmd.mtmd_input_chunk_get_type(chunk) == self.mtmd.MTMD_INPUT_CHUNK_TYPE_AUDIO:
                assert self.mtmd.mtmd_encode_chunk(self.hearing, chunk) == 0
                width = self.llama.llama_model_n_embd(self.model)
                found = self.mtmd.mtmd_get_output_embd(self.hearing)
                audio.append(np.ctypeslib.as_array(found, (count, width)).copy())
            else:
                number = ctypes.c_size_t()
                found = self.mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(number))
                ids.append(list(found[: number.value]))
        self.mtmd.mtmd_input_chunks_free(chunks)
        return ids, np.concatenate(audio)

    def written(self, text: str, wave: np.ndarray, cap: int) -> list[int]:
        """The likeliest ids, one after the other, up to the end symbol or `cap`."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        chunks, place = self._chunks(text, wave), self.llama.llama_pos(0)
        evaluate, last = self.mtmd.mtmd_helper_eval_chunks, ctypes.byref(place)
        assert evaluate(self.hearing, self.context, chunks, 0, 0, self.size, True, last) == 0
        self.mtmd.mtmd_input_chunks_free(chunks)
        count, ids = self.llama.llama_vocab_n_tokens(self.vocabulary), []
        while True:
            logits = np.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, -1), (count,))
            ids.append(int(np.argmax(logits)))
            if len(ids) == cap or self.llama.llama_vocab_is_eog(self.vocabulary, ids[-1]):
                return ids
            one = (ctypes.c_int32 * 1)(ids[-1])
            assert self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(one, 1)) == 0
