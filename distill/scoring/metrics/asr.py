"""WER by the reference protocol as an `evaluate` module: `evaluate.load("distill/scoring/metrics/asr.py")`."""

import datasets
import evaluate

from distill.scoring.transcripts import score_asr

_DESCRIPTION = """Corpus-level word error rate with its 95% bootstrap interval over clips, substitutions, deletions,
insertions, and character error rate; Whisper's English normaliser, sacreBLEU 13a tokens, no punctuation."""


class Asr(evaluate.Metric):
    """`compute(predictions=[...], references=[...])`: the figures of `AsrScore.summary`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description="texts, one a clip", features=features
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int]:
        return score_asr(references, predictions).summary()
