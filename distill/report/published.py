"""Systems of the Nota hackathon (January to February 2025) as their teams published them.

The task: SALMONN-3B, smaller and faster at equal accuracy, on LibriSpeech test-other (2,939 clips) and AudioCaps test
(871 clips x 5 references). What stands as the caption score differs by team and version (one prints
CIDEr-D on whitespace tokens as SPIDEr); some rows are of a validation split.
"""

from dataclasses import dataclass

SOURCE = "public repositories of the hackathon's teams"
WHERE = "LibriSpeech test-other and AudioCaps"
SPEECH_CLIPS = 2939


@dataclass(frozen=True)
class Published:
    """A system: caption score, WER, peak memory in GiB (printed as GB), seconds; None where it was not published.

    Some published only the sum of both times, `total_s`.
    """

    name: str
    aac: float | None
    wer: float
    memory_gib: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    total_s: float | None = None
    device: str = "V100"


SYSTEMS = [
    Published("SALMONN-3B, as first published", 0.3678, 0.0642, 9.1761, 0.2068, 0.0445),
    Published("SALMONN-3B, as corrected by three teams", 0.2027, 0.0634, 9.1761, 0.2061, 0.0450),
    Published(
        "Gemma-2-2B GPTQ 4-bit + lighter encoders (captions: best of 0.2674 to 0.3049)",
        0.3049,
        0.0641,
        5.3169,
        0.3540,
        0.1082,
    ),
    Published("Llama-3.2-3B GPTQ 4-bit", 0.2757, 0.0733, 5.3799, 0.4557, 0.1691),
    Published("Whisper-v3-turbo + CED-small + Qwen2.5-0.5B + LoRA", 0.3593, 0.0699, 3.83, 0.1722, 0.038),
    Published("QLoRA + MoE", 0.3549, 0.053, 4.0),
    Published("nlp-12", 0.3304, 0.0770, 4.05, total_s=0.8458),
    Published("cv-20, final (nf4)", 0.3218, 0.0612, 5.96, total_s=0.240, device="H100"),
    Published("Llama-3.2-1B swapped in, no distillation", None, 0.1762, 5.48),
]


def same_speech(scored: dict) -> bool:
    """Whether a test set of speech is of the clips that the published systems were scored on, by a model's block of it.

    (Their caption scores are ours under no name, whatever the clips.)
    """
    corpora = [name.lower() for name in scored.get("by_corpus", {})]
    return scored.get("clips") == SPEECH_CLIPS and bool(corpora) and all("librispeech" in name for name in corpora)
