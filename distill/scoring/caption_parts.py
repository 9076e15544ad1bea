"""The parts of SPICE and FENSE, which no Python package carries: `python -m distill.scoring.caption_parts spice fense`.

SPICE (Anderson et al., 2016) needs Java archives, FENSE (Zhou et al., 2022: sentence similarity, less where a caption
is not fluent) two models. aac-metrics would fetch FENSE's in the middle of scoring; here a metric is computed where its
parts are there already, and scoring never waits for a network. Neither has been run with its parts yet.
"""

import argparse
import os
import urllib.error
from pathlib import Path

import torch

from data.errors import InputError, run_cli
from data.paths import cache_dir

SENTENCES = "sentence-transformers/paraphrase-TinyBERT-L6-v2"
FLUENCY = "echecker_clotho_audiocaps_base.ckpt"


def command(metric: str) -> str:
    """What a person types to bring the parts of a metric."""
    return f"python -m distill.scoring.caption_parts {metric}"


def has_spice() -> bool:
    """Whether all of SPICE's archives are there."""
    from aac_metrics.functional.spice import check_spice_install

    try:
        check_spice_install(str(cache_dir()))
    except OSError:
        return False
    return True


def has_fense() -> bool:
    """Whether both of FENSE's models are there."""
    from huggingface_hub import try_to_load_from_cache

    fluency = Path(os.environ.get("FENSE_DATA") or Path(torch.hub.get_dir()) / "fense_data").expanduser() / FLUENCY
    return isinstance(try_to_load_from_cache(SENTENCES, "modules.json"), str) and fluency.is_file()


def main() -> None:
    """Brings the parts of the named metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metric", nargs="+", choices=("spice", "fense"))
    wanted = parser.parse_args().metric
    from aac_metrics.download import download_metrics

    rest = {"ptb_tokenizer": False, "meteor": False, "bert_score": False}
    for metric, there in {"spice": has_spice, "fense": has_fense}.items():
        if metric in wanted and not there():
            try:
                download_metrics(cache_dir(), spice=metric == "spice", fense=metric == "fense", verbose=1, **rest)
            except (OSError, urllib.error.URLError) as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(
                    f"{metric}: its parts could not be fetched ({reason}); run this again later"
                ) from error
        if metric in wanted:
            print(f"{metric}: its parts are there")


if __name__ == "__main__":
    run_cli(main)
