"""Caption scores as an `evaluate` module: `evaluate.load("distill/scoring/metrics/aac.py")`."""

import datasets
import evaluate

from distill.scoring.captions import caption_metrics

_DESCRIPTION = """CIDEr-D, METEOR, ROUGE-L, BLEU, SPICE, SPIDEr, FENSE and vocabulary by the protocols in use; what
lacks a part is None, and `not_computed` has the command that brings it."""


class Aac(evaluate.Metric):
    """`compute(predictions=[...], references=[[...], ...], protocol="literature")`: the protocol's figures."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description="a caption and its references", features=features
        )

    def _compute(self, predictions: list[str], references: list[list[str]], protocol: str = "literature") -> dict:
        return caption_metrics(references, predictions, protocol)
