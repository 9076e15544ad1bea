"""llama.cpp's own quantiser, which mixes 4 and 6 bits (Q4_K_M)."""

import ctypes
from functools import cache
from pathlib import Path

from data.errors import InputError


def quantise(source: Path, target: Path) -> None:
    """Writes a GGUF file of 16 bits anew as Q4_K_M.

    Its blocks are of 256 weights: rows that are not whole blocks get Q5_0 or Q8_0 instead, in blocks of 32.

    Raises:
        InputError: llama.cpp could not.
    """
    import llama_cpp  # only here: it is not needed for any other format

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    said: list[str] = []
    log = llama_cpp.llama_log_callback(lambda level, text, _: said.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    try:
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    finally:
        llama_cpp.llama_log_set(_silent(), ctypes.c_void_p(0))
    if status:
        last = next((line.strip() for line in reversed(said) if line.strip()), "no reason given")
        raise InputError(f"q4_k_m: llama.cpp's quantiser failed ({last}); take --llm q8_0")


@cache
def _silent():
    """A log that is kept for good: C goes on calling the one that it was given last."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, _: None)
